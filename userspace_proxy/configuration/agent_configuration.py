"""How an agent is to run, as one checked value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from userspace_proxy.configuration.options import LIMITS
from userspace_proxy.configuration.precedence import Words
from userspace_proxy.core.local_traffic import DetectLocal, DetectLocalMode
from userspace_proxy.core.port_claims import PortRange
from userspace_proxy.core.service_annotations import ServiceSettings
from userspace_proxy.core.service_port import IPFamily


@dataclass(frozen=True, slots=True)
class ConntrackSettings:
    """What becomes of the node's conntrack sysctls; 0, or False: they are left as they are."""

    max_per_core: int
    min: int
    tcp_established_seconds: float
    tcp_close_wait_seconds: float
    tcp_be_liberal: bool
    udp_seconds: float
    udp_stream_seconds: float


@dataclass(frozen=True, slots=True)
class Configuration:
    """What `run` was asked for. Exactly one source: `manifests`, `kubeconfig`, or neither (in-cluster);
    `master` is the API server's URL if that is said apart.

    `bind_address` is an address of one family, or None: then listeners are bound to all addresses, as those
    of the other family always are. `nodeport_addresses` are CIDRs, or `primary`; none: all addresses.
    `service_settings` are those of Services that do not say otherwise. `healthz_bind_address` and
    `metrics_bind_address` are an IP address and a port each; None: not served. So many Service ports, and
    endpoints of these, have metrics of their own.
    """

    node_name: str
    manifests: Path | None
    kubeconfig: Path | None
    master: str | None
    bind_address: str | None
    nodeport_addresses: tuple[str, ...]
    detect_local: DetectLocal
    proxy_port_range: PortRange
    udp_timeout_seconds: float | None
    tcp_tw_reuse: bool
    workers: int
    iptables_backend: str
    state_directory: Path
    orphan_seconds: float
    drain_seconds: float
    takes_over: bool
    service_settings: ServiceSettings
    tcp_peer_timeout_seconds: float
    tcp_user_timeout_seconds: float
    healthz_bind_address: tuple[str, int] | None
    metrics_bind_address: tuple[str, int] | None
    events: bool
    metrics_service_ports: int
    metrics_endpoints: int
    iptables_sync_seconds: float
    iptables_min_sync_seconds: float
    config_sync_seconds: float
    kube_api_qps: float
    kube_api_burst: int
    oom_score_adj: int
    conntrack: ConntrackSettings
    logging_format: str
    verbosity: int

    def bind_address_of(self, family: IPFamily) -> str | None:
        """The address that listeners of a family are bound to; None: all of them."""
        if self.bind_address is None or (":" in self.bind_address) is not (family is IPFamily.IPV6):
            return None
        return self.bind_address


def configuration_of(
    words: Words, problems: list[str], *, host_name: str, default_workers: int
) -> Configuration:
    """The configuration that `words` say; whatever is wrong with them is added to `problems`.

    The value is of use only if nothing was added. `host_name` is the node's unless another is said.
    """
    values = words.read(problems)
    _check_together(values, words, problems)
    return Configuration(
        node_name=values["hostname_override"] or host_name,
        manifests=_path(values["manifests"]),
        kubeconfig=_path(values["kubeconfig"]),
        master=values["master"],
        bind_address=values["bind_address"],
        nodeport_addresses=values["nodeport_addresses"],
        detect_local=DetectLocal(
            DetectLocalMode(values["detect_local_mode"]),
            values["cluster_cidr"],
            values["pod_bridge_interface"],
            values["pod_interface_name_prefix"],
        ),
        proxy_port_range=values["proxy_port_range"],
        udp_timeout_seconds=values["udp_timeout"],
        tcp_tw_reuse=values["tcp_tw_reuse"],
        workers=values["workers"] or default_workers,
        iptables_backend=values["iptables_backend"],
        state_directory=Path(values["state_directory"]),
        orphan_seconds=values["orphan_seconds"],
        drain_seconds=values["drain_seconds"],
        takes_over=values["takes_over"],
        service_settings=ServiceSettings(
            values["removed_endpoints"], **{limit: values[limit] for limit in LIMITS}
        ),
        tcp_peer_timeout_seconds=values["tcp_peer_timeout"],
        tcp_user_timeout_seconds=values["tcp_user_timeout"],
        healthz_bind_address=values["healthz_bind_address"],
        metrics_bind_address=values["metrics_bind_address"],
        events=values["events"],
        metrics_service_ports=values["metrics_service_ports"],
        metrics_endpoints=values["metrics_endpoints"],
        iptables_sync_seconds=values["iptables_sync_period"],
        iptables_min_sync_seconds=values["iptables_min_sync_period"],
        config_sync_seconds=values["config_sync_period"],
        kube_api_qps=values["kube_api_qps"],
        kube_api_burst=values["kube_api_burst"],
        oom_score_adj=values["oom_score_adj"],
        conntrack=ConntrackSettings(
            values["conntrack_max_per_core"],
            values["conntrack_min"],
            values["conntrack_tcp_timeout_established"],
            values["conntrack_tcp_timeout_close_wait"],
            values["conntrack_tcp_be_liberal"],
            values["conntrack_udp_timeout"],
            values["conntrack_udp_timeout_stream"],
        ),
        logging_format=values["logging_format"],
        verbosity=values["verbosity"],
    )


def _check_together(values: Mapping[str, Any], words: Words, problems: list[str]) -> None:
    """What is right by itself and wrong together."""
    if values["manifests"] is not None:
        problems += [
            f"{words.where('manifests')}: cannot be used together with {words.where(other)}; give one source"
            for other in ("kubeconfig", "master")
            if values[other] is not None
        ]
    for mode, needed in (
        (DetectLocalMode.BRIDGE_INTERFACE, "pod_bridge_interface"),
        (DetectLocalMode.INTERFACE_NAME_PREFIX, "pod_interface_name_prefix"),
    ):
        if values["detect_local_mode"] == mode.value and not values[needed] and needed not in words.said:
            problems.append(
                f"{words.where(needed)}: is needed with {words.where('detect_local_mode')} {mode.value}"
            )
    if values["iptables_min_sync_period"] > values["iptables_sync_period"]:
        problems.append(
            f"{words.where('iptables_min_sync_period')}: is longer than {words.where('iptables_sync_period')}"
        )
    for name in ("healthz_bind_address", "metrics_bind_address"):
        served = values[name]
        if name in words.said and served is not None and served[1] in values["proxy_port_range"]:
            problems.append(
                f"{words.where(name)}: {served[1]} is within {words.where('proxy_port_range')}, where only "
                "redirected traffic is let in"
            )


def _path(text: str | None) -> Path | None:
    return Path(text) if text is not None else None
