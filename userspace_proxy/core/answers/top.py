"""What Service ports carry a second: differences between two readings of the workers' counters."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from userspace_proxy.core.answers.shape import Parameters, Shape
from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.histogram import quantile
from userspace_proxy.core.service_port import Port, ServicePortName
from userspace_proxy.core.traffic_counters import (
    CONNECT_BOUNDS_SECONDS,
    EndpointCounters,
    EndpointKey,
    ServicePortCounters,
)
from userspace_proxy.core.traffic_totals import Reading


class TopQuestion(Parameters, frozen=True):
    """Those of a Service or one of its ports, "" for all: the `limit` busiest, and as many endpoints of each.
    A frame comes every `interval_seconds`, for ever.
    """

    service: str = ""
    interval_seconds: float = 1.0
    limit: int = 20


class Rates(Shape, frozen=True):
    """Connections, or flows, and bytes as clients see them; `active` is how many go on now.

    `failures` of an endpoint are attempts that failed there, those of a Service port clients that got none.
    """

    active: int = 0
    connections_per_second: float = 0.0
    failures_per_second: float = 0.0
    bytes_in_per_second: float = 0.0
    bytes_out_per_second: float = 0.0


class EndpointRates(Rates, frozen=True, kw_only=True):
    endpoint: str


class ServicePortRates(Rates, frozen=True, kw_only=True):
    """`connect_p50_seconds` and `_p99_seconds` are from a client's arrival until an endpoint answered; None
    if no TCP connection was made. `ejected` endpoints are left out now because they keep failing.
    """

    service_port: str
    protocol: str
    family: str
    retries_per_second: float = 0.0
    refused_per_second: float = 0.0
    connect_p50_seconds: float | None = None
    connect_p99_seconds: float | None = None
    ejected: int = 0
    endpoints: tuple[EndpointRates, ...] = ()

    @property
    def is_idle(self) -> bool:
        return not (
            self.active
            or self.connections_per_second
            or self.failures_per_second
            or self.refused_per_second
            or self.bytes_in_per_second
            or self.bytes_out_per_second
        )


class TopFrame(Shape, frozen=True):
    """The busiest Service ports within the last `seconds`; `left_out` are others that have traffic too."""

    seconds: float
    service_ports: tuple[ServicePortRates, ...]
    left_out: int
    total: Rates


def top_frame(
    before: Mapping[int, Reading],
    now: Mapping[int, Reading],
    seconds: float,
    meant: Collection[str] | None,
    limit: int,
) -> TopFrame:
    """What was carried between two readings, by worker; `meant` are keys of Service ports, None: all."""
    found = [
        _rates_of(key, carried, seconds, limit)
        for key, carried in _carried(before, now).items()
        if meant is None or key in meant
    ]
    busy = sorted((each for each in found if not each.is_idle), key=_busiest_first)
    return TopFrame(
        seconds=round(seconds, 3),
        service_ports=tuple(busy[:limit]),
        left_out=max(0, len(busy) - limit),
        total=Rates(
            active=sum(each.active for each in busy),
            connections_per_second=sum(each.connections_per_second for each in busy),
            failures_per_second=sum(each.failures_per_second for each in busy),
            bytes_in_per_second=sum(each.bytes_in_per_second for each in busy),
            bytes_out_per_second=sum(each.bytes_out_per_second for each in busy),
        ),
    )


def _busiest_first(rates: ServicePortRates) -> tuple[float, float, int, str]:
    transferred = rates.bytes_in_per_second + rates.bytes_out_per_second
    return -rates.connections_per_second, -transferred, -rates.active, rates.service_port


def _carried(before: Mapping[int, Reading], now: Mapping[int, Reading]) -> dict[str, ServicePortCounters]:
    """What each Service port has more than before; a worker that is new has begun from nothing."""
    carried: dict[str, ServicePortCounters] = {}
    for worker, reading in now.items():
        earlier = before.get(worker, {})
        for key, counters in reading.items():
            known = earlier.get(key)
            if known == counters and not counters.active:
                continue
            total = carried.setdefault(key, ServicePortCounters())
            _add(total, counters, _earlier(known, counters))
    return carried


def _earlier(known: ServicePortCounters | None, now: ServicePortCounters) -> ServicePortCounters:
    """Nothing, if the Service port was removed and came back since."""
    return ServicePortCounters() if known is None or known.opened > now.opened else known


def _add(total: ServicePortCounters, now: ServicePortCounters, before: ServicePortCounters) -> None:
    total.active += now.active
    total.ejected += now.ejected
    total.opened += now.opened - before.opened
    total.failed += max(0, now.failed - before.failed)
    total.retried += max(0, now.retried - before.retried)
    total.refused_no_room += max(0, now.refused - before.refused)
    total.departed_bytes_in += max(0, now.bytes_in - before.bytes_in)
    total.departed_bytes_out += max(0, now.bytes_out - before.bytes_out)
    more = (max(0, after - earlier) for after, earlier in zip(now.connects, before.connects, strict=True))
    total.connects = [known + each for known, each in zip(total.connects, more, strict=True)]
    for endpoint, there in now.endpoints.items():
        earlier = before.endpoints.get(endpoint, EndpointCounters())
        sums = total.at(*endpoint)
        sums.active += there.active
        sums.opened += max(0, there.opened - earlier.opened)
        sums.failed += max(0, there.failed - earlier.failed)
        sums.bytes_in += max(0, there.bytes_in - earlier.bytes_in)
        sums.bytes_out += max(0, there.bytes_out - earlier.bytes_out)


def _rates_of(key: str, carried: ServicePortCounters, seconds: float, limit: int) -> ServicePortRates:
    name = ServicePortName.from_key(key)
    return ServicePortRates(
        service_port=str(name),
        protocol=name.protocol.value,
        family=name.family.value,
        active=carried.active,
        connections_per_second=carried.opened / seconds,
        failures_per_second=carried.failed / seconds,
        bytes_in_per_second=carried.departed_bytes_in / seconds,
        bytes_out_per_second=carried.departed_bytes_out / seconds,
        retries_per_second=carried.retried / seconds,
        refused_per_second=carried.refused / seconds,
        connect_p50_seconds=quantile(0.5, CONNECT_BOUNDS_SECONDS, carried.connects),
        connect_p99_seconds=quantile(0.99, CONNECT_BOUNDS_SECONDS, carried.connects),
        ejected=carried.ejected,
        endpoints=tuple(_endpoint_rates(carried.endpoints, seconds, limit)),
    )


def _endpoint_rates(
    endpoints: Mapping[EndpointKey, EndpointCounters], seconds: float, limit: int
) -> Iterable[EndpointRates]:
    busy = sorted(
        endpoints.items(), key=lambda item: (-item[1].opened, -item[1].bytes_in - item[1].bytes_out, item[0])
    )
    for (address, port), carried in busy[:limit]:
        yield EndpointRates(
            endpoint=str(Endpoint(address, Port(port))),
            active=carried.active,
            connections_per_second=carried.opened / seconds,
            failures_per_second=carried.failed / seconds,
            bytes_in_per_second=carried.bytes_in / seconds,
            bytes_out_per_second=carried.bytes_out / seconds,
        )
