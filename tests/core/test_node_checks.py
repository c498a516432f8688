from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from userspace_proxy.core.node_checks import Finding, Level, NodeFacts, findings, worst
from userspace_proxy.core.port_claims import PortRange
from userspace_proxy.core.service_port import IPFamily

FIT = NodeFacts(
    capabilities=frozenset({"NET_ADMIN", "NET_RAW", "SETUID", "SETGID", "SETPCAP", "KILL"}),
    unavailable={},
    variants={IPFamily.IPV4: "nft", IPFamily.IPV6: "nft"},
    foreign_rules=(),
    kube_proxy_chains=(),
    rules_tried="",
    sysctls={
        "net.ipv4.ip_forward": "1",
        "net.ipv4.tcp_tw_reuse": "1",
        "net.netfilter.nf_conntrack_max": "100",
    },
    is_proc_sys_writable=True,
    unrouted=(),
    routed=("10.96.0.1",),
    descriptors=1_048_576,
    descriptors_needed=512,
    conntrack_entries=1,
    proxy_ports=PortRange(11000, 29999),
    ephemeral_ports=PortRange(32768, 60999),
    stranger_ports=(),
    running_agent=None,
    state_directory_problem="",
)


def sysctls(**changed: str) -> dict[str, str]:
    return {**FIT.sysctls, **{name.replace("__", "."): value for name, value in changed.items()}}


def the_bad(**facts: Any) -> list[Finding]:
    return [found for found in findings(replace(FIT, **facts)) if found.level is not Level.OK]


def test_a_node_that_is_fit() -> None:
    found = list(findings(FIT))
    assert {each.level for each in found} == {Level.OK}
    assert all(each.found and not each.advice for each in found)
    assert len({each.check for each in found}) == len(found)
    assert worst(found) is Level.OK


@pytest.mark.parametrize(
    ("facts", "check", "level", "says"),
    [
        ({"capabilities": frozenset({"NET_ADMIN"})}, "capabilities", Level.ERROR, "lacks NET_RAW"),
        ({"capabilities": frozenset({"NET_ADMIN", "NET_RAW"})}, "capabilities", Level.WARNING, "SETUID"),
        ({"unavailable": {IPFamily.IPV4: "no iptables"}}, "iptables", Level.ERROR, "IPv4: no iptables"),
        ({"unavailable": {IPFamily.IPV6: "no IPv6"}}, "iptables", Level.NOTE, "IPv6: no IPv6"),
        ({"rules_tried": "No chain/target"}, "kernel features", Level.ERROR, "No chain/target"),
        ({"rules_tried": None}, "kernel features", Level.NOTE, "not tried"),
        ({"foreign_rules": ("3 rules",)}, "other variant of iptables", Level.WARNING, "3 rules"),
        ({"kube_proxy_chains": ("KUBE-SERVICES",)}, "another proxy's rules", Level.WARNING, "KUBE-SERVICES"),
        ({"sysctls": sysctls(net__ipv4__ip_forward="0")}, "net.ipv4.ip_forward", Level.WARNING, "0"),
        ({"sysctls": sysctls(net__ipv4__conf__eth0__rp_filter="1")}, "rp_filter", Level.NOTE, "on eth0"),
        ({"unrouted": ("10.96.0.1",)}, "route to clusterIPs", Level.ERROR, "none to 10.96.0.1"),
        (
            {"sysctls": sysctls(net__ipv4__tcp_tw_reuse="2"), "is_proc_sys_writable": False},
            "net.ipv4.tcp_tw_reuse",
            Level.WARNING,
            "read-only",
        ),
        ({"descriptors": 512}, "open files", Level.ERROR, "512 may be open"),
        ({"descriptors": 20000}, "open files", Level.WARNING, "20000"),
        ({"conntrack_entries": 90}, "conntrack", Level.WARNING, "90 of 100"),
        ({"sysctls": {"net.ipv4.ip_forward": "1"}}, "conntrack", Level.NOTE, "not in use yet"),
        ({"proxy_ports": PortRange(11000, 40000)}, "proxy ports", Level.WARNING, "the kernel's own"),
        ({"proxy_ports": PortRange(11000, 30000)}, "proxy ports", Level.WARNING, "NodePorts"),
        ({"stranger_ports": (12000, 12001)}, "proxy ports", Level.NOTE, "12000, 12001"),
        ({"state_directory_problem": "/run is no directory"}, "state directory", Level.ERROR, "/run"),
        ({"running_agent": 7}, "running agent", Level.NOTE, "pid 7"),
    ],
)
def test_what_is_found(facts: dict[str, Any], check: str, level: Level, says: str) -> None:
    bad = the_bad(**facts)
    assert worst(bad) is level
    [found] = [each for each in bad if each.check == check]
    assert says in found.found
    assert found.level is level
    assert bool(found.advice) is (check not in ("kernel features", "conntrack") or level is not Level.NOTE)


@pytest.mark.parametrize(
    "facts",
    [
        {"sysctls": sysctls(net__ipv4__tcp_tw_reuse="2")},
        {"sysctls": sysctls(net__bridge__bridge_nf_call_iptables="0")},
        {"sysctls": sysctls(**{"net__bridge__bridge-nf-call-iptables": "1"})},
        {"sysctls": sysctls(net__ipv4__conf__eth0__rp_filter="2")},
        {"conntrack_entries": None},
        {"sysctls": sysctls(net__netfilter__nf_conntrack_max="0")},
    ],
)
def test_what_is_no_reason_to_worry(facts: dict[str, Any]) -> None:
    assert the_bad(**facts) == []


def test_nothing_found_is_well() -> None:
    assert worst([]) is Level.OK
