"""How an agent is to run, as one checked value."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple

from userspace_proxy.core.ip_addresses import read_network, why_not_dialled
from userspace_proxy.core.local_traffic import PRIMARY, DetectLocal, DetectLocalMode
from userspace_proxy.core.object_names import is_dns_subdomain
from userspace_proxy.core.port_claims import DEFAULT_PROXY_PORT_RANGE, PortRange
from userspace_proxy.core.service_annotations import (
    LIMIT,
    MAX_WORKERS,
    REMOVED_ENDPOINTS,
    ServiceSettings,
    read_limit,
    read_removed_endpoints,
)
from userspace_proxy.core.service_port import IPFamily
from userspace_proxy.errors import UsageError

IPTABLES_BACKENDS: Final = ("auto", "nft", "legacy", "python-iptables")


class LimitFlag(NamedTuple):
    """How a limit is said on the command line."""

    flag: str
    help: str


_SHARED: Final = "(default: what is free, shared fairly)"
_OF_A_CLIENT: Final = (
    "Those of one client: an IPv4 address, an IPv6 /64 (default: a quarter of what a worker has room for; or "
    "none)."
)
LIMIT_FLAGS: Final = {
    "max_connections": LimitFlag(
        "--max-connections-per-service", f"TCP connections to one port of a Service {_SHARED}."
    ),
    "max_connections_per_client": LimitFlag("--max-connections-per-client", _OF_A_CLIENT),
    "max_udp_flows": LimitFlag(
        "--max-udp-flows-per-service", f"UDP flows to one port of a Service {_SHARED}."
    ),
    "max_udp_flows_per_client": LimitFlag("--max-udp-flows-per-client", _OF_A_CLIENT),
}
"""For each of the `ServiceSettings` that are limits."""
DEFAULT_STATE_DIRECTORY: Final = "/run/userspace-proxy"
DEFAULT_ORPHAN_SECONDS: Final = 60.0
DEFAULT_DRAIN_SECONDS: Final = 300.0
DEFAULT_TCP_PEER_TIMEOUT_SECONDS: Final = 120.0
DEFAULT_HEALTHZ_BIND_ADDRESS: Final = "0.0.0.0:10256"
DEFAULT_METRICS_BIND_ADDRESS: Final = "127.0.0.1:10249"
DEFAULT_METRICS_SERVICE_PORTS: Final = 1000
DEFAULT_METRICS_ENDPOINTS: Final = 5000
_MOST_WITH_METRICS: Final = 100_000
_MIN_TCP_TIMEOUT_SECONDS: Final = 2
_MAX_TCP_TIMEOUT_SECONDS: Final = 43200
_MAX_STATE_DIRECTORY: Final = 70
"""Bytes: the names of sockets in it must fit into 108; unix(7)."""
_INTERFACE: Final = re.compile(r"[a-zA-Z0-9_.@-]{1,15}")
_INTERFACE_PREFIX: Final = re.compile(r"[a-zA-Z0-9_.@-]{1,14}")
_MOST_DEFAULT_WORKERS: Final = 8
_MIN_PROXY_PORTS: Final = 4


@dataclass(frozen=True, slots=True)
class Configuration:
    """What `run` was asked for. Exactly one source: `manifests`, `kubeconfig`, or neither (in-cluster).

    `bind_address` is an address of one family, or None: then listeners are bound to all addresses, as those
    of the other family always are. `nodeport_addresses` are CIDRs, or `primary`; none: all addresses.
    `service_settings` are those of Services that do not say otherwise. `healthz_bind_address` and
    `metrics_bind_address` are an IP address and a port each; None: not served. So many Service ports, and
    endpoints of these, have metrics of their own.
    """

    node_name: str
    manifests: Path | None
    kubeconfig: Path | None
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
    metrics_service_ports: int
    metrics_endpoints: int

    def bind_address_of(self, family: IPFamily) -> str | None:
        """The address that listeners of a family are bound to; None: all of them."""
        if self.bind_address is None or (":" in self.bind_address) is not (family is IPFamily.IPV6):
            return None
        return self.bind_address


def default_workers() -> int:
    """One worker for each core that this process may use, as far as that is worth their memory."""
    return min(len(os.sched_getaffinity(0)), _MOST_DEFAULT_WORKERS)


def read_configuration(
    *,
    manifests: str | None = None,
    kubeconfig: str | None = None,
    hostname_override: str | None = None,
    bind_address: str = "0.0.0.0",
    proxy_port_range: str = "",
    udp_timeout_seconds: float | None = None,
    tcp_tw_reuse: bool = True,
    workers: int | None = None,
    iptables_backend: str = "auto",
    nodeport_addresses: str = "",
    detect_local_mode: str = DetectLocalMode.CLUSTER_CIDR.value,
    cluster_cidr: str = "",
    pod_bridge_interface: str = "",
    pod_interface_name_prefix: str = "",
    state_directory: str = DEFAULT_STATE_DIRECTORY,
    orphan_seconds: float = DEFAULT_ORPHAN_SECONDS,
    drain_seconds: float = DEFAULT_DRAIN_SECONDS,
    takes_over: bool = True,
    removed_endpoints: str = "keep",
    tcp_peer_timeout_seconds: float = DEFAULT_TCP_PEER_TIMEOUT_SECONDS,
    tcp_user_timeout_seconds: float = 0.0,
    healthz_bind_address: str = DEFAULT_HEALTHZ_BIND_ADDRESS,
    metrics_bind_address: str = DEFAULT_METRICS_BIND_ADDRESS,
    metrics_service_ports: int = DEFAULT_METRICS_SERVICE_PORTS,
    metrics_endpoints: int = DEFAULT_METRICS_ENDPOINTS,
    limits: Mapping[str, str | None] | None = None,
) -> Configuration:
    """Check the flags' values; `limits` are those of LIMIT_FLAGS. Raises `UsageError` that names every one
    that is wrong.
    """
    wrong: list[str] = []

    def check(flag: str, problem: str | None) -> None:
        if problem is not None:
            wrong.append(f"{flag}: {problem}")

    node_name = (hostname_override or socket.gethostname()).strip().lower()
    if not is_dns_subdomain(node_name):
        check("--hostname-override", f"{node_name!r} is not a name that a node can have")
    if manifests is not None and kubeconfig is not None:
        check("--manifests", "cannot be used together with --kubeconfig; give one source")
    if manifests is not None and not Path(manifests).is_dir():
        check("--manifests", f"{manifests} is not a directory")
    check("--kubeconfig", _why_unreadable(kubeconfig))
    address, problem = _read_bind_address(bind_address)
    check("--bind-address", problem)
    ports, problem = _read_port_range(proxy_port_range)
    check("--proxy-port-range", problem)
    if udp_timeout_seconds is not None and not 0 < udp_timeout_seconds <= 86400:
        check("--udp-timeout", f"{udp_timeout_seconds:g} s is not more than 0 s and at most 86400 s")
    if workers is not None and not 1 <= workers <= MAX_WORKERS:
        check("--workers", f"{workers} is not within 1-{MAX_WORKERS}")
    check("--state-directory", why_no_state_directory(state_directory))
    for flag, seconds in (("--orphan-seconds", orphan_seconds), ("--drain-seconds", drain_seconds)):
        if not 0 <= seconds <= 86400:
            check(flag, f"{seconds:g} s is not within 0-86400 s")
    for flag, seconds in (
        ("--tcp-peer-timeout", tcp_peer_timeout_seconds),
        ("--tcp-user-timeout", tcp_user_timeout_seconds),
    ):
        if seconds and not _MIN_TCP_TIMEOUT_SECONDS <= seconds <= _MAX_TCP_TIMEOUT_SECONDS:
            check(flag, f"{seconds:g} s is neither 0 s (never) nor within 2 s and 12 h")
    service_settings = ServiceSettings()
    try:
        service_settings = ServiceSettings(read_removed_endpoints(removed_endpoints))
    except ValueError:
        check("--removed-endpoints", f"{removed_endpoints!r} is not {REMOVED_ENDPOINTS}")
    for setting, text in (limits or {}).items():
        if text is None:
            continue
        try:
            service_settings = replace(service_settings, **{setting: read_limit(text)})
        except ValueError:
            check(LIMIT_FLAGS[setting].flag, f"{text!r} is not {LIMIT}")
    if iptables_backend not in IPTABLES_BACKENDS:
        check("--iptables-backend", f"{iptables_backend!r} is none of {', '.join(IPTABLES_BACKENDS)}")
    nodeports = _listed(nodeport_addresses)
    if nodeports != (PRIMARY,):
        check("--nodeport-addresses", _why_no_cidrs(nodeports))
    cluster_cidrs = _listed(cluster_cidr)
    check("--cluster-cidr", _why_no_cidrs(cluster_cidrs))
    modes = {mode.value: mode for mode in DetectLocalMode}
    mode = modes.get(detect_local_mode)
    if mode is None:
        check("--detect-local-mode", f"{detect_local_mode!r} is none of {', '.join(modes)}")
    bridge, prefix = pod_bridge_interface, pod_interface_name_prefix
    if bridge and not _INTERFACE.fullmatch(bridge):
        check("--pod-bridge-interface", f"{bridge!r} is not a name that an interface can have")
    if prefix and not _INTERFACE_PREFIX.fullmatch(prefix):
        reason = f"{prefix!r} is not what an interface's name can begin with"
        check("--pod-interface-name-prefix", reason)
    for needing, flag, name in (
        (DetectLocalMode.BRIDGE_INTERFACE, "--pod-bridge-interface", bridge),
        (DetectLocalMode.INTERFACE_NAME_PREFIX, "--pod-interface-name-prefix", prefix),
    ):
        if mode is needing and not name:
            check(flag, f"is needed with --detect-local-mode {mode.value}")
    served: dict[str, tuple[str, int] | None] = {}
    for flag, text, default in (
        ("--healthz-bind-address", healthz_bind_address, DEFAULT_HEALTHZ_BIND_ADDRESS),
        ("--metrics-bind-address", metrics_bind_address, DEFAULT_METRICS_BIND_ADDRESS),
    ):
        served[flag], problem = _read_served_address(text, default, ports)
        check(flag, problem)
    for flag, count in (
        ("--metrics-service-ports", metrics_service_ports),
        ("--metrics-endpoints", metrics_endpoints),
    ):
        if not 0 <= count <= _MOST_WITH_METRICS:
            check(flag, f"{count} is not within 0-{_MOST_WITH_METRICS}")
    if wrong:
        raise UsageError("; ".join(wrong))
    return Configuration(
        node_name=node_name,
        manifests=Path(manifests) if manifests is not None else None,
        kubeconfig=Path(kubeconfig) if kubeconfig is not None else None,
        bind_address=address,
        nodeport_addresses=nodeports,
        detect_local=DetectLocal(
            mode or DetectLocalMode.CLUSTER_CIDR,
            cluster_cidrs,
            bridge,
            prefix,
        ),
        proxy_port_range=ports,
        udp_timeout_seconds=udp_timeout_seconds,
        tcp_tw_reuse=tcp_tw_reuse,
        workers=workers if workers is not None else default_workers(),
        iptables_backend=iptables_backend,
        state_directory=Path(state_directory),
        orphan_seconds=orphan_seconds,
        drain_seconds=drain_seconds,
        takes_over=takes_over,
        service_settings=service_settings,
        tcp_peer_timeout_seconds=tcp_peer_timeout_seconds,
        tcp_user_timeout_seconds=tcp_user_timeout_seconds,
        healthz_bind_address=served["--healthz-bind-address"],
        metrics_bind_address=served["--metrics-bind-address"],
        metrics_service_ports=metrics_service_ports,
        metrics_endpoints=metrics_endpoints,
    )


def why_no_state_directory(text: str) -> str | None:
    """Why workers cannot have their sockets there, None if they can."""
    if not Path(text).is_absolute():
        return f"{text!r} is not an absolute path"
    if len(os.fsencode(text)) > _MAX_STATE_DIRECTORY:
        return f"{text!r} has more than {_MAX_STATE_DIRECTORY} bytes"
    return None


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _why_no_cidrs(texts: Iterable[str]) -> str | None:
    for text in texts:
        try:
            read_network(text)
        except ValueError:
            return f"{text!r} is not a CIDR such as 10.244.0.0/16"
    return None


def _why_unreadable(path: str | None) -> str | None:
    if path is None:
        return None
    try:
        with Path(path).open("rb"):
            return None
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"


def _read_bind_address(text: str) -> tuple[str | None, str | None]:
    """The specific address, or None for all; and what is wrong."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None, f"{text!r} is not an IP address"
    if address.is_loopback:
        return None, f"{text} is a loopback address, where no pod could reach the proxy"
    if address.is_unspecified:
        return None, None
    if reason := why_not_dialled(address):
        return None, f"{text} {reason}"
    return str(address), None


def _read_served_address(
    text: str, default: str, proxy_ports: PortRange
) -> tuple[tuple[str, int] | None, str | None]:
    """IP address and port, as kube-proxy reads them: without a port it is the default's, empty is none."""
    if not text:
        return None, None
    host, port = text, default.rpartition(":")[2]
    if text.count(":") == 1 or text.startswith("["):
        host, _, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None, f"{text!r} is not an IP address and port such as {default}"
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        return None, f"{port!r} is not a port (1-65535)"
    if int(port) in proxy_ports and text != default:
        return None, f"{port} is within --proxy-port-range, where only redirected traffic is let in"
    return (str(address), int(port)), None


def _read_port_range(text: str) -> tuple[PortRange, str | None]:
    """`first-last`, `first+size` or one port, as kube-proxy's flag has it; empty is the default."""
    if not text:
        return DEFAULT_PROXY_PORT_RANGE, None
    try:
        if "+" in text:
            first, size = (int(part) for part in text.split("+"))
            last = first + size
        elif "-" in text:
            first, last = (int(part) for part in text.split("-"))
        else:
            first = last = int(text)
    except ValueError:
        return DEFAULT_PROXY_PORT_RANGE, f"{text!r} is not a range such as 11000-29999"
    if (first, last) == (0, 0):
        return DEFAULT_PROXY_PORT_RANGE, None
    if not 1 <= first <= last <= 65535:
        return DEFAULT_PROXY_PORT_RANGE, f"{text!r} is not a range within 1-65535"
    if last - first < _MIN_PROXY_PORTS - 1:
        return DEFAULT_PROXY_PORT_RANGE, f"{text!r} has fewer than {_MIN_PROXY_PORTS} ports"
    return PortRange(first, last), None
