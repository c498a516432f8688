"""Rules and their text: what we write is what we read back, however iptables-save spells it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userspace_proxy.core.port_claims import PortRange
from userspace_proxy.core.service_port import Protocol
from userspace_proxy.iptables.chains import PORTALS_CONTAINER, PORTALS_GUARD, PORTALS_HOST, Chain, Table
from userspace_proxy.iptables.rules import (
    ConntrackState,
    Dnat,
    Foreign,
    InstalledHook,
    InstalledRules,
    Jump,
    Redirect,
    Reject,
    Rule,
    StateMatch,
    Verdict,
    is_any_of,
    is_none_of,
    safe_comment,
)
from userspace_proxy.iptables.saved_rules import SavedRules, counted_rules, parse_rule

ports = st.integers(1, 65535)
networks = st.one_of(
    st.builds("{}/{}".format, st.ip_addresses(v=4), st.integers(8, 31)),
    st.builds("{}/{}".format, st.ip_addresses(v=6), st.integers(8, 127)),
)
port_ranges = st.tuples(ports, ports).map(lambda pair: PortRange(min(pair), max(pair)))
targets = st.one_of(
    st.sampled_from(Verdict),
    st.builds(Redirect, ports),
    st.builds(Dnat, st.ip_addresses().map(str), ports),
    st.builds(Reject, st.sampled_from(["tcp-reset", "icmp-port-unreachable", "icmp6-port-unreachable"])),
    st.builds(Jump, st.sampled_from([PORTALS_HOST.name, "KUBE-FIREWALL"])),
)
state_matches = st.builds(
    StateMatch, st.frozensets(st.sampled_from(ConntrackState), min_size=1), st.booleans()
)
addresses = st.none() | st.ip_addresses().map(str) | networks
rules = st.builds(
    lambda protocol, destination_ports, **rest: Rule(
        protocol=protocol, destination_ports=destination_ports if protocol else None, **rest
    ),
    target=targets,
    protocol=st.none() | st.sampled_from(Protocol),
    source=addresses,
    destination=addresses,
    destination_ports=st.none() | port_ranges,
    in_interface=st.none() | st.sampled_from(["eth0", "cali12ab34cd56e", "cali+"]),
    to_local_address=st.booleans(),
    states=st.lists(state_matches, max_size=2).map(tuple),
    comment=st.text().map(safe_comment),
)


@given(rules)
def test_a_rule_is_read_back_from_its_text(rule: Rule) -> None:
    assert parse_rule(str(rule)) == rule


def test_a_portal_rule_reads_as_operators_know_it() -> None:
    rule = Rule(
        target=Redirect(20001),
        protocol=Protocol.TCP,
        destination="10.96.0.1",
        destination_ports=PortRange(80, 80),
        comment="default/web:http",
    )
    assert str(rule) == (
        '-d 10.96.0.1 -p tcp -m comment --comment "default/web:http" -m tcp --dport 80 '
        "-j REDIRECT --to-ports 20001"
    )


@pytest.mark.parametrize(
    "text",
    [
        '-d 10.96.0.1/32 -p tcp -m comment --comment "default/w" -m tcp --dport 80 -j REDIRECT --to-ports 9',
        "-d 10.96.0.1/32 -p tcp -m comment --comment default/w -m tcp --dport 80 -j REDIRECT --to-ports 9",
        '-d 10.96.0.1/32 -p tcp -m tcp --dport 80 -m comment --comment "default/w" -j REDIRECT --to-ports 9',
        '-d 10.96.0.1 -p 6 -m tcp --dport 80:80 -m comment --comment "default/w" -j REDIRECT --to-ports 9',
    ],
)
def test_spellings_of_one_rule_are_equal(text: str) -> None:
    assert parse_rule(text) == Rule(
        target=Redirect(9),
        protocol=Protocol.TCP,
        destination="10.96.0.1",
        destination_ports=PortRange(80, 80),
        comment="default/w",
    )


@pytest.mark.parametrize(
    ("printed", "ours"),
    [
        ("10.0.0.1/32", "10.0.0.1"),
        ("10.0.0.0/31", "10.0.0.0/31"),
        ("fd00::1/128", "fd00::1"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("::ffff:10.0.0.0/104", "::ffff:a00:0/104"),
        ("::10.0.0.1/128", "::a00:1"),
    ],
)
def test_addresses_are_read_as_we_spell_them(printed: str, ours: str) -> None:
    rule = parse_rule(f"-s {printed} -d {printed} -j DROP")
    assert rule == Rule(target=Verdict.DROP, source=ours, destination=ours)


@pytest.mark.parametrize(
    "text",
    [
        "! -s 10.0.0.0/8 -j DROP",
        "! -d 10.96.0.1/32 -j DROP",
        "! -p tcp -j DROP",
        "-p tcp -m tcp ! --dport 80 -j DROP",
        "-p icmp -j DROP",
        "-p tcp -m tcp --dport http -j DROP",
        "-m statistic --mode random --probability 0.5 -j DROP",
        "-m conntrack --ctstate UNHEARD -j DROP",
        "-m addrtype --dst-type BROADCAST -j DROP",
        "-p tcp -j DNAT --to-destination 10.0.0.1",
        "-p tcp -j REDIRECT",
        "-p tcp -j REDIRECT --to-ports 20001-20005",
        "-p tcp -j REDIRECT --to-ports 20001 --random",
        "-p tcp -j DNAT --to-destination 10.0.0.1:80 --persistent",
        "-g KUBE-PORTALS-HOST",
        "-d 10.0.0.1/32",
        "-d",
        '-m comment --comment "it\\\'s" -j DROP',
    ],
)
def test_a_rule_that_says_more_than_we_write_is_foreign(text: str) -> None:
    assert parse_rule(text) == Foreign(text)


def test_states_print_in_the_kernel_s_order() -> None:
    states = is_none_of(ConntrackState.DNAT, ConntrackState.ESTABLISHED, ConntrackState.RELATED)
    assert str(states) == "! --ctstate RELATED,ESTABLISHED,DNAT"
    assert str(is_any_of(ConntrackState.NEW)) == "--ctstate NEW"


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("default/web:http", "default/web:http"),
        ("two words", "two words"),
        ("line\nCOMMIT", "line?COMMIT"),
        ("\"quoted\" 'text' \\", "?quoted? ?text? ?"),
        ("größe", "gr??e"),
        ("x" * 300, "x" * 255),
    ],
)
def test_comments_are_made_safe(text: str, safe: str) -> None:
    assert safe_comment(text) == safe
    assert Rule(target=Verdict.DROP, comment=safe)


@pytest.mark.parametrize("comment", ["a\nb", 'a"b', "a'b", "x" * 256])
def test_an_unsafe_comment_makes_no_rule(comment: str) -> None:
    with pytest.raises(ValueError, match="comment"):
        Rule(target=Verdict.DROP, comment=comment)


def test_ports_without_a_protocol_make_no_rule() -> None:
    with pytest.raises(ValueError, match="protocol"):
        Rule(target=Verdict.DROP, destination_ports=PortRange(80, 80))


SAVED = """\
# Generated by iptables-save v1.8.9 on Sun Nov 22 16:47:44 2026
*mangle
:KUBE-PORTALS-HOST - [0:0]
-A KUBE-PORTALS-HOST -j ACCEPT
COMMIT
*filter
:INPUT ACCEPT [0:0]
:KUBE-PORTALS-HOST - [0:0]
:KUBE-PORTALS-GUARD - [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -m comment --comment "not -j KUBE-PORTALS-GUARD" -j ACCEPT
-A INPUT -p tcp -j KUBE-PORTALS-GUARD
-A INPUT -p tcp -j ACCEPT
-A KUBE-PORTALS-GUARD -j DROP
-A KUBE-PORTALS-GUARD -m mark --mark 0x1 -j DROP
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:KUBE-PORTALS-CONTAINER - [0:0]
:KUBE-PORTALS-CONTAINER2 - [0:0]
-A PREROUTING -j KUBE-PORTALS-CONTAINER
-A PREROUTING -j KUBE-PORTALS-CONTAINER2
-A PREROUTING -m mark --mark 0x1 -g KUBE-PORTALS-CONTAINER
-A KUBE-PORTALS-CONTAINER2 -j KUBE-PORTALS-CONTAINER
COMMIT
"""


def test_what_is_ours_is_found_in_the_output_of_iptables_save() -> None:
    input_chain = Chain(Table.FILTER, "INPUT")
    prerouting = Chain(Table.NAT, "PREROUTING")
    jump = Rule(target=Jump("KUBE-PORTALS-CONTAINER"))
    to_guard = Rule(target=Jump("KUBE-PORTALS-GUARD"), protocol=Protocol.TCP)
    goto = "-m mark --mark 0x1 -g KUBE-PORTALS-CONTAINER"
    assert SavedRules(SAVED).parse() == InstalledRules(
        chains={
            PORTALS_GUARD: (Rule(target=Verdict.DROP), Foreign("-m mark --mark 0x1 -j DROP")),
            PORTALS_CONTAINER: (),
        },
        hooks=(
            InstalledHook(input_chain, PORTALS_GUARD, to_guard, "-p tcp -j KUBE-PORTALS-GUARD", 2, 1),
            InstalledHook(prerouting, PORTALS_CONTAINER, jump, "-j KUBE-PORTALS-CONTAINER", 0, 1),
            InstalledHook(prerouting, PORTALS_CONTAINER, Foreign(goto), goto, 1, 0),
            InstalledHook(
                Chain(Table.NAT, "KUBE-PORTALS-CONTAINER2"),
                PORTALS_CONTAINER,
                jump,
                "-j KUBE-PORTALS-CONTAINER",
                0,
                0,
            ),
        ),
    )


def test_counters_are_read_of_ours_alone_and_of_those_that_are_meant() -> None:
    printed = """\
# Generated by iptables-save
*mangle
:KUBE-KUBELET-CANARY - [0:0]
[9:9] -A PREROUTING -j KUBE-PORTALS-CONTAINER
COMMIT
*nat
:PREROUTING ACCEPT [3:180]
:KUBE-PORTALS-CONTAINER - [0:0]
[3:180] -A PREROUTING -m comment --comment "service portals" -j KUBE-PORTALS-CONTAINER
[7:420] -A PREROUTING -j KUBE-SERVICES
[1:60] -A PREROUTING -m comment --comment "to KUBE-PORTALS-HOST" -j ACCEPT
[2:120] -A KUBE-PORTALS-CONTAINER -d 10.96.0.10/32 -p tcp -m comment --comment "default/web" \
-m tcp --dport 80 -j REDIRECT --to-ports 11234
[0:0] -A KUBE-PORTALS-CONTAINER -j MARK --set-xmark 0x1/0x1
COMMIT
"""
    found = [(each.chain.name, each.packets, each.bytes) for each in counted_rules(printed)]
    assert found == [
        ("PREROUTING", 3, 180),
        ("KUBE-PORTALS-CONTAINER", 2, 120),
        ("KUBE-PORTALS-CONTAINER", 0, 0),
    ]
    (meant,) = counted_rules(printed, "default/web")
    assert isinstance(meant.rule, Rule) and meant.rule.target == Redirect(11234)
