"""`userspace-proxy run`: the node agent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from userspace_proxy.cli.durations import Duration, Seconds
from userspace_proxy.cli.kube_proxy_flags import CommandForKubeProxyUsers
from userspace_proxy.configuration import (
    DEFAULT_DRAIN_SECONDS,
    DEFAULT_HEALTHZ_BIND_ADDRESS,
    DEFAULT_METRICS_BIND_ADDRESS,
    DEFAULT_METRICS_ENDPOINTS,
    DEFAULT_METRICS_SERVICE_PORTS,
    DEFAULT_ORPHAN_SECONDS,
    DEFAULT_STATE_DIRECTORY,
    DEFAULT_TCP_PEER_TIMEOUT_SECONDS,
    IPTABLES_BACKENDS,
    LIMIT_FLAGS,
    read_configuration,
)
from userspace_proxy.core.local_traffic import DetectLocalMode
from userspace_proxy.core.port_claims import DEFAULT_PROXY_PORT_RANGE

_F = TypeVar("_F", bound=Callable[..., Any])


def limit_options(command: _F) -> _F:
    """An option for each of the limits."""
    for setting, limit in reversed(LIMIT_FLAGS.items()):
        command = click.option(limit.flag, setting, metavar="N", help=limit.help)(command)
    return command


@click.command(cls=CommandForKubeProxyUsers)
@click.option("--kubeconfig", metavar="FILE", help="Watch the API server of this file (default: in-cluster).")
@click.option(
    "--manifests", metavar="DIR", help="Read Services and EndpointSlices from this directory instead."
)
@click.option("--hostname-override", metavar="NAME", help="This node's name (default: the host's name).")
@click.option(
    "--bind-address", metavar="IP", default="0.0.0.0", show_default=True, help="Where listeners bind."
)
@click.option(
    "--nodeport-addresses",
    metavar="CIDRS",
    default="",
    help="Where NodePorts are open: CIDRs, or `primary` (default: on every address of the node).",
)
@click.option(
    "--detect-local-mode",
    type=click.Choice([mode.value for mode in DetectLocalMode]),
    default=DetectLocalMode.CLUSTER_CIDR.value,
    show_default=True,
    help="How the node's own pods are told from other clients.",
)
@click.option("--cluster-cidr", metavar="CIDRS", default="", help="The pods' CIDRs, for mode ClusterCIDR.")
@click.option("--pod-bridge-interface", metavar="NAME", default="", help="For mode BridgeInterface.")
@click.option(
    "--pod-interface-name-prefix", metavar="PREFIX", default="", help="For mode InterfaceNamePrefix."
)
@click.option(
    "--proxy-port-range",
    metavar="FIRST-LAST",
    default="",
    help="Where listeners get their ports from, four at least; FIRST+MORE is understood too, and 0-0 is the "
    f"default ({DEFAULT_PROXY_PORT_RANGE}).",
)
@click.option(
    "--udp-timeout",
    type=Duration(),
    help="How long an idle UDP flow is kept (default: 30s unanswered, 2m answered; for DNS 10s and 1s).",
)
@click.option(
    "--tcp-tw-reuse/--no-tcp-tw-reuse",
    default=True,
    show_default=True,
    help="Set net.ipv4.tcp_tw_reuse, so that ended connections do not use up the ports to an endpoint.",
)
@click.option(
    "--workers", type=int, help="Processes that carry connections (default: one for each core, 8 at most)."
)
@click.option(
    "--iptables-backend",
    type=click.Choice(IPTABLES_BACKENDS),
    default="auto",
    show_default=True,
    help="How rules are installed; auto follows what the host uses.",
)
@click.option(
    "--state-directory",
    metavar="DIR",
    default=DEFAULT_STATE_DIRECTORY,
    show_default=True,
    help="Where the next agent finds the workers of this one.",
)
@click.option(
    "--orphan-seconds",
    type=Seconds(),
    default=DEFAULT_ORPHAN_SECONDS,
    help="How long workers serve on without an agent; 0: they end with theirs (default: 60, or 1m).",
)
@click.option(
    "--drain-seconds",
    type=Seconds(),
    default=DEFAULT_DRAIN_SECONDS,
    help="How long connections of workers that are replaced may go on (default: 300, or 5m).",
)
@click.option(
    "--take-over/--no-take-over",
    "takes_over",
    default=True,
    show_default=True,
    help="Take the place of an agent that runs already, or refuse to start beside it.",
)
@click.option(
    "--removed-endpoints",
    metavar="POLICY",
    default="keep",
    show_default=True,
    help="What becomes of connections to endpoints that were removed: keep, reset, or drain=30s.",
)
@click.option(
    "--tcp-peer-timeout",
    type=Duration(),
    default=DEFAULT_TCP_PEER_TIMEOUT_SECONDS,
    help="When a connection ends whose client or endpoint is silent though asked (default: 2m; 0s: never).",
)
@click.option(
    "--tcp-user-timeout",
    type=Duration(),
    default=0.0,
    help="TCP_USER_TIMEOUT of both sides, which ends peers that do not read, too (default: 0s, never).",
)
@limit_options
@click.option(
    "--healthz-bind-address",
    metavar="IP:PORT",
    default=DEFAULT_HEALTHZ_BIND_ADDRESS,
    show_default=True,
    help="Where /healthz and /livez are served; empty: nowhere.",
)
@click.option(
    "--metrics-bind-address",
    metavar="IP:PORT",
    default=DEFAULT_METRICS_BIND_ADDRESS,
    show_default=True,
    help="Where /metrics is served; empty: nowhere.",
)
@click.option(
    "--metrics-service-ports",
    type=int,
    default=DEFAULT_METRICS_SERVICE_PORTS,
    show_default=True,
    help="How many ports of Services have metrics of their own; the others' are added up.",
)
@click.option(
    "--metrics-endpoints",
    type=int,
    default=DEFAULT_METRICS_ENDPOINTS,
    show_default=True,
    help="How many endpoints of these have metrics of their own; the others' are added up.",
)
@click.option(
    "-v",
    "--v",
    "verbosity",
    type=int,
    default=0,
    help="Log verbosity; from 4 on the agent's debug lines too.",
)
def run(
    kubeconfig: str | None,
    manifests: str | None,
    hostname_override: str | None,
    bind_address: str,
    nodeport_addresses: str,
    detect_local_mode: str,
    cluster_cidr: str,
    pod_bridge_interface: str,
    pod_interface_name_prefix: str,
    proxy_port_range: str,
    udp_timeout: float | None,
    tcp_tw_reuse: bool,
    workers: int | None,
    iptables_backend: str,
    state_directory: str,
    orphan_seconds: float,
    drain_seconds: float,
    takes_over: bool,
    removed_endpoints: str,
    tcp_peer_timeout: float,
    tcp_user_timeout: float,
    healthz_bind_address: str,
    metrics_bind_address: str,
    metrics_service_ports: int,
    metrics_endpoints: int,
    verbosity: int,
    **limits: str | None,
) -> None:
    """Serve a cluster's Services on this node.

    Runs until SIGTERM or Ctrl-C. The rules stay for the next run, and so, for --orphan-seconds, do the
    workers with their connections.
    """
    configuration = read_configuration(
        manifests=manifests,
        kubeconfig=kubeconfig,
        hostname_override=hostname_override,
        bind_address=bind_address,
        nodeport_addresses=nodeport_addresses,
        detect_local_mode=detect_local_mode,
        cluster_cidr=cluster_cidr,
        pod_bridge_interface=pod_bridge_interface,
        pod_interface_name_prefix=pod_interface_name_prefix,
        proxy_port_range=proxy_port_range,
        udp_timeout_seconds=udp_timeout,
        tcp_tw_reuse=tcp_tw_reuse,
        workers=workers,
        iptables_backend=iptables_backend,
        state_directory=state_directory,
        orphan_seconds=orphan_seconds,
        drain_seconds=drain_seconds,
        takes_over=takes_over,
        removed_endpoints=removed_endpoints,
        tcp_peer_timeout_seconds=tcp_peer_timeout,
        tcp_user_timeout_seconds=tcp_user_timeout,
        healthz_bind_address=healthz_bind_address,
        metrics_bind_address=metrics_bind_address,
        metrics_service_ports=metrics_service_ports,
        metrics_endpoints=metrics_endpoints,
        limits=limits,
    )
    # Imported here: `--help` and a wrong flag need not wait for a second of imports.
    import uvloop

    from userspace_proxy.agent.agent import run_agent
    from userspace_proxy.observability.logs import configure_logging

    configure_logging(verbosity)
    uvloop.run(run_agent(configuration))
