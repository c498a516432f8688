"""Every option, in one table: an option more is an entry more.

`OPTIONS` are those that do something. From an entry come the flag of `run`, the environment variable, the
field of the file, its line in `--write-config-to` and in docs/configuration.md. `read_value` makes a value of
a text, whoever said it. What kube-proxy has beside them, and what becomes of it here, is in
`accepted_options`.

Names, fields and defaults: the kubeproxy.config.k8s.io/v1alpha1 reference and kube-proxy(8)'s flags; the
section `userspaceProxy` of the file is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from userspace_proxy.configuration.values import (
    duration,
    integer,
    one_of,
    optional,
    read_api_server,
    read_bind_address,
    read_boolean,
    read_cidrs,
    read_hostname,
    read_interface,
    read_interface_prefix,
    read_nodeport_addresses,
    read_port_range,
    read_proxy_mode,
    read_qps,
    read_state_directory,
    read_text,
    reasoned,
    seconds,
    served_address,
)
from userspace_proxy.core.local_traffic import DetectLocalMode
from userspace_proxy.core.port_claims import DEFAULT_PROXY_PORT_RANGE
from userspace_proxy.core.service_annotations import (
    LIMIT,
    MAX_WORKERS,
    REMOVED_ENDPOINTS,
    read_limit,
    read_removed_endpoints,
)

LOGGING_FORMATS: Final = ("text", "json")
IPTABLES_BACKENDS: Final = ("auto", "nft", "legacy", "python-iptables")
DEFAULT_STATE_DIRECTORY: Final = "/run/userspace-proxy"
VARIABLE_PREFIX: Final = "USERSPACE_PROXY_"
OUR_SECTION: Final = "userspaceProxy"
_DAY_SECONDS: Final = 86400
_MOST_WITH_METRICS: Final = 100_000
_TCP_TIMEOUT: Final = duration(2, 43200, "neither 0s (never) nor within 2s and 12h", or_zero=True)
_SYSCTL_SECONDS: Final = duration(1, 2**31 - 1, "neither 0s nor 1s at least", or_zero=True)
_MOST_ENTRIES: Final = 2**31 - 1
_LIMIT: Final = optional(reasoned(read_limit, LIMIT))


class Kind(Enum):
    """What a field is in the file; the values say it in words."""

    STRING = "a string"
    STRINGS = "a list of strings"
    INTEGER = "an integer"
    NUMBER = "a number"
    BOOLEAN = "true or false"
    DURATION = "a duration such as 30s"
    SECONDS = "a number of seconds, or a duration such as 30s"
    LIMIT = "a number, or none"


class Precedence(Enum):
    """Whose word counts, the most important first."""

    KUBE_PROXY = "file alone, where there is one; else flag, environment"
    FLAG = "flag, environment, file"
    OURS = "file, flag, environment"


class Takes(Enum):
    """When a change in the file takes effect."""

    AT_ONCE = "at once"
    AT_RESTART = "at the next start"


@dataclass(frozen=True, slots=True)
class Option:
    """One option.

    `name` is its key in values; `field` its path in the file, "" if it has none; `default` the text that
    counts where nothing is said, and `shown_default` what people are told where that is "".
    `zero_is_default`: in the file zero says no more than null, as with most of kube-proxy's fields.
    `empty_counts`: an empty flag is a word, too. `in_kube_proxy` is what it means there, "" if the same.
    """

    name: str
    field: str
    kind: Kind
    default: str
    read: Callable[[str], Any]
    help: str
    flag: str = ""
    metavar: str = ""
    shown_default: str = ""
    in_kube_proxy: str = ""
    zero_is_default: bool = True
    empty_counts: bool = False
    precedence: Precedence = Precedence.KUBE_PROXY
    takes: Takes = Takes.AT_RESTART

    @property
    def long_flag(self) -> str:
        return self.flag or f"--{self.name.replace('_', '-')}"

    @property
    def variable(self) -> str:
        """The environment variable."""
        return VARIABLE_PREFIX + self.long_flag[2:].replace("-", "_").upper()

    @property
    def is_ours(self) -> bool:
        return self.precedence is Precedence.OURS


def _ours(name: str, kind: Kind, default: str, read: Callable[[str], Any], help: str, **more: Any) -> Option:
    """An option that kube-proxy has not; its field is called as its flag is."""
    first, *others = (more.get("flag", "") or f"--{name.replace('_', '-')}")[2:].split("-")
    field = f"{OUR_SECTION}.{first}{''.join(map(str.capitalize, others))}"
    more = {"zero_is_default": False, "precedence": Precedence.OURS, **more}
    return Option(name, field, kind, default, read, help, **more)


_KUBE_PROXYS: Final = (
    Option(
        "proxy_mode",
        "mode",
        Kind.STRING,
        "userspace",
        read_proxy_mode,
        "The one there is.",
        metavar="userspace",
        in_kube_proxy="iptables, ipvs or nftables; until 1.25 also userspace",
    ),
    Option(
        "kubeconfig",
        "clientConnection.kubeconfig",
        Kind.STRING,
        "",
        optional(read_text),
        "Watch the API server of this file.",
        metavar="FILE",
        shown_default="in-cluster",
    ),
    Option(
        "master",
        "",
        Kind.STRING,
        "",
        optional(read_api_server),
        "The API server's URL, in place of what the kubeconfig or the pod's environment say.",
        metavar="URL",
        precedence=Precedence.FLAG,
        in_kube_proxy="the same; without a kubeconfig it sends no credentials, and we those of the pod",
    ),
    Option(
        "hostname_override",
        "hostnameOverride",
        Kind.STRING,
        "",
        read_hostname,
        "This node's name.",
        metavar="NAME",
        shown_default="the host's name",
        precedence=Precedence.FLAG,
    ),
    Option(
        "bind_address",
        "bindAddress",
        Kind.STRING,
        "0.0.0.0",
        read_bind_address,
        "Where listeners bind: all addresses, or one of the node's; loopback is an error.",
        metavar="IP",
        in_kube_proxy="what it takes for the node's address",
    ),
    Option(
        "nodeport_addresses",
        "nodePortAddresses",
        Kind.STRINGS,
        "",
        read_nodeport_addresses,
        "Where NodePorts are open: CIDRs, or `primary` for those that the Node object states first.",
        metavar="CIDRS",
        shown_default="every address of the node",
        takes=Takes.AT_ONCE,
    ),
    Option(
        "detect_local_mode",
        "detectLocalMode",
        Kind.STRING,
        DetectLocalMode.CLUSTER_CIDR.value,
        one_of(*(mode.value for mode in DetectLocalMode)),
        "How the node's own pods are told from other clients; under externalTrafficPolicy Local they may use "
        "every endpoint.",
        metavar="|".join(mode.value for mode in DetectLocalMode),
        takes=Takes.AT_ONCE,
    ),
    Option(
        "cluster_cidr",
        "clusterCIDR",
        Kind.STRING,
        "",
        read_cidrs,
        "The pods' CIDRs, for ClusterCIDR; without, pods count as outside.",
        metavar="CIDRS",
        shown_default="none",
        takes=Takes.AT_ONCE,
    ),
    Option(
        "pod_bridge_interface",
        "detectLocal.bridgeInterface",
        Kind.STRING,
        "",
        read_interface,
        "For BridgeInterface.",
        metavar="NAME",
        shown_default="none",
        takes=Takes.AT_ONCE,
    ),
    Option(
        "pod_interface_name_prefix",
        "detectLocal.interfaceNamePrefix",
        Kind.STRING,
        "",
        read_interface_prefix,
        "For InterfaceNamePrefix.",
        metavar="PREFIX",
        shown_default="none",
        takes=Takes.AT_ONCE,
    ),
    Option(
        "proxy_port_range",
        "portRange",
        Kind.STRING,
        "",
        read_port_range,
        "Where listeners get their ports from, four at least; FIRST+MORE is understood too, and 0-0 is the "
        "default.",
        metavar="FIRST-LAST",
        shown_default=str(DEFAULT_PROXY_PORT_RANGE),
        in_kube_proxy="the same in userspace mode, whose default was any free port; else without effect",
    ),
    Option(
        "udp_timeout",
        "udpIdleTimeout",
        Kind.DURATION,
        "",
        optional(
            duration(1e-9, _DAY_SECONDS, "not more than 0 s and at most 86400 s"),
        ),
        "How long an idle UDP flow is kept.",
        metavar="DURATION",
        shown_default="30s unanswered, 2m answered; for DNS 10s and 1s",
        in_kube_proxy="the same in userspace mode, 250ms by default; gone since 1.26",
    ),
    Option(
        "iptables_sync_period",
        "iptables.syncPeriod",
        Kind.DURATION,
        "30s",
        duration(1, _DAY_SECONDS, "not within 1s and 24h"),
        "How often all rules are looked at, though nobody is seen to touch them.",
        metavar="DURATION",
        takes=Takes.AT_ONCE,
    ),
    Option(
        "iptables_min_sync_period",
        "iptables.minSyncPeriod",
        Kind.DURATION,
        "1s",
        duration(0, 3600, "not within 0s and 1h"),
        "How long rules rest between two changes at most: ten times as long as the first took, up to this.",
        metavar="DURATION",
        in_kube_proxy="how long they rest in any case",
        takes=Takes.AT_ONCE,
    ),
    Option(
        "config_sync_period",
        "configSyncPeriod",
        Kind.DURATION,
        "15m",
        duration(1, 30 * _DAY_SECONDS, "not within 1s and 720h"),
        "How often all Services are planned anew from what is known, though nothing has changed.",
        metavar="DURATION",
        takes=Takes.AT_ONCE,
    ),
    Option(
        "kube_api_qps",
        "clientConnection.qps",
        Kind.NUMBER,
        "5",
        read_qps,
        "Requests to the API server in a second, in the long run; below 0: no limit. The later pages of a "
        "list do not count.",
        metavar="N",
    ),
    Option(
        "kube_api_burst",
        "clientConnection.burst",
        Kind.INTEGER,
        "10",
        integer(1, 1_000_000),
        "Requests to the API server that may be made at once.",
        metavar="N",
    ),
    Option(
        "oom_score_adj",
        "oomScoreAdj",
        Kind.INTEGER,
        "-999",
        integer(-1000, 1000),
        "How soon the kernel ends the agent and its workers when memory is short, the lower the later; where "
        "it cannot be set, the log says so.",
        metavar="N",
        zero_is_default=False,
    ),
    Option(
        "conntrack_max_per_core",
        "conntrack.maxPerCore",
        Kind.INTEGER,
        "32768",
        integer(0, _MOST_ENTRIES),
        "Raise net.netfilter.nf_conntrack_max to this for each core; 0: leave it, and do not mind "
        "--conntrack-min.",
        metavar="N",
        zero_is_default=False,
        takes=Takes.AT_ONCE,
    ),
    Option(
        "conntrack_min",
        "conntrack.min",
        Kind.INTEGER,
        "131072",
        integer(0, _MOST_ENTRIES),
        "What it is raised to in any case.",
        metavar="N",
        zero_is_default=False,
        takes=Takes.AT_ONCE,
    ),
    Option(
        "conntrack_tcp_timeout_established",
        "conntrack.tcpEstablishedTimeout",
        Kind.DURATION,
        "24h",
        _SYSCTL_SECONDS,
        "Set net.netfilter.nf_conntrack_tcp_timeout_established; 0s: leave it.",
        metavar="DURATION",
        zero_is_default=False,
        takes=Takes.AT_ONCE,
    ),
    Option(
        "conntrack_tcp_timeout_close_wait",
        "conntrack.tcpCloseWaitTimeout",
        Kind.DURATION,
        "1h",
        _SYSCTL_SECONDS,
        "Set net.netfilter.nf_conntrack_tcp_timeout_close_wait; 0s: leave it.",
        metavar="DURATION",
        zero_is_default=False,
        takes=Takes.AT_ONCE,
    ),
    Option(
        "conntrack_tcp_be_liberal",
        "conntrack.tcpBeLiberal",
        Kind.BOOLEAN,
        "false",
        read_boolean,
        "Set net.netfilter.nf_conntrack_tcp_be_liberal; false: leave it.",
        takes=Takes.AT_ONCE,
    ),
    Option(
        "conntrack_udp_timeout",
        "conntrack.udpTimeout",
        Kind.DURATION,
        "0s",
        _SYSCTL_SECONDS,
        "Set net.netfilter.nf_conntrack_udp_timeout; 0s: leave it.",
        metavar="DURATION",
        takes=Takes.AT_ONCE,
    ),
    Option(
        "conntrack_udp_timeout_stream",
        "conntrack.udpStreamTimeout",
        Kind.DURATION,
        "0s",
        _SYSCTL_SECONDS,
        "Set net.netfilter.nf_conntrack_udp_timeout_stream; 0s: leave it.",
        metavar="DURATION",
        takes=Takes.AT_ONCE,
    ),
    Option(
        "healthz_bind_address",
        "healthzBindAddress",
        Kind.STRING,
        "0.0.0.0:10256",
        served_address(10256),
        "Where /healthz and /livez are served; an empty flag: nowhere.",
        metavar="IP:PORT",
        empty_counts=True,
    ),
    Option(
        "metrics_bind_address",
        "metricsBindAddress",
        Kind.STRING,
        "127.0.0.1:10249",
        served_address(10249),
        "Where /metrics is served; an empty flag: nowhere.",
        metavar="IP:PORT",
        empty_counts=True,
    ),
)

_OURS: Final = (
    _ours(
        "manifests",
        Kind.STRING,
        "",
        optional(read_text),
        "Read Services and EndpointSlices from this directory instead of an API server.",
        metavar="DIR",
        shown_default="none",
    ),
    _ours(
        "tcp_tw_reuse",
        Kind.BOOLEAN,
        "true",
        read_boolean,
        "Set net.ipv4.tcp_tw_reuse, so that ended connections do not use up the ports to an endpoint.",
    ),
    _ours(
        "workers",
        Kind.INTEGER,
        "",
        optional(integer(1, MAX_WORKERS)),
        "Processes that carry connections.",
        metavar="N",
        shown_default="one for each core, 8 at most",
    ),
    _ours(
        "iptables_backend",
        Kind.STRING,
        "auto",
        one_of(*IPTABLES_BACKENDS),
        "How rules are installed; auto follows what the host uses.",
        metavar="|".join(IPTABLES_BACKENDS),
    ),
    _ours(
        "state_directory",
        Kind.STRING,
        DEFAULT_STATE_DIRECTORY,
        read_state_directory,
        "Where the next agent finds the workers of this one.",
        metavar="DIR",
    ),
    _ours(
        "orphan_seconds",
        Kind.SECONDS,
        "60",
        seconds(_DAY_SECONDS),
        "How long workers serve on without an agent; 0: they end with theirs.",
        metavar="SECONDS",
    ),
    _ours(
        "drain_seconds",
        Kind.SECONDS,
        "300",
        seconds(_DAY_SECONDS),
        "How long connections of workers that are replaced may go on.",
        metavar="SECONDS",
    ),
    _ours(
        "takes_over",
        Kind.BOOLEAN,
        "true",
        read_boolean,
        "Take the place of an agent that runs already; if not, refuse to start beside it.",
        flag="--take-over",
    ),
    _ours(
        "removed_endpoints",
        Kind.STRING,
        "keep",
        reasoned(read_removed_endpoints, REMOVED_ENDPOINTS),
        "What becomes of connections to endpoints that were removed: keep, reset, or drain=30s.",
        metavar="POLICY",
        takes=Takes.AT_ONCE,
    ),
    _ours(
        "tcp_peer_timeout",
        Kind.DURATION,
        "2m",
        _TCP_TIMEOUT,
        "When a connection ends whose client or endpoint is silent though asked; 0s: never.",
        metavar="DURATION",
    ),
    _ours(
        "tcp_user_timeout",
        Kind.DURATION,
        "0s",
        _TCP_TIMEOUT,
        "TCP_USER_TIMEOUT of both sides, which ends peers that do not read, too; 0s: never.",
        metavar="DURATION",
    ),
    _ours(
        "events",
        Kind.BOOLEAN,
        "true",
        read_boolean,
        "Write Kubernetes Events for what an operator must see; without an API server there are none.",
    ),
    _ours(
        "metrics_service_ports",
        Kind.INTEGER,
        "1000",
        integer(0, _MOST_WITH_METRICS),
        "How many ports of Services have metrics of their own; the others' are added up.",
        metavar="N",
    ),
    _ours(
        "metrics_endpoints",
        Kind.INTEGER,
        "5000",
        integer(0, _MOST_WITH_METRICS),
        "How many endpoints of these have metrics of their own; the others' are added up.",
        metavar="N",
    ),
    _ours(
        "max_connections",
        Kind.LIMIT,
        "",
        _LIMIT,
        "TCP connections to one port of a Service; or none.",
        flag="--max-connections-per-service",
        metavar="N",
        shown_default="what is free, shared fairly",
        takes=Takes.AT_ONCE,
    ),
    _ours(
        "max_connections_per_client",
        Kind.LIMIT,
        "",
        _LIMIT,
        "Those of one client: an IPv4 address, a /64 of IPv6, a pod; or none.",
        metavar="N",
        shown_default="a quarter of what a worker has room for",
        takes=Takes.AT_ONCE,
    ),
    _ours(
        "max_udp_flows",
        Kind.LIMIT,
        "",
        _LIMIT,
        "UDP flows to one port of a Service; or none.",
        flag="--max-udp-flows-per-service",
        metavar="N",
        shown_default="what is free, shared fairly",
        takes=Takes.AT_ONCE,
    ),
    _ours(
        "max_udp_flows_per_client",
        Kind.LIMIT,
        "",
        _LIMIT,
        "Those of one client: an IPv4 address, a /64 of IPv6, a pod; or none.",
        metavar="N",
        shown_default="a quarter of what a worker has room for",
        takes=Takes.AT_ONCE,
    ),
)

_LOGGING: Final = (
    Option(
        "logging_format",
        "logging.format",
        Kind.STRING,
        "text",
        one_of(*LOGGING_FORMATS),
        "How log lines look: text, or json, an object a line.",
        metavar="FORMAT",
        in_kube_proxy="the same, with other keys",
        precedence=Precedence.FLAG,
    ),
    Option(
        "verbosity",
        "logging.verbosity",
        Kind.INTEGER,
        "0",
        integer(0, 100),
        "What is logged: from 2 on each change that is served, from 4 on each object that has changed.",
        flag="--v",
        metavar="N",
        in_kube_proxy="the same numbers, of other lines",
        precedence=Precedence.FLAG,
        takes=Takes.AT_ONCE,
    ),
)

OPTIONS: Final = {option.name: option for option in (*_KUBE_PROXYS, *_OURS, *_LOGGING)}
"""By name, in the order in which people are told of them."""
LIMITS: Final = tuple(name for name in OPTIONS if name.startswith("max_"))
"""Those that are fields of `ServiceSettings` by the same name."""
