"""What the page shows to travel, of two readings of counters."""

from __future__ import annotations

from tests.demo.web.answers import endpoint, service_port
from userspace_proxy.core.answers.endpoints import EndpointHealth
from userspace_proxy.demo.web.traffic import Flow, ServiceRate, tick
from userspace_proxy.demo.web.view import AgentReading

KEYS = {"10.244.1.2": "default/a", "10.244.1.3": "default/b"}


def reading(a: tuple[int, int], b: tuple[int, int], opened: int, retried: int = 0) -> AgentReading:
    """Endpoints a and b with what was opened and failed; and what the Service port has counted."""
    return AgentReading(
        (service_port(opened=opened, retried=retried),),
        (
            endpoint("10.244.1.2:8080", opened=a[0], failed=a[1]),
            endpoint("10.244.1.3:8080", opened=b[0], failed=b[1]),
        ),
    )


def test_what_grew_has_travelled() -> None:
    before = {"node-1": reading((5, 0), (5, 0), 10)}
    after = {"node-1": reading((8, 0), (5, 2), 13, retried=2)}
    seen = tick(before, after, KEYS, 0.4)
    assert seen.flows == (
        Flow("node-1", "default/web", "default/a", 3, 0),
        Flow("node-1", "default/web", "default/b", 0, 2),
    )
    assert seen.services == {"default/web": ServiceRate(3, 0, 2, 0)}
    assert seen.seconds == 0.4


def test_attempts_that_got_no_answer_are_those_that_failed_in_a_row() -> None:
    def silent(opened: int, failures: int) -> dict[str, AgentReading]:
        health = EndpointHealth(failures=failures)
        return {"node-1": AgentReading((), (endpoint(opened=opened, health=health),))}

    assert tick(silent(5, 1), silent(5, 3), KEYS, 0.4).flows == (
        Flow("node-1", "default/web", "default/a", 0, 2),
    )
    assert tick(silent(5, 3), silent(6, 0), KEYS, 0.4).flows == (
        Flow("node-1", "default/web", "default/a", 1, 0),
    )


def test_nothing_travels_where_nothing_grew() -> None:
    same = {"node-1": reading((5, 0), (5, 0), 10)}
    assert tick(same, same, KEYS, 0.4).flows == ()
    assert tick(same, {}, KEYS, 0.4).flows == ()


def test_an_agent_that_was_not_read_before_has_carried_nothing_new() -> None:
    assert tick({}, {"node-1": reading((5, 0), (5, 0), 10)}, KEYS, 0.4).flows == ()


def test_counters_that_fell_were_begun_anew() -> None:
    before = {"node-1": reading((50, 0), (0, 0), 50)}
    after = {"node-1": reading((2, 0), (0, 0), 2)}
    seen = tick(before, after, KEYS, 0.4)
    assert seen.flows == (Flow("node-1", "default/web", "default/a", 2, 0),)
    assert seen.services["default/web"].opened == 2


def test_an_endpoint_that_is_new_began_with_nothing() -> None:
    before = {"node-1": AgentReading((service_port(),), ())}
    seen = tick(before, {"node-1": reading((4, 0), (0, 0), 4)}, {}, 0.4)
    assert seen.flows == (Flow("node-1", "default/web", "10.244.1.2", 4, 0),)


def test_several_ports_of_a_service_are_one_flow() -> None:
    twice = AgentReading((service_port(),), (endpoint(), endpoint("10.244.1.2:9090")))
    grown = AgentReading((service_port(),), (endpoint(opened=1), endpoint("10.244.1.2:9090", opened=2)))
    seen = tick({"node-1": twice}, {"node-1": grown}, KEYS, 0.4)
    assert seen.flows == (Flow("node-1", "default/web", "default/a", 3, 0),)
