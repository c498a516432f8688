"""What peers have to do: a work is given a peer and returns figures, `done` among them: how much it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from benchmarks import generators
from benchmarks.generators import Exchanges
from benchmarks.peer import Peer
from benchmarks.processes import cpu_seconds, descriptors
from benchmarks.testbed import BULK, DNS, ECHO, ECHO_UDP, SERVICE_ADDRESS

Figures = Mapping[str, float]

CLIENTS: Final = 64
HTTP_URL: Final = f"http://{SERVICE_ADDRESS}/"


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure of a work. `unit` is what a reader sees beside it."""

    key: str
    title: str
    unit: str
    is_better_higher: bool


@dataclass(frozen=True, slots=True)
class Work:
    """Something to do. `measure` takes a peer and about how many seconds to take over it."""

    name: str
    title: str
    metrics: tuple[Metric, ...]
    measure: Callable[[Peer, int], Figures]
    needs_udp: bool = False


class Cost:
    """The CPU time that a peer's processes take within a `with` block, in seconds."""

    def __init__(self, peer: Peer) -> None:
        self.seconds = 0.0
        self._pids = peer.processes()

    def __enter__(self) -> Cost:
        self._before = cpu_seconds(self._pids)
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = cpu_seconds(self._pids) - self._before

    def per(self, count: float) -> Figures:
        """The metric `cpu`, in what a millionth of `count` is: µs each, or s per GB for MB. Kernel work is
        nobody's."""
        return {"cpu": self.seconds * 1e6 / count} if self._pids else {}


def _figures(exchanges: Exchanges) -> Figures:
    return {
        "done": exchanges.done,
        "rate": exchanges.done / exchanges.seconds,
        "p50": exchanges.p50_us,
        "p99": exchanges.p99_us,
        "failed": exchanges.failed + exchanges.lost,
    }


def _bulk(streams: int, *, is_download: bool) -> Callable[[Peer, int], Figures]:
    def measure(peer: Peer, seconds: int) -> Figures:
        command = generators.iperf3(
            SERVICE_ADDRESS, BULK.port, streams=streams, seconds=seconds, is_download=is_download
        )
        with Cost(peer) as cost:
            transfer = peer.testbed.transfer(*command, seconds=seconds)
        gigabytes = transfer.bytes / 1e9
        rate = gigabytes * 8 / transfer.seconds
        return {"done": gigabytes, "rate": rate, **cost.per(gigabytes * 1e6)}

    return measure


def _http(*headers: str) -> Callable[[Peer, int], Figures]:
    def measure(peer: Peer, seconds: int) -> Figures:
        command = generators.wrk(HTTP_URL, clients=CLIENTS, seconds=seconds, headers=headers)
        with Cost(peer) as cost:
            exchanges = peer.testbed.exchange(*command, seconds=seconds)
        return {**_figures(exchanges), **cost.per(exchanges.done)}

    return measure


def _connections_client_first(peer: Peer, seconds: int) -> Figures:
    with Cost(peer) as cost:
        exchanges = peer.testbed.exchange_load("connections", ECHO, seconds, CLIENTS)
    return {**_figures(exchanges), **cost.per(exchanges.done)}


def _ping_pong(peer: Peer, seconds: int) -> Figures:
    with Cost(peer) as cost:
        exchanges = peer.testbed.exchange_load("ping-pong", ECHO, seconds)
    return {**_figures(exchanges), **cost.per(exchanges.done)}


def _udp_flows(peer: Peer, seconds: int) -> Figures:
    with Cost(peer) as cost:
        exchanges = peer.testbed.exchange_load("udp-flows", ECHO_UDP, seconds, CLIENTS, "-")
    return {**_figures(exchanges), **cost.per(exchanges.done)}


def _udp_fresh(peer: Peer, seconds: int) -> Figures:
    with Cost(peer) as cost:
        exchanges = peer.testbed.exchange_load("udp-fresh", DNS, seconds, CLIENTS)
    held = {"descriptors": descriptors(peer.processes())} if peer.processes() else {}
    return {**_figures(exchanges), **cost.per(exchanges.done), **held}


_FAILED: Final = Metric("failed", "failed", "", False)
_P50: Final = Metric("p50", "p50", "µs", False)
_P99: Final = Metric("p99", "p99", "µs", False)
_BULK: Final = (Metric("rate", "", "Gbit/s", True), Metric("cpu", "CPU", "s per GB", False))


def _metrics(things: str, thing: str) -> tuple[Metric, ...]:
    rate, cpu = Metric("rate", "", f"{things}/s", True), Metric("cpu", "CPU", f"µs per {thing}", False)
    return rate, cpu, _P50, _P99, _FAILED


WORKS: Final[dict[str, Work]] = {
    work.name: work
    for work in (
        Work("bulk-1", "TCP bulk, 1 stream, to the endpoint", _BULK, _bulk(1, is_download=False)),
        Work("bulk-8", "TCP bulk, 8 streams, to the endpoint", _BULK, _bulk(8, is_download=False)),
        Work("bulk-1-down", "TCP bulk, 1 stream, to the client", _BULK, _bulk(1, is_download=True)),
        Work("bulk-8-down", "TCP bulk, 8 streams, to the client", _BULK, _bulk(8, is_download=True)),
        Work("http", "HTTP keep-alive, 64 clients", _metrics("requests", "request"), _http()),
        Work(
            "connections",
            "A connection per request, 64 clients",
            _metrics("connections", "connection"),
            _http("Connection: close"),
        ),
        Work(
            "connections-client-first",
            "A connection per message, 64 clients that close first",
            _metrics("connections", "connection"),
            _connections_client_first,
        ),
        Work(
            "ping-pong",
            "Ping-pong, 1 client",
            (_P50, _P99, *_metrics("exchanges", "exchange")[:2]),
            _ping_pong,
        ),
        Work("udp-flows", "UDP, 64 flows", _metrics("exchanges", "exchange"), _udp_flows, needs_udp=True),
        Work(
            "udp-fresh",
            "UDP, a fresh source port per query",
            (*_metrics("queries", "query"), Metric("descriptors", "descriptors after", "", False)),
            _udp_fresh,
            needs_udp=True,
        ),
    )
}
