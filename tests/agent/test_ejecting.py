"""What becomes of the endpoints that an operator takes out: workers know, changes and restarts too."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any

import pytest

from tests.agent.test_proxier import KEY, Fixture, web, with_proxier
from tests.support.objects import endpoint, endpoint_slice, service
from userspace_proxy.admin.protocol import AdminError, ErrorCode
from userspace_proxy.agent.ejecting import Ejecting
from userspace_proxy.agent.operator_ejections import OperatorEjections
from userspace_proxy.core.answers.ejections import EjectParameters, UnejectParameters
from userspace_proxy.core.answers.services import named_services
from userspace_proxy.core.objects import Kind
from userspace_proxy.dataplane.messages import ServicePortConfig, TakenOut

API_KEY = "default/api TCP IPv4"


def with_operator(
    scenario: Callable[[Fixture, Operator], Awaitable[None]], ejections: OperatorEjections | None = None
) -> None:
    async def begin(fixture: Fixture) -> None:
        fixture.list_objects(
            *web("10.244.1.2", "10.244.1.3"),
            service("api", at="10.96.0.11"),
            endpoint_slice("api-1", of="api", endpoints=["10.244.1.2"]),
        )
        await fixture.until(lambda: {KEY, API_KEY} <= fixture.workers.serves.keys())
        await scenario(fixture, Operator(fixture))

    with_proxier(begin, ejections=ejections)


class Operator:
    def __init__(self, fixture: Fixture) -> None:
        self.workers = fixture.workers
        self._methods = Ejecting(
            fixture.ejections,
            fixture.proxier,
            lambda text: named_services(text, fixture.proxier.service_ports.values()),
        ).methods()

    async def eject(self, endpoint: str, **more: Any) -> list[str]:
        return await self._ask("eject", EjectParameters(endpoint=endpoint, **more))

    async def uneject(self, endpoint: str, service: str = "") -> list[str]:
        return await self._ask("uneject", UnejectParameters(endpoint=endpoint, service=service))

    async def _ask(self, method: str, parameters: object) -> list[str]:
        answer: AsyncGenerator[Any, None] = self._methods[method].answer(parameters)
        return [f"{item.service_port} {item.endpoint} {item.seconds}" async for item in answer]

    def taken_out(self) -> Mapping[str, list[str]]:
        """What workers know, by Service port."""
        return {
            key: [each.address for each in config.taken_out]
            for key, config in self.workers.serves.items()
            if config.taken_out
        }


async def says_no(asked: Awaitable[object], code: ErrorCode) -> str:
    with pytest.raises(AdminError) as failure:
        await asked
    assert failure.value.code is code
    return str(failure.value)


def test_workers_know_once_it_is_answered_and_again_when_it_is_put_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario(fixture: Fixture, operator: Operator) -> None:
        assert await operator.eject("10.244.1.3:8080") == ["default/web 10.244.1.3:8080 None"]
        assert operator.taken_out() == {KEY: ["10.244.1.3"]}
        assert await operator.uneject("10.244.1.3") == ["default/web 10.244.1.3:8080 None"]
        assert operator.taken_out() == {}

    with_operator(scenario)
    assert (
        "Endpoint taken out by an operator: service_port=default/web endpoint=10.244.1.3:8080 "
        "seconds=until-uneject" in caplog.messages
    )


def test_it_is_taken_out_of_all_that_use_it_or_of_one_service() -> None:
    async def scenario(fixture: Fixture, operator: Operator) -> None:
        assert len(await operator.eject("10.244.1.2", service="web", seconds=60.0)) == 1
        assert operator.taken_out() == {KEY: ["10.244.1.2"]}
        assert len(await operator.eject("10.244.1.2", force=True)) == 2
        assert operator.taken_out() == {KEY: ["10.244.1.2"], API_KEY: ["10.244.1.2"]}
        await operator.uneject("10.244.1.2:8080", service="default/api")
        assert operator.taken_out() == {KEY: ["10.244.1.2"]}

    with_operator(scenario)


def test_the_last_one_is_taken_out_by_force_alone() -> None:
    async def scenario(fixture: Fixture, operator: Operator) -> None:
        said = await says_no(operator.eject("10.244.1.2:8080"), ErrorCode.REFUSED)
        assert said.startswith(
            "10.244.1.2:8080 is the last that default/api TCP IPv4 may use under traffic policy Cluster"
        )
        assert operator.taken_out() == {}, "of nobody, not of some"
        await operator.eject("10.244.1.2", service="web")
        await says_no(operator.eject("10.244.1.3", service="web"), ErrorCode.REFUSED)

    with_operator(scenario)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("10.244.1.9:8080", ErrorCode.NOT_FOUND),
        ("10.244.1.2:81", ErrorCode.NOT_FOUND),
        ("[fd00::1]:80", ErrorCode.NOT_FOUND),
        ("fd00::1", ErrorCode.NOT_FOUND),
        ("[fd00::1]", ErrorCode.NOT_FOUND),
        ("web-1", ErrorCode.BAD_REQUEST),
        ("10.244.1.2:http", ErrorCode.BAD_REQUEST),
        ("", ErrorCode.BAD_REQUEST),
    ],
)
def test_what_is_no_endpoint_of_anybody_is_said(text: str, code: ErrorCode) -> None:
    async def scenario(fixture: Fixture, operator: Operator) -> None:
        await says_no(operator.eject(text), code)
        await says_no(operator.uneject(text), code)

    with_operator(scenario)


def test_no_time_at_all_is_no_time() -> None:
    async def scenario(fixture: Fixture, operator: Operator) -> None:
        for seconds in (0.0, -1.0, float("inf"), float("nan")):
            await says_no(operator.eject("10.244.1.3", seconds=seconds), ErrorCode.BAD_REQUEST)

    with_operator(scenario)


def test_other_changes_leave_it_out_and_a_change_that_lists_it_no_more_forgets_it() -> None:
    async def scenario(fixture: Fixture, operator: Operator) -> None:
        await operator.eject("10.244.1.3")
        fixture.put(
            endpoint_slice(
                of="web", endpoints=["10.244.1.2", "10.244.1.4", endpoint("10.244.1.3", ready=False)]
            )
        )
        await fixture.until(lambda: ("10.244.1.4", 8080) in fixture.endpoints_of(KEY))
        assert operator.taken_out() == {KEY: ["10.244.1.3"]}, "it may soon be ready again"
        fixture.put(web("10.244.1.2", "10.244.1.4")[1])
        await fixture.until(lambda: not list(fixture.ejections.known))
        fixture.put(web("10.244.1.2", "10.244.1.3")[1])
        await fixture.until(lambda: ("10.244.1.3", 8080) in fixture.endpoints_of(KEY))
        assert operator.taken_out() == {}, "the address may be another pod's"

    with_operator(scenario)


def test_a_service_that_goes_takes_it_along() -> None:
    async def scenario(fixture: Fixture, operator: Operator) -> None:
        await operator.eject("10.244.1.3")
        fixture.delete(Kind.SERVICE, "web")
        await fixture.until(lambda: not list(fixture.ejections.known))

    with_operator(scenario)


def test_the_next_agent_knows_what_its_predecessors_workers_were_told() -> None:
    async def scenario(fixture: Fixture, operator: Operator) -> None:
        assert operator.taken_out() == {KEY: ["10.244.1.2"]}

    inherited = OperatorEjections()
    inherited.inherit(
        [
            told(KEY, TakenOut("10.244.1.2", 8080, None), TakenOut("10.244.1.3", 8080, 0.001)),
            told(API_KEY, TakenOut("10.244.1.77", 8080, None)),
        ]
    )
    with_operator(scenario, inherited)


def test_what_went_while_no_agent_ran_takes_it_along() -> None:
    async def scenario(fixture: Fixture, operator: Operator) -> None:
        assert not list(fixture.ejections.known)

    inherited = OperatorEjections()
    inherited.inherit([told("default/gone TCP IPv4", TakenOut("10.244.1.2", 8080, None))])
    with_operator(scenario, inherited)


def told(key: str, *taken_out: TakenOut) -> ServicePortConfig:
    return ServicePortConfig(key, "default/web", "TCP", "IPv4", None, 30.0, 120.0, (), taken_out=taken_out)
