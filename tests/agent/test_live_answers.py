"""What is asked about connections and rates, and how often the workers are asked for it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest
import uvloop

from tests.support.objects import endpoint_slice, service
from userspace_proxy.admin.protocol import AdminError, ErrorCode
from userspace_proxy.agent.live_answers import LiveAnswers
from userspace_proxy.core.answers.connections import ConnectionsAnswer, ConnectionsQuestion
from userspace_proxy.core.answers.services import named_services
from userspace_proxy.core.answers.top import TopFrame, TopQuestion
from userspace_proxy.core.cluster_state import ClusterState
from userspace_proxy.core.live_traffic import ConnectionQuery, ConnectionState, LiveConnection
from userspace_proxy.core.objects import ApiObject, Upserted
from userspace_proxy.core.proxy_plan import ProxyPlan
from userspace_proxy.core.service_port import IPFamily, ServicePortName
from userspace_proxy.core.traffic_counters import ServicePortCounters
from userspace_proxy.dataplane.live_reading import ConnectionList, WorkerConnection

DNS = "default/dns UDP IPv4"


class FakeWorkers:
    """One worker, through which a connection more has gone each time that it is asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.queries: list[tuple[ConnectionQuery, int]] = []
        self.found = ConnectionList()

    async def read_counters(self) -> dict[int, dict[str, ServicePortCounters]]:
        self.asked += 1
        counters = ServicePortCounters(opened=self.asked)
        return {1: {"default/web TCP IPv4": counters, DNS: ServicePortCounters(active=1)}}

    async def connections(self, query: ConnectionQuery, most: int) -> ConnectionList:
        self.queries.append((query, most))
        return self.found


def planned(*items: ApiObject) -> ProxyPlan:
    state, plan = ClusterState("node-1"), ProxyPlan(frozenset(IPFamily))
    for item in items:
        state.apply(Upserted(item), lambda key: "test")
    plan.update(state, state.take_dirty())
    return plan


def asked(
    question: ConnectionsQuestion | TopQuestion, workers: FakeWorkers, *items: ApiObject, most: int = 100
) -> list[Any]:
    """The first items of the answer."""
    plan = planned(
        service("web"), service("dns", at="10.96.0.11", ports=["53/UDP"]), endpoint_slice(of="web"), *items
    )

    def named(text: str) -> list[ServicePortName]:
        found = named_services(text, plan.service_ports.values())
        if not found:
            raise AdminError(ErrorCode.NOT_FOUND, text)
        return found

    async def ask() -> list[Any]:
        method = "top" if isinstance(question, TopQuestion) else "connections"
        answers = LiveAnswers(workers, workers, plan, named).methods()  # type: ignore[arg-type]
        found = []
        answer: AsyncGenerator[Any, None] = answers[method].answer(question)
        async for item in answer:
            found.append(item)
            if len(found) == most:
                await answer.aclose()
                break
        return found

    return uvloop.run(ask())


def connection(number: int, key: str = DNS) -> WorkerConnection:
    state = ConnectionState.ANSWERED
    live = LiveConnection(key, ("10.2.0.1", number), None, ("10.1.0.1", 53), state, False, 1.0)
    return WorkerConnection(4711, live)


def test_what_is_asked_for_is_what_workers_are_asked_for() -> None:
    workers = FakeWorkers()
    question = ConnectionsQuestion(service="web:80", client="FD00:0::1", endpoint="[FD00:1::1]:8080", limit=5)
    assert asked(question, workers) == [ConnectionsAnswer()]
    assert workers.queries == [
        (
            ConnectionQuery(
                service="web:80",
                service_ports=frozenset({"default/web TCP IPv4"}),
                client="fd00::1",
                endpoint_address="fd00:1::1",
                endpoint_port=8080,
            ),
            5,
        )
    ]


def test_a_service_that_is_served_no_more_may_have_connections() -> None:
    workers = FakeWorkers()
    asked(ConnectionsQuestion(service="gone", endpoint="10.1.0.1"), workers)
    [(query, most)] = workers.queries
    assert query == ConnectionQuery(service="gone", endpoint_address="10.1.0.1")
    assert most > 1 << 20, "all of them"
    asked(ConnectionsQuestion(limit=10**20), workers)
    assert workers.queries[-1][1] == most, "which a message can say"


def test_many_connections_come_in_several_items_and_the_numbers_with_the_last() -> None:
    workers = FakeWorkers()
    workers.found = ConnectionList([connection(number) for number in range(600)], 7, (12, 13))
    *pages, last = asked(ConnectionsQuestion(), workers)
    assert [each.client for page in pages for each in page.connections] == [
        f"10.2.0.1:{number}" for number in range(600)
    ]
    assert len(pages) > 1
    assert last == ConnectionsAnswer(left_out=7, workers_not_asked=(12, 13))


@pytest.mark.parametrize(
    ("more", "frontend"),
    [
        ({}, "10.96.0.11:53"),
        ({"external_ips": ["203.0.113.1"]}, None),
        ({"at": None}, None),
    ],
)
def test_a_flow_has_come_to_the_only_frontend_that_there_is(
    more: dict[str, Any], frontend: str | None
) -> None:
    workers = FakeWorkers()
    workers.found = ConnectionList([connection(1)])
    dns = service("dns", **{"at": "10.96.0.11", "ports": ["53/UDP"], **more})
    first, _ = asked(ConnectionsQuestion(), workers, dns)
    assert [each.frontend for each in first.connections] == [frontend]


@pytest.mark.parametrize(
    "question",
    [
        ConnectionsQuestion(client="web-1"),
        ConnectionsQuestion(endpoint="web-1:80"),
        ConnectionsQuestion(limit=-1),
        TopQuestion(interval_seconds=0.0),
        TopQuestion(interval_seconds=3600.0),
        TopQuestion(interval_seconds=float("nan")),
        TopQuestion(limit=0),
    ],
)
def test_what_cannot_be_meant_is_said(question: ConnectionsQuestion | TopQuestion) -> None:
    with pytest.raises(AdminError) as failure:
        asked(question, FakeWorkers())
    assert failure.value.code is ErrorCode.BAD_REQUEST


def test_a_frame_comes_after_each_interval_with_what_was_carried_since() -> None:
    workers = FakeWorkers()
    frames: list[TopFrame] = asked(TopQuestion(interval_seconds=0.2), workers, most=2)
    assert workers.asked == 3
    for frame in frames:
        assert [each.service_port for each in frame.service_ports] == ["default/web", "default/dns"]
        assert frame.service_ports[0].connections_per_second == pytest.approx(1 / frame.seconds, rel=0.01)
    [only] = asked(TopQuestion(interval_seconds=0.2, service="dns"), workers, most=1)
    assert [each.service_port for each in only.service_ports] == ["default/dns"]
    with pytest.raises(AdminError):
        asked(TopQuestion(interval_seconds=0.2, service="nobody"), workers)
