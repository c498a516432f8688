from __future__ import annotations

from collections.abc import Sequence

import pytest

from userspace_proxy.core.endpoint_selection import Outcome, Selection
from userspace_proxy.core.listener_retirement import Retirement, plan_retirement
from userspace_proxy.core.proxy_plan import ListenerName, PlannedServicePort
from userspace_proxy.core.service_port import (
    IPFamily,
    Port,
    Protocol,
    ServiceName,
    ServicePort,
    ServicePortName,
    TrafficPolicy,
)

WEB = ServicePortName(ServiceName("default", "web"), "", Protocol.TCP, IPFamily.IPV4)
DNS = ServicePortName(ServiceName("default", "dns"), "", Protocol.UDP, IPFamily.IPV4)
WEB_CLUSTER, WEB_LOCAL = (
    ListenerName(WEB, policy) for policy in (TrafficPolicy.CLUSTER, TrafficPolicy.LOCAL)
)
DNS_CLUSTER = ListenerName(DNS, TrafficPolicy.CLUSTER)
NOTHING = Retirement({}, (), ())


def planned(*names: ListenerName) -> dict[ServicePortName, PlannedServicePort]:
    found: dict[ServicePortName, PlannedServicePort] = {}
    for service_port in dict.fromkeys(name.service_port for name in names):
        selections = tuple(
            (name.policy, Selection((), Outcome.REFUSE))
            for name in names
            if name.service_port == service_port
        )
        found[service_port] = PlannedServicePort(
            ServicePort(name=service_port, cluster_ip="10.96.0.10", port=Port(80)), (), selections
        )
    return found


@pytest.mark.parametrize(
    ("listening", "wanted", "led_to", "expected"),
    [
        pytest.param([], [], [], NOTHING, id="nothing is open"),
        pytest.param([WEB_CLUSTER], [WEB_CLUSTER], [WEB_CLUSTER], NOTHING, id="it serves"),
        pytest.param([WEB_CLUSTER], [WEB_CLUSTER], [], NOTHING, id="it is to serve soon"),
        pytest.param([WEB_CLUSTER], [], [WEB_CLUSTER], NOTHING, id="gone, but its rule stands"),
        pytest.param(
            [WEB_CLUSTER],
            [],
            [],
            Retirement({}, (WEB,), (WEB_CLUSTER,)),
            id="gone with its rule",
        ),
        pytest.param(
            [WEB_CLUSTER, WEB_LOCAL],
            [WEB_LOCAL],
            [WEB_CLUSTER, WEB_LOCAL],
            NOTHING,
            id="a class is gone, but its rule stands",
        ),
        pytest.param(
            [WEB_CLUSTER, WEB_LOCAL],
            [WEB_LOCAL],
            [WEB_LOCAL],
            Retirement({WEB: (WEB_LOCAL,)}, (), (WEB_CLUSTER,)),
            id="a class is gone with its rule",
        ),
        pytest.param(
            [WEB_CLUSTER],
            [WEB_LOCAL],
            [],
            Retirement({WEB: ()}, (), (WEB_CLUSTER,)),
            id="a class is gone, and the one that is wanted has no listener yet",
        ),
        pytest.param(
            [WEB_CLUSTER, WEB_LOCAL],
            [],
            [WEB_LOCAL],
            NOTHING,
            id="gone, with a rule to one class yet: it goes as a whole",
        ),
        pytest.param(
            [WEB_CLUSTER, WEB_LOCAL, DNS_CLUSTER],
            [WEB_CLUSTER],
            [WEB_CLUSTER],
            Retirement({WEB: (WEB_CLUSTER,)}, (DNS,), (WEB_LOCAL, DNS_CLUSTER)),
            id="of one a class, the other altogether",
        ),
    ],
)
def test_a_listener_goes_when_neither_plan_nor_rule_leads_to_it(
    listening: Sequence[ListenerName],
    wanted: Sequence[ListenerName],
    led_to: Sequence[ListenerName],
    expected: Retirement,
) -> None:
    grouped: dict[ServicePortName, list[ListenerName]] = {}
    for name in listening:
        grouped.setdefault(name.service_port, []).append(name)
    assert plan_retirement(grouped, planned(*wanted), lambda name: name in led_to) == expected
