"""Whether a node is fit to be served: what was found on it, and what to do about it.

`NodeFacts` is what somebody has looked up; a check is a function of them. Each says one `Finding`, also when
all is well, so that whoever reads knows what was looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from userspace_proxy.core.port_claims import PortRange
from userspace_proxy.core.service_port import IPFamily

NODE_PORTS: Final = PortRange(30000, 32767)
"""--service-node-port-range of the API server, unless somebody changed it."""
NEEDED: Final = ("NET_ADMIN", "NET_RAW")
FOR_WORKERS: Final = ("SETUID", "SETGID", "SETPCAP", "KILL")
_FEW_DESCRIPTORS: Final = 65536
_MANY_ENTRIES: Final = 0.8


class Level(Enum):
    """How bad it is. With an error the agent does not start, or serves nobody."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found. `advice` says what to do, or is empty."""

    check: str
    level: Level
    found: str
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """What was looked up. `sysctls` are without those that this kernel does not have.

    `unavailable` says of a family why it has no rules; `variants` which variant of iptables the others use;
    `foreign_rules` what is in the other variant. `rules_tried` is why rules like ours cannot be installed; ""
    if they can, None if nobody tried. `unrouted` are addresses of Services to which the node has no route.
    `stranger_ports` are those of the proxy port range that others listen on.
    """

    capabilities: frozenset[str]
    unavailable: Mapping[IPFamily, str]
    variants: Mapping[IPFamily, str]
    foreign_rules: tuple[str, ...]
    kube_proxy_chains: tuple[str, ...]
    rules_tried: str | None
    sysctls: Mapping[str, str]
    is_proc_sys_writable: bool
    unrouted: tuple[str, ...]
    routed: tuple[str, ...]
    descriptors: int
    descriptors_needed: int
    conntrack_entries: int | None
    proxy_ports: PortRange
    ephemeral_ports: PortRange
    stranger_ports: tuple[int, ...]
    running_agent: int | None
    state_directory_problem: str


_Check = Callable[[NodeFacts], Finding]


def findings(facts: NodeFacts) -> Iterator[Finding]:
    """What each check says, in the order in which one would look."""
    for check in _CHECKS:
        yield check(facts)


def worst(found: list[Finding]) -> Level:
    """The worst of them."""
    order = list(Level)
    return max((finding.level for finding in found), key=order.index, default=Level.OK)


def _capabilities(facts: NodeFacts) -> Finding:
    name = "capabilities"
    if missing := [each for each in NEEDED if each not in facts.capabilities]:
        return Finding(
            name,
            Level.ERROR,
            f"this process lacks {' and '.join(missing)}",
            "run it as root, or give its container these capabilities",
        )
    if missing := [each for each in FOR_WORKERS if each not in facts.capabilities]:
        return Finding(
            name,
            Level.WARNING,
            f"without {', '.join(missing)} workers keep the agent's user",
            "give its container these too",
        )
    return Finding(name, Level.OK, "all that the agent and its workers need")


def _iptables(facts: NodeFacts) -> Finding:
    name = "iptables"
    if why := facts.unavailable.get(IPFamily.IPV4):
        return Finding(name, Level.ERROR, f"IPv4: {why}", "install the package iptables")
    used = ", ".join(f"{family.value}: {variant}" for family, variant in facts.variants.items())
    if why := facts.unavailable.get(IPFamily.IPV6):
        return Finding(name, Level.NOTE, f"{used}; IPv6: {why}", "Services are served in IPv4 alone")
    return Finding(name, Level.OK, used)


def _kernel(facts: NodeFacts) -> Finding:
    name = "kernel features"
    if facts.rules_tried is None:
        return Finding(name, Level.NOTE, "not tried: that takes root, and the program unshare")
    if facts.rules_tried:
        return Finding(
            name,
            Level.ERROR,
            f"rules like ours cannot be installed: {facts.rules_tried}",
            "load the modules nf_conntrack, xt_REDIRECT, xt_comment, xt_addrtype, or use a kernel with them",
        )
    return Finding(name, Level.OK, "REDIRECT, conntrack and what else our rules use, tried in a namespace")


def _other_variant(facts: NodeFacts) -> Finding:
    name = "other variant of iptables"
    if facts.foreign_rules:
        return Finding(
            name,
            Level.WARNING,
            f"in use beside ours: {'; '.join(facts.foreign_rules)}",
            "what those rules drop or redirect does not come to ours: have everybody use one variant, or say "
            "which one with --iptables-backend",
        )
    return Finding(name, Level.OK, "nobody uses it")


def _kube_proxy(facts: NodeFacts) -> Finding:
    name = "another proxy's rules"
    if facts.kube_proxy_chains:
        return Finding(
            name,
            Level.WARNING,
            f"kube-proxy's are installed: {', '.join(facts.kube_proxy_chains)}",
            "take kube-proxy off this node, then run `kube-proxy --cleanup` from its image",
        )
    return Finding(name, Level.OK, "none")


def _ip_forward(facts: NodeFacts) -> Finding:
    name = "net.ipv4.ip_forward"
    if facts.sysctls.get(name) == "1":
        return Finding(name, Level.OK, "1")
    return Finding(
        name,
        Level.WARNING,
        "0: Services work, but pods reach nothing else beyond this node",
        f"sysctl -w {name}=1",
    )


def _br_netfilter(facts: NodeFacts) -> Finding:
    name = "br_netfilter"
    value = facts.sysctls.get("net.bridge.bridge-nf-call-iptables")
    if value is None:
        return Finding(name, Level.OK, "not loaded, and we do not need it: pods reach Services by routing")
    return Finding(name, Level.OK, f"bridge-nf-call-iptables={value}; Services work with it and without")


def _rp_filter(facts: NodeFacts) -> Finding:
    name = "rp_filter"
    strict = sorted(
        key.split(".")[3]
        for key, value in facts.sysctls.items()
        if key.startswith("net.ipv4.conf.") and key.endswith(".rp_filter") and value == "1"
    )
    if not strict:
        return Finding(name, Level.OK, "nowhere strict")
    return Finding(
        name,
        Level.NOTE,
        f"strict on {', '.join(strict)}",
        "with several uplinks, who comes in by one and is answered by another is dropped: 2 allows it",
    )


def _routes(facts: NodeFacts) -> Finding:
    name = "route to clusterIPs"
    if facts.unrouted:
        return Finding(
            name,
            Level.ERROR,
            f"the node has none to {', '.join(facts.unrouted)}",
            "its own processes cannot reach Services: any route will do, such as a default route",
        )
    return Finding(name, Level.OK, f"to {', '.join(facts.routed)}")


def _tcp_tw_reuse(facts: NodeFacts) -> Finding:
    name = "net.ipv4.tcp_tw_reuse"
    value = facts.sysctls.get(name, "0")
    if value == "1":
        return Finding(name, Level.OK, "1")
    if facts.is_proc_sys_writable:
        return Finding(name, Level.OK, f"{value}; the agent sets it to 1")
    return Finding(
        name,
        Level.WARNING,
        f"{value}, and /proc/sys is read-only here: 470 short connections a second to an endpoint at most",
        f"sysctl -w {name}=1 on the node",
    )


def _descriptors(facts: NodeFacts) -> Finding:
    name = "open files"
    if facts.descriptors <= facts.descriptors_needed:
        return Finding(
            name,
            Level.ERROR,
            f"{facts.descriptors} may be open, and no listener would fit in",
            "LimitNOFILE= in a systemd unit, ulimit -n in a shell",
        )
    found = f"{facts.descriptors}: some {facts.descriptors // 4} connections in each worker"
    if facts.descriptors < _FEW_DESCRIPTORS:
        return Finding(name, Level.WARNING, found, f"raise the limit to {_FEW_DESCRIPTORS} at least")
    return Finding(name, Level.OK, found)


def _conntrack(facts: NodeFacts) -> Finding:
    name = "conntrack"
    most = facts.sysctls.get("net.netfilter.nf_conntrack_max")
    if most is None:
        return Finding(name, Level.NOTE, "not in use yet: the first rules load it")
    entries = facts.conntrack_entries
    if entries is None or not int(most):
        return Finding(name, Level.OK, f"up to {most} entries")
    found = f"{entries} of {most} entries"
    if entries > _MANY_ENTRIES * int(most):
        return Finding(name, Level.WARNING, found, "raise net.netfilter.nf_conntrack_max")
    return Finding(name, Level.OK, found)


def _port_ranges(facts: NodeFacts) -> Finding:
    name = "proxy ports"
    for whose, others in (
        ("the kernel's own (net.ipv4.ip_local_port_range)", facts.ephemeral_ports),
        ("NodePorts", NODE_PORTS),
    ):
        if facts.proxy_ports.first <= others.last and others.first <= facts.proxy_ports.last:
            return Finding(
                name,
                Level.WARNING,
                f"{facts.proxy_ports} and {whose}, {others}, overlap",
                "choose others with --proxy-port-range",
            )
    if facts.stranger_ports:
        shown = ", ".join(map(str, facts.stranger_ports[:10]))
        return Finding(
            name,
            Level.NOTE,
            f"{facts.proxy_ports}, of which others listen on {len(facts.stranger_ports)}: {shown}",
            "they are left out",
        )
    return Finding(name, Level.OK, f"{facts.proxy_ports}, free")


def _state_directory(facts: NodeFacts) -> Finding:
    name = "state directory"
    if facts.state_directory_problem:
        return Finding(
            name,
            Level.ERROR,
            facts.state_directory_problem,
            "--state-directory names another one; in a container mount one of the host's",
        )
    return Finding(name, Level.OK, "can be written")


def _agent(facts: NodeFacts) -> Finding:
    name = "running agent"
    if facts.running_agent is None:
        return Finding(name, Level.OK, "none")
    return Finding(name, Level.NOTE, f"pid {facts.running_agent}", "a new one takes over from it")


_CHECKS: Final[tuple[_Check, ...]] = (
    _capabilities,
    _iptables,
    _kernel,
    _other_variant,
    _kube_proxy,
    _ip_forward,
    _br_netfilter,
    _rp_filter,
    _routes,
    _tcp_tw_reuse,
    _descriptors,
    _conntrack,
    _port_ranges,
    _state_directory,
    _agent,
)
