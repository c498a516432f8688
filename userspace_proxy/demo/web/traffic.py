"""What travelled between two readings of the agents' counters; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

import msgspec

from userspace_proxy.core.answers.endpoints import EndpointAnswer
from userspace_proxy.demo.web.view import AgentReading, Readings, service_of, target_of


class Flow(msgspec.Struct, frozen=True):
    """The agent of `node` opened so many connections of a Service to `target`, and so many attempts failed.

    `target` is a pod as `namespace/name`, or an address that is no pod's.
    """

    node: str
    service: str
    target: str
    opened: int
    failed: int


class ServiceRate(msgspec.Struct, frozen=True):
    """Of a Service, over all agents: retried are connections that met a failing endpoint and went on."""

    opened: int
    failed: int
    retried: int
    refused: int


class Tick(msgspec.Struct, frozen=True):
    """What went on in the last `seconds`."""

    seconds: float
    flows: tuple[Flow, ...]
    services: dict[str, ServiceRate]


_Counters: TypeAlias = dict[tuple[str, ...], tuple[int, ...]]


def tick(before: Readings, after: Readings, keys: Mapping[str, str], seconds: float) -> Tick:
    """What happened between two readings that are `seconds` apart.

    An agent that was not read before has no part in it; counters that fell were begun anew, with 0.
    """
    flows: dict[tuple[str, str, str], tuple[int, ...]] = {}
    services: dict[str, tuple[int, ...]] = {}
    for node, reading in sorted(after.items()):
        if node not in before:
            continue
        earlier = before[node]
        for key, (opened, refused, silent) in _grown(_of_endpoints(earlier), _of_endpoints(reading)):
            place = node, service_of(key[0]), target_of(key[3], keys)
            flows[place] = _sum(flows.get(place, (0, 0)), (opened, max(refused, silent)))
        for key, grown in _grown(_of_service_ports(earlier), _of_service_ports(reading)):
            name = service_of(key[0])
            services[name] = _sum(services.get(name, (0, 0, 0, 0)), grown)
    return Tick(
        round(seconds, 3),
        tuple(Flow(*place, *counts) for place, counts in flows.items()),
        {name: ServiceRate(*counts) for name, counts in services.items()},
    )


def _grown(before: _Counters, after: _Counters) -> Iterator[tuple[tuple[str, ...], tuple[int, ...]]]:
    for key, counts in after.items():
        old = before.get(key)
        if old is None or counts[0] < old[0]:
            old = (0,) * len(counts)
        grown = tuple(max(0, new - was) for new, was in zip(counts, old, strict=True))
        if any(grown):
            yield key, grown


def _of_endpoints(reading: AgentReading) -> _Counters:
    """What was opened and what was refused; and what failed in a row, got no answer included."""
    return {
        _endpoint_key(each): (each.opened, each.failed, each.health.failures) for each in reading.endpoints
    }


def _endpoint_key(each: EndpointAnswer) -> tuple[str, ...]:
    return each.service_port, each.protocol, each.family, each.endpoint


def _of_service_ports(reading: AgentReading) -> _Counters:
    return {
        (each.service_port, each.protocol, each.family): (
            each.opened,
            each.failed,
            each.retried,
            each.refused,
        )
        for each in reading.service_ports
    }


def _sum(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip(one, other, strict=True))
