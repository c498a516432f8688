"""What is measured once, on testbeds of its own, step by step: memory, long runs, many of something."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from benchmarks import generators
from benchmarks.large_cluster import LIVE_SERVICES, LargeCluster
from benchmarks.peer import Peer
from benchmarks.peers import PEERS, Ours
from benchmarks.processes import cpu_seconds, descriptors, resident_bytes
from benchmarks.runs import PeerSet
from benchmarks.testbed import (
    CLIENT_SOURCES,
    DNS,
    ECHO,
    ECHO_BESIDE,
    SERVICE_ADDRESS,
    ServicePort,
    wait_until,
)
from benchmarks.works import CLIENTS, HTTP_URL, Cost, Figures, Metric

_MIB: Final = 1 << 20
_RESERVED_DESCRIPTORS: Final = 2000
_SETTLE_SECONDS: Final = 10.0
_FLOWS_END_SECONDS: Final = 3.0
"""After it the flows of DNS queries have ended."""
_IDLE_CYCLES: Final = 4
_IDLE_SECONDS: Final = 30.0
"""As often as the agent reads all rules back."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How thoroughly: `is_quick` leaves out what takes long; `peers` are who takes part where all can."""

    seconds: int
    is_quick: bool
    max_descriptors: int
    peers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """What a study came to at `x` for one of its series."""

    series: str
    x: float
    figures: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Study:
    """`x` names what changes from step to step."""

    name: str
    title: str
    x: str
    metrics: tuple[Metric, ...]
    measure: Callable[[PeerSet, Pace], Iterator[Step]]


def _idle(ready: PeerSet, pace: Pace) -> Iterator[Step]:
    wanted = 500 if pace.is_quick else 8000
    count = min(wanted, (pace.max_descriptors - _RESERVED_DESCRIPTORS) // 2)
    for name in pace.peers:
        peer = PEERS[name](ready.testbed(f"idle-{name}"))
        peer.start()
        if pids := peer.processes():
            _hold_idle(peer, min(count, 64))  # what is made once and kept: buffers, pools
            before, held = resident_bytes(pids), descriptors(pids)
            during, after = [], []
            for _ in range(_IDLE_CYCLES):
                during.append(_hold_idle(peer, count))
                after.append(resident_bytes(pids))
            figures = {
                "memory": (max(memory for memory, _ in during) - before) / count / 1024,
                "descriptors": (max(open_ for _, open_ in during) - held) / count,
                "before": before / _MIB,
                "after": after[-2] / _MIB,
                "again": after[-1] / _MIB,
            }
            yield Step(name, count, figures)
        peer.testbed.close()


def _hold_idle(peer: Peer, count: int) -> tuple[int, int]:
    """Memory and descriptors while so many connections rest at two ports; returns when they are closed."""
    testbed, pids = peer.testbed, peer.processes()
    before = descriptors(pids)
    with ExitStack() as stack:
        clients = []
        for port in (ECHO, ECHO_BESIDE):
            command = ("idle", SERVICE_ADDRESS, str(port.port), str(count // 2), ",".join(CLIENT_SOURCES))
            clients.append(stack.enter_context(testbed.start_client(str(testbed.load), *command)))
        for client in clients:
            assert client.stdout is not None and client.stdin is not None
            if client.stdout.readline() != "ready\n":
                raise generators.MeasurementError(f"{count} connections could not be opened")
        held = resident_bytes(pids), descriptors(pids)
        for client in clients:
            assert client.stdin is not None
            client.stdin.close()
            client.wait(30)
    wait_until(
        lambda: descriptors(pids) <= before + count // 10 + 10,
        seconds=_SETTLE_SECONDS,
        what="idle ones closed",
    )
    time.sleep(0.5)
    return held


def _soak(ready: PeerSet, pace: Pace) -> Iterator[Step]:
    minute = 1 if pace.is_quick else 60
    ours = Ours(ready.testbed("soak"))
    ours.start()

    def load(headers: Sequence[str]) -> generators.Exchanges:
        command = generators.wrk(HTTP_URL, clients=CLIENTS // 2, seconds=minute, headers=headers)
        return ours.testbed.exchange(*command, seconds=minute)

    for number in range(1, 6):
        with Cost(ours) as cost, ThreadPoolExecutor(2) as threads:
            requests, connections = threads.map(load, ((), ("Connection: close",)))
        figures = {
            "rate": requests.done / minute,
            "p99": requests.p99_us,
            "connections": connections.done / minute,
            "connections_p99": connections.p99_us,
            "busy": cost.seconds / minute * 100,
            "memory": resident_bytes(ours.processes()) / _MIB,
            "descriptors": descriptors(ours.processes()),
        }
        yield Step("ours", number, figures)


def _without_end(mode: str, port: ServicePort) -> Callable[[PeerSet, Pace], Iterator[Step]]:
    """A minute of what takes a port of the node, and for UDP a descriptor, each time."""

    def measure(ready: PeerSet, pace: Pace) -> Iterator[Step]:
        seconds = 2 if pace.is_quick else 60
        ours = Ours(ready.testbed(mode))
        ours.start()
        pids, workers = ours.processes(), ours.workers()
        before, memory = descriptors(workers), resident_bytes(pids)
        exchanges = ours.testbed.exchange_load(mode, port, seconds, CLIENTS)
        time.sleep(_FLOWS_END_SECONDS)
        figures = {
            "done": exchanges.done,
            "rate": exchanges.done / exchanges.seconds,
            "p99": exchanges.p99_us,
            "failed": exchanges.failed + exchanges.lost,
            "leaked": descriptors(workers) - before,
            "before": memory / _MIB,
            "memory": resident_bytes(pids) / _MIB,
        }
        yield Step("ours", seconds, figures)

    return measure


def _workers(ready: PeerSet, pace: Pace) -> Iterator[Step]:
    everywhere = f"{ready.cores.proxy},{ready.cores.load}"
    for number, (series, cores, services) in enumerate(
        (
            ("one core", ready.cores.proxy, LIVE_SERVICES),
            ("all cores", everywhere, LIVE_SERVICES),
            ("one Service", everywhere, 1),
        )
    ):
        for workers in (1, 2) if pace.is_quick else (1, 2, 4, 8):
            testbed = ready.testbed(f"workers-{number}-{workers}")
            large = LargeCluster(
                testbed,
                services=services,
                endpoints=1,
                workers=workers,
                cores=cores,
                is_shared=services == 1,
            )
            pids = large.ours.workers()
            large.connect(1, CLIENTS)
            before = [cpu_seconds([pid]) for pid in pids]
            exchanges = large.connect(pace.seconds, CLIENTS)
            busy = sorted(cpu_seconds([pid]) - at for pid, at in zip(pids, before, strict=True))[-workers:]
            figures = {
                "rate": exchanges.done / exchanges.seconds,
                "cpu": sum(busy) * 1e6 / exchanges.done,
                "evenness": max(busy) / statistics.mean(busy),
            }
            yield Step(series, workers, figures)
            testbed.close()


def _services(ready: PeerSet, pace: Pace) -> Iterator[Step]:
    """10 endpoints each, so 100,000 with the last."""
    for wanted in (100,) if pace.is_quick else (100, 1000, 3000, 10_000):
        services = min(wanted, pace.max_descriptors - _RESERVED_DESCRIPTORS)
        testbed = ready.testbed(f"services-{wanted}")
        large = LargeCluster(testbed, services=services, endpoints=10, workers=2)
        figures = {"start": large.start_seconds}
        time.sleep(2)  # what follows a start, such as a second look at the rules
        figures["idle"] = large.agent_share(2 if pace.is_quick else _IDLE_SECONDS) * 100
        figures["memory"] = large.agent_bytes() / _MIB
        with Cost(large.ours) as cost:
            exchanges = large.connect(pace.seconds, CLIENTS)
        figures["cpu"] = cost.seconds * 1e6 / exchanges.done
        figures |= _changes(large, 10 if pace.is_quick else 50)
        yield Step("ours", services, figures)
        testbed.close()


def _changes(large: LargeCluster, count: int) -> Figures:
    """How soon changes have effect, and what they do to the traffic of Services that they are not about."""
    changing, others = large.live[:2], large.addresses[2:]
    took = sorted(large.effect_milliseconds(changing) for _ in range(count))
    seconds = count / 10
    quiet = large.connect(seconds, 4, others)
    with ThreadPoolExecutor(1) as thread:
        beside = thread.submit(large.connect, seconds, 4, others)
        while not beside.done():
            large.change(changing)
            time.sleep(0.05)
    return {
        "change": statistics.median(took),
        "change_worst": took[-1],
        "quiet_p99": quiet.p99_us,
        "beside_p99": beside.result().p99_us,
    }


def _endpoints(ready: PeerSet, pace: Pace) -> Iterator[Step]:
    for endpoints in (1, 100) if pace.is_quick else (1, 10, 100, 1000):
        testbed = ready.testbed(f"endpoints-{endpoints}")
        large = LargeCluster(testbed, services=1, endpoints=endpoints, workers=1)
        with Cost(large.ours) as cost:
            exchanges = large.connect(pace.seconds, CLIENTS)
        yield Step("ours", endpoints, {"cpu": cost.seconds * 1e6 / exchanges.done})
        testbed.close()


def _connections(ready: PeerSet, pace: Pace) -> Iterator[Step]:
    for name in pace.peers:
        peer = PEERS[name](ready.testbed(f"clients-{name}"))
        peer.start()
        for clients in (1, 64) if pace.is_quick else (1, 8, 64, 512, 4000):
            command = generators.wrk(HTTP_URL, clients=clients, seconds=pace.seconds)
            with Cost(peer) as cost:
                exchanges = peer.testbed.exchange(*command, seconds=pace.seconds)
            figures = {"rate": exchanges.done / exchanges.seconds, "p99": exchanges.p99_us}
            yield Step(name, clients, {**figures, **cost.per(exchanges.done)})
        peer.testbed.close()


_WITHOUT_END: Final = (
    Metric("done", "done", "", True),
    Metric("rate", "", "/s", True),
    Metric("p99", "p99", "µs", False),
    Metric("failed", "failed", "", False),
    Metric("leaked", "descriptors that stay", "", False),
    Metric("before", "memory before", "MiB", False),
    Metric("memory", "after", "MiB", False),
)
_CPU: Final = Metric("cpu", "CPU", "µs per connection", False)

STUDIES: Final[dict[str, Study]] = {
    study.name: study
    for study in (
        Study(
            "idle",
            "Idle connections",
            "connections",
            (
                Metric("memory", "memory", "KiB each", False),
                Metric("descriptors", "descriptors", "each", False),
                Metric("before", "before", "MiB", False),
                Metric("after", "closed", "MiB", False),
                Metric("again", "all of it again", "MiB", False),
            ),
            _idle,
        ),
        Study(
            "soak",
            "Five minutes at full load, half of it keep-alive and half a connection per request",
            "minute",
            (
                Metric("rate", "", "requests/s", True),
                Metric("p99", "p99", "µs", False),
                Metric("connections", "", "connections/s", True),
                Metric("connections_p99", "p99", "µs", False),
                Metric("busy", "CPU", "%", False),
                Metric("memory", "memory", "MiB", False),
                Metric("descriptors", "descriptors", "", False),
            ),
            _soak,
        ),
        Study(
            "queries",
            "UDP, a fresh source port per query, for a minute",
            "seconds",
            _WITHOUT_END,
            _without_end("udp-fresh", DNS),
        ),
        Study(
            "closes",
            "Clients that close first, for a minute: more connections than there are ports to the endpoint",
            "seconds",
            _WITHOUT_END,
            _without_end("connections", ECHO),
        ),
        Study(
            "workers",
            f"A connection per message over {LIVE_SERVICES} Services, and over one that workers share",
            "workers",
            (
                Metric("rate", "", "connections/s", True),
                _CPU,
                Metric("evenness", "busiest worker", "of the mean", False),
            ),
            _workers,
        ),
        Study(
            "services",
            "Many Services with 10 endpoints each",
            "Services",
            (
                Metric("start", "listed to served", "s", False),
                Metric("memory", "agent", "MiB", False),
                Metric("idle", "idle agent", "% of a core", False),
                _CPU,
                Metric("change", "endpoint change to effect", "ms", False),
                Metric("change_worst", "worst", "ms", False),
                Metric("quiet_p99", "traffic p99", "µs", False),
                Metric("beside_p99", "beside changes", "µs", False),
            ),
            _services,
        ),
        Study("endpoints", "Many endpoints of a Service", "endpoints", (_CPU,), _endpoints),
        Study(
            "clients",
            "HTTP keep-alive, many clients",
            "clients",
            (
                Metric("cpu", "CPU", "µs per request", False),
                Metric("rate", "", "requests/s", True),
                Metric("p99", "p99", "µs", False),
            ),
            _connections,
        ),
    )
}
