"""Every rule that is written has a reason, and says what happens to whom."""

from __future__ import annotations

import pytest

from tests.iptables.packet_table import WIRINGS, Wiring, portals
from userspace_proxy.core.local_traffic import LocalTraffic
from userspace_proxy.core.port_claims import PortRange
from userspace_proxy.core.service_port import Frontend, IPFamily, Port, Protocol, ProxyPort
from userspace_proxy.iptables.chains import PORTALS_CONTAINER, PORTALS_GUARD, PORTALS_HOST, Chain, Table
from userspace_proxy.iptables.portal_rules import (
    CaptureSettings,
    Destination,
    Portal,
    PortalRules,
    Refusal,
)
from userspace_proxy.iptables.rule_reasons import reason_for, service_port_of
from userspace_proxy.iptables.rules import Foreign, Rule

SETTINGS = CaptureSettings(
    IPFamily.IPV4,
    PortRange(11000, 29999),
    refusing_port=ProxyPort(11000),
    silent_port=ProxyPort(11001),
    local_traffic=(LocalTraffic(source="10.244.0.0/16"), LocalTraffic(in_interface="cni0")),
)
SERVED, REFUSED, DROPPED, UNOPENED = (
    Destination(ProxyPort(12345)),
    Destination(ProxyPort(12345), Refusal.REJECT),
    Destination(ProxyPort(12345), Refusal.DROP),
    Destination(ProxyPort(0), Refusal.NO_LISTENER),
)
WEB = Frontend("10.96.0.10", Protocol.TCP, Port(80))


def reasons(chain: Chain, *captured: Portal, settings: CaptureSettings = SETTINGS) -> list[str]:
    rules = PortalRules().rule_set(captured, settings)
    if chain in rules.chains:
        return [reason_for(chain, rule) for rule in rules.chains[chain]]
    return [reason_for(chain, hook.rule) for hook in rules.hooks if hook.chain == chain]


@pytest.mark.parametrize(
    ("portal", "chain", "said"),
    [
        (
            Portal(WEB, "default/web", SERVED, SERVED),
            PORTALS_CONTAINER,
            ["default/web takes what pods and others send to 10.96.0.10:80/TCP, at proxy port 12345."],
        ),
        (
            Portal(WEB, "default/web", SERVED, SERVED),
            PORTALS_HOST,
            [
                "default/web takes what the node's own processes send to 10.96.0.10:80/TCP, at proxy "
                "port 12345."
            ],
        ),
        (
            Portal(WEB, "default/web", REFUSED, REFUSED),
            PORTALS_CONTAINER,
            [
                "default/web has no usable endpoint: what pods and others send to 10.96.0.10:80/TCP is "
                "refused at once, at a port where nobody listens."
            ],
        ),
        (
            Portal(WEB, "default/web", UNOPENED, UNOPENED),
            PORTALS_CONTAINER,
            [
                "default/web has no listener, for want of a port or a descriptor: what pods and others send "
                "to 10.96.0.10:80/TCP is refused at once."
            ],
        ),
        (
            Portal(WEB, "default/web", DROPPED, SERVED),
            PORTALS_CONTAINER,
            [
                "default/web takes what pods and others send to 10.96.0.10:80/TCP from 10.244.0.0/16, at "
                "proxy port 12345.",
                "default/web takes what pods and others send to 10.96.0.10:80/TCP by cni0, at proxy port "
                "12345.",
                "default/web has no usable endpoint on this node and others have: what pods and others send "
                "to 10.96.0.10:80/TCP gets no answer.",
            ],
        ),
        (
            Portal(WEB, "default/web", SERVED, SERVED, source_ranges=("198.51.100.0/24",)),
            PORTALS_CONTAINER,
            [
                "default/web takes what pods and others send to 10.96.0.10:80/TCP from 198.51.100.0/24, at "
                "proxy port 12345.",
                "default/web is not for everybody: what pods and others send to 10.96.0.10:80/TCP from "
                "outside its source ranges gets no answer.",
            ],
        ),
        (
            Portal(Frontend("0.0.0.0", Protocol.UDP, Port(30053)), "default/dns:dns", SERVED, SERVED),
            Chain(Table.NAT, "KUBE-NODEPORT-CONTAINER"),
            [
                "default/dns:dns takes what pods and others send to port 30053/UDP of this node, at proxy "
                "port 12345."
            ],
        ),
    ],
)
def test_a_rule_that_captures_says_what_for_whom_and_where_to(
    portal: Portal, chain: Chain, said: list[str]
) -> None:
    assert reasons(chain, portal) == said


def test_hooks_and_the_guard_say_what_they_are_for() -> None:
    assert reasons(Chain(Table.NAT, "PREROUTING")) == [
        "What comes in, from pods and others, is compared with the Services' addresses.",
        "What comes in to an address of this node is compared with NodePorts.",
    ]
    assert reasons(Chain(Table.NAT, "OUTPUT"))[0].startswith("What the node's own processes send is compared")
    assert (
        reasons(Chain(Table.FILTER, "INPUT"))
        == ["Proxy ports take redirected traffic only: the guard looks at what they get."] * 2
    )
    assert reasons(Chain(Table.FILTER, "OUTPUT")) == [
        "What the node itself is to get no answer to is dropped before it leaves a conntrack entry."
    ]
    assert reasons(PORTALS_GUARD) == [
        "Nobody has redirected this to a proxy port, so it was sent there directly: dropped.",
        "The port to which Services without endpoints lead: refused at once.",
        *["The port to which Services lead that are to give no answer: dropped."] * 2,
        "Redirected to a proxy port by a rule of ours: let in.",
    ]


def test_a_chain_that_branches_says_what_is_where() -> None:
    addresses = [
        Portal(Frontend(f"10.96.0.{number}", Protocol.TCP, Port(80)), "a/b", SERVED, SERVED)
        for number in range(1, 41)
    ]
    assert reasons(PORTALS_CONTAINER, *addresses) == [
        "Portals in 10.96.0.0/27 are in that chain.",
        "Portals in 10.96.0.32/27 are in that chain.",
    ]
    ports = [
        Portal(Frontend(address, Protocol.TCP, Port(30000 + number)), "a/b", SERVED, SERVED)
        for address in ("0.0.0.0", "10.96.0.1")
        for number in range(40)
    ]
    at_address, of_node = (
        reasons(chain, *ports) for chain in (PORTALS_CONTAINER, Chain(Table.NAT, "KUBE-NODEPORT-CONTAINER"))
    )
    assert at_address[0] == "Portals at 10.96.0.1 for TCP with ports 29952:30015 are in that chain."
    assert of_node[0] == "Portals for TCP with ports 29952:30015 are in that chain."


def test_what_somebody_put_into_a_chain_of_ours_is_called_that() -> None:
    assert reason_for(PORTALS_CONTAINER, Foreign("-j ACCEPT")) == (
        "Somebody else's, in a chain of ours: it is removed at the next look."
    )
    assert service_port_of(Foreign("-j ACCEPT")) is None


@pytest.mark.parametrize("wiring", WIRINGS, ids=str)
def test_no_rule_that_is_ever_written_is_without_a_reason(wiring: Wiring) -> None:
    captured = list(portals(wiring.family))
    rules = PortalRules().rule_set(captured, wiring.settings)
    labels = {portal.comment for portal in captured}
    for chain, written in rules.chains.items():
        for rule in written:
            assert reason_for(chain, rule).endswith(".")
            assert service_port_of(rule) in {None, *labels}
    assert all(reason_for(hook.chain, hook.rule) for hook in rules.hooks)
    assert isinstance(rules.hooks[0].rule, Rule)
