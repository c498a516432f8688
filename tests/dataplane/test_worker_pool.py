"""The pool with real processes: they serve, they die, and nobody who waits is refused."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import msgspec
import pytest
import uvloop

from tests.support.loopback import reset, silent
from tests.support.recorded_events import RecordedEvents
from tests.support.traffic import carried
from userspace_proxy.core.port_claims import PortRange, ProxyPortClaims
from userspace_proxy.core.proxy_plan import ListenerName
from userspace_proxy.core.service_port import (
    IPFamily,
    Protocol,
    ServiceName,
    ServicePortName,
    TrafficPolicy,
)
from userspace_proxy.core.traffic_totals import TrafficTotals
from userspace_proxy.dataplane.control_sockets import ControlSockets
from userspace_proxy.dataplane.listening_sockets import ListeningSockets
from userspace_proxy.dataplane.messages import ListenerConfig, ServicePortConfig, Start, WorkerLimits
from userspace_proxy.dataplane.worker_pool import WorkerPool


@contextmanager
def greeter(name: str) -> Iterator[tuple[str, int]]:
    """An endpoint that says its name and closes."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.sendall(name.encode())

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield server.getsockname()
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


def ask(port: int) -> str:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        return connection.recv(100).decode()


async def until_over(pool: WorkerPool, config: ServicePortConfig) -> None:
    """Wait until the Service port has no connection."""
    while (await carried(pool))[config.key].active:
        await asyncio.sleep(0.01)


class Fixture:
    """A pool of `size` workers and the listeners that it serves."""

    def __init__(self, size: int, control_sockets: ControlSockets) -> None:
        self.sockets = ListeningSockets(
            ProxyPortClaims(PortRange(11000, 29999)), {IPFamily.IPV4: "127.0.0.1"}, Random()
        )
        self.events = RecordedEvents()
        self.pool = WorkerPool(
            asyncio.get_running_loop(),
            size=size,
            limits=WorkerLimits(dials_any_address=True),
            random=Random(1),
            listener_of=self.sockets.socket_of,
            control_sockets=control_sockets,
            build="1",
            orphan_seconds=0,
            drain_seconds=60,
            record_event=self.events,
        )

    def config(self, service: str, *endpoints: tuple[str, int]) -> tuple[ServicePortConfig, int]:
        service_port = ServicePortName(ServiceName("default", service), "", Protocol.TCP, IPFamily.IPV4)
        name = ListenerName(service_port, TrafficPolicy.CLUSTER)
        port = self.sockets.port_of(name) if name in self.sockets else self.sockets.open(name, None)
        listener = ListenerConfig(TrafficPolicy.CLUSTER.value, port, endpoints)
        config = ServicePortConfig(
            service_port.key, str(service_port), "TCP", "IPv4", None, 30.0, 120.0, (listener,)
        )
        return config, port


def with_pool(size: int, scenario: Callable[[Fixture], Awaitable[None]]) -> None:
    async def run(control_sockets: ControlSockets) -> None:
        fixture = Fixture(size, control_sockets)
        try:
            async with asyncio.timeout(60):
                await fixture.pool.start()
                await scenario(fixture)
        finally:
            await fixture.pool.close()
            fixture.sockets.close_all()

    with TemporaryDirectory() as directory:
        control_sockets = ControlSockets(Path(directory) / "state")
        control_sockets.prepare()
        try:
            uvloop.run(run(control_sockets))
            assert list(control_sockets.folder.iterdir()) == []
        finally:
            control_sockets.remove()


def read(path: str) -> str:
    return Path(path).read_text()


def open_descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def children() -> set[int]:
    pids: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that ended meanwhile
            pids.update(map(int, (task / "children").read_text().split()))
    return pids


def test_a_connection_goes_by_what_was_acknowledged() -> None:
    async def scenario(fixture: Fixture) -> None:
        with greeter("old") as old, greeter("new") as new:
            config, port = fixture.config("web", old)
            await fixture.pool.configure([config])
            assert await asyncio.to_thread(ask, port) == "old"
            config, port = fixture.config("web", new)
            await fixture.pool.configure([config])
            assert await asyncio.to_thread(ask, port) == "new"
            counters = await carried(fixture.pool)
            assert counters[config.key].opened == 2

    with_pool(1, scenario)


def test_workers_import_nothing_from_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "msgspec.py").write_text("raise SystemExit('anybody may have put this here')")
    monkeypatch.chdir(tmp_path)

    async def scenario(fixture: Fixture) -> None:
        assert len(fixture.pool.pids) == 1

    with_pool(1, scenario)


def test_a_state_that_cannot_be_told_leaves_no_seat_empty() -> None:
    async def scenario(fixture: Fixture) -> None:
        with greeter("here") as here:
            bad, _ = fixture.config("bad", here)
            fixture.sockets.close_all()
            told = asyncio.create_task(fixture.pool.configure([bad]))
            while not fixture.pool.replaced:
                await asyncio.sleep(0.01)
            good, port = fixture.config("good", here)
            await fixture.pool.configure([good], removed=[bad.key])
            await told
            assert await asyncio.to_thread(ask, port) == "here"

    with_pool(1, scenario)


def test_services_spread_evenly_over_workers() -> None:
    async def scenario(fixture: Fixture) -> None:
        configs = [fixture.config(f"service-{number}")[0] for number in range(300)]
        await fixture.pool.configure(configs)
        assert sorted(len(seat) for seat in fixture.pool._seats) == [100, 100, 100]
        await fixture.pool.configure([], [config.key for config in configs])
        assert [len(seat) for seat in fixture.pool._seats] == [0, 0, 0]
        assert await carried(fixture.pool) == {}

    with_pool(3, scenario)


def test_counters_of_many_services_come_in_several_answers() -> None:
    async def scenario(fixture: Fixture) -> None:
        configs = [fixture.config(f"service-{number}")[0] for number in range(450)]
        await fixture.pool.configure(configs)
        [reading] = (await fixture.pool.read_counters()).values()
        assert reading.keys() == {config.key for config in configs}

    with_pool(1, scenario)


def test_what_a_worker_had_carried_when_it_died_stays_counted() -> None:
    async def scenario(fixture: Fixture) -> None:
        with greeter("pod") as endpoint:
            config, port = fixture.config("web", endpoint)
            await fixture.pool.configure([config])
            totals = TrafficTotals(max_service_ports=1, max_endpoints=1)

            async def opened() -> int:
                totals.take(await fixture.pool.read_counters(), {config.key}, lambda _key: {endpoint})
                return dict(totals)[config.key].counters.opened

            assert await asyncio.to_thread(ask, port) == "pod"
            assert await opened() == 1
            os.kill(fixture.pool.pids[0], signal.SIGKILL)
            assert await asyncio.to_thread(ask, port) == "pod"
            while await opened() < 2:
                await asyncio.sleep(0.01)
            assert await opened() == 2
            assert dict(totals)[config.key].endpoints[endpoint].opened == 2

    with_pool(1, scenario)


def test_a_service_port_on_two_of_three_workers() -> None:
    async def scenario(fixture: Fixture) -> None:
        with ExitStack() as stack, greeter("pod") as endpoint:
            silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            hot, port = fixture.config("hot", silent.getsockname())
            await fixture.pool.configure([msgspec.structs.replace(hot, workers=2)])
            others = [fixture.config(f"service-{number}", endpoint)[0] for number in range(4)]
            await fixture.pool.configure(others)
            assert sorted(len(seat) for seat in fixture.pool._seats) == [2, 2, 2]
            for _ in range(100):
                stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            while (await carried(fixture.pool))[hot.key].active < 100:
                await asyncio.sleep(0.01)
            readings = await fixture.pool.read_counters()
            shares = [reading.get(hot.key) for reading in readings.values()]
            assert sorted(share is None for share in shares) == [False, False, True]
            assert sum(share.opened for share in shares if share) == 100

    with_pool(3, scenario)


def test_who_shares_a_service_port_with_a_worker_that_dies_serves_on() -> None:
    async def scenario(fixture: Fixture) -> None:
        with greeter("pod") as endpoint:
            config, port = fixture.config("hot", endpoint)
            await fixture.pool.configure([msgspec.structs.replace(config, workers=2)])
            for pid in fixture.pool.pids:
                os.kill(pid, signal.SIGSTOP)
                assert await asyncio.to_thread(ask, port) == "pod"  # by the other one
                os.kill(pid, signal.SIGCONT)
            counters = (await carried(fixture.pool))[config.key]
            assert counters.opened == 2
            killed, other = fixture.pool.pids
            os.kill(killed, signal.SIGKILL)
            while not fixture.pool.replaced:
                assert await asyncio.to_thread(ask, port) == "pod"
            assert other in fixture.pool.pids

    with_pool(2, scenario)


def test_a_service_port_that_wants_fewer_workers_or_more_loses_nobody() -> None:
    async def scenario(fixture: Fixture) -> None:
        with greeter("pod") as endpoint:
            config, port = fixture.config("hot", endpoint)
            for workers, seats in ((1, 1), (2, 2), (8, 3), (1, 1), (3, 3)):
                await fixture.pool.configure([msgspec.structs.replace(config, workers=workers)])
                assert sum(len(seat) for seat in fixture.pool._seats) == seats
                answers = await asyncio.gather(*(asyncio.to_thread(ask, port) for _ in range(10)))
                assert set(answers) == {"pod"}
            await fixture.pool.configure([], [config.key])
            assert [len(seat) for seat in fixture.pool._seats] == [0, 0, 0]

    with_pool(3, scenario)


def test_who_connects_while_a_worker_dies_is_served_by_its_successor() -> None:
    async def scenario(fixture: Fixture) -> None:
        with greeter("pod") as endpoint:
            config, port = fixture.config("web", endpoint)
            await fixture.pool.configure([config])
            answers: Counter[str] = Counter()
            for _ in range(3):
                (pid,) = fixture.pool.pids
                os.kill(pid, signal.SIGKILL)
                replies = await asyncio.gather(*(asyncio.to_thread(ask, port) for _ in range(20)))
                answers.update(replies)
            assert answers == {"pod": 60}
            assert fixture.pool.replaced == 3
            assert fixture.events.said == ["WorkerLost"] * 3

    with_pool(1, scenario)


def test_a_change_that_meets_a_dying_worker_is_in_effect_when_it_returns() -> None:
    async def scenario(fixture: Fixture) -> None:
        with greeter("old") as old, greeter("new") as new:
            config, port = fixture.config("web", old)
            await fixture.pool.configure([config])
            os.kill(fixture.pool.pids[0], signal.SIGKILL)
            await fixture.pool.configure([fixture.config("web", new)[0]])
            assert await asyncio.to_thread(ask, port) == "new"

    with_pool(1, scenario)


def test_a_stuck_worker_is_replaced_and_holds_up_nobody_else() -> None:
    async def scenario(fixture: Fixture) -> None:
        with greeter("old") as old, greeter("new") as new:
            made = [fixture.config(f"service-{number}", old) for number in range(2)]
            await fixture.pool.configure([config for config, _ in made])
            stuck, _ = fixture.pool.pids
            os.kill(stuck, signal.SIGSTOP)
            await fixture.pool.configure([fixture.config(f"service-{number}", new)[0] for number in range(2)])
            answers = await asyncio.gather(*(asyncio.to_thread(ask, port) for _, port in made))
            assert answers == ["new", "new"]  # one of them by the successor
            assert stuck not in fixture.pool.pids

    with_pool(2, scenario)


def test_who_starts_a_worker_of_another_build_can_be_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a pool that looks for a worker would never close."""

    async def scenario(fixture: Fixture) -> None:
        pool, asked = fixture.pool, asyncio.Event()
        start_message = pool._start_message

        def asked_to_start() -> Callable[..., Start]:
            asked.set()
            return start_message()

        monkeypatch.setattr(pool, "_is_replaced", lambda: True)
        monkeypatch.setattr(pool, "_start_message", asked_to_start)
        spawning = asyncio.create_task(pool._spawn())
        await asked.wait()
        spawning.cancel()
        with pytest.raises(asyncio.CancelledError):
            await spawning

    with_pool(1, scenario)


def test_a_worker_that_gets_stuck_in_silence_is_noticed() -> None:
    async def scenario(fixture: Fixture) -> None:
        (stuck,) = fixture.pool.pids
        os.kill(stuck, signal.SIGSTOP)
        while stuck in fixture.pool.pids:
            await asyncio.sleep(0.05)

    with_pool(1, scenario)


def test_more_listeners_than_one_message_can_carry() -> None:
    async def scenario(fixture: Fixture) -> None:
        with greeter("pod") as endpoint:
            made = [fixture.config(f"service-{number}", endpoint) for number in range(600)]
            await fixture.pool.configure([config for config, _ in made])
            ports = [port for _, port in made]
            for port in (ports[0], ports[299], ports[-1]):
                assert await asyncio.to_thread(ask, port) == "pod"

    with_pool(1, scenario)


def test_clients_cannot_keep_new_listeners_out() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def scenario(fixture: Fixture) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)  # the worker has inherited the low one
        with ExitStack() as stack:
            endpoint = stack.enter_context(greeter("pod"))
            silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            [pid] = fixture.pool.pids
            for busy in ("busy", "busier"):
                config, port = fixture.config(busy, silent.getsockname())
                await fixture.pool.configure([msgspec.structs.replace(config, max_per_client=200)])
                for _ in range(100):
                    stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                while (await carried(fixture.pool))[config.key].refused == 0:
                    await asyncio.sleep(0.01)
            assert open_descriptors(pid) > 110  # of 150 beside the reserve
            made = [fixture.config(f"service-{number}", endpoint) for number in range(40)]
            await fixture.pool.configure([config for config, _ in made])
            assert fixture.pool.pids == (pid,)
            assert fixture.pool.replaced == 0

    resource.setrlimit(resource.RLIMIT_NOFILE, (200, limits[1]))
    try:
        with_pool(1, scenario)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_worker_that_ran_out_of_descriptors_is_told_of_in_an_event() -> None:
    async def scenario(fixture: Fixture) -> None:
        await fixture.pool.keep({})  # by then somebody listens to it
        (seat,) = fixture.pool._seats
        assert seat.process is not None
        seat.process.ran_short()
        assert fixture.events.said == ["OutOfDescriptors"]

    with_pool(1, scenario)


def test_a_service_whose_endpoints_are_silent_leaves_room_for_others() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def scenario(fixture: Fixture) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)  # the worker has inherited the low one
        with ExitStack() as stack:
            calm, calm_port = fixture.config("calm", stack.enter_context(greeter("pod")))
            pods = [stack.enter_context(silent()) for _ in range(2)]
            dead, dead_port = fixture.config("dead", *((pod.address, pod.port) for pod in pods))
            await fixture.pool.configure([calm, msgspec.structs.replace(dead, max_per_client=40)])
            for _ in range(40):
                stack.enter_context(socket.create_connection(("127.0.0.1", dead_port)))
            while (await carried(fixture.pool))[dead.key].retried < 120:  # each tries four at once by then
                assert await asyncio.to_thread(ask, calm_port) == "pod"
                await asyncio.sleep(0.1)

    resource.setrlimit(resource.RLIMIT_NOFILE, (200, limits[1]))
    try:
        with_pool(1, scenario)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("limit", [64, 200, 1024])
def test_one_busy_service_port_leaves_room_for_others_and_recovers(limit: int) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def scenario(fixture: Fixture) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        with ExitStack() as stack, greeter("pod") as endpoint:
            silent = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=limit))
            busy, busy_port = fixture.config("busy", silent.getsockname())
            quiet, quiet_port = fixture.config("quiet", endpoint)
            await fixture.pool.configure([msgspec.structs.replace(busy, max_per_client=limit), quiet])
            clients = [
                stack.enter_context(socket.create_connection(("127.0.0.1", busy_port))) for _ in range(limit)
            ]
            for _ in range(10):
                assert await asyncio.to_thread(ask, quiet_port) == "pod"
                await until_over(fixture.pool, quiet)  # of 64 descriptors, one connection's are what is left
            counters = (await carried(fixture.pool))[busy.key]
            assert counters.refused > 0
            assert counters.active + counters.refused == limit
            for client in clients:
                reset(client)
            await until_over(fixture.pool, busy)
            await fixture.pool.configure([fixture.config("busy", endpoint)[0]])
            assert await asyncio.to_thread(ask, busy_port) == "pod"
            assert fixture.pool.replaced == 0

    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limits[1]))
    try:
        with_pool(1, scenario)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_worker_has_no_privileges_left() -> None:
    async def scenario(fixture: Fixture) -> None:
        status = read(f"/proc/{fixture.pool.pids[0]}/status")
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(fields[name], 16) == 0, name
        assert fields["NoNewPrivs"] == "1"
        mapped = sum(int(line.split()[2]) for line in read("/proc/self/uid_map").splitlines())
        if mapped > 1:
            assert set(fields["Uid"].split()) == {"65534"}
            assert fields["Groups"].strip() == ""

    with_pool(1, scenario)


def test_nothing_is_left_after_close() -> None:
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    before = children()

    async def scenario(fixture: Fixture) -> None:
        await fixture.pool.configure([fixture.config("web")[0]])
        assert len(children() - before) == 3  # two workers and the spare

    with_pool(2, scenario)
    assert children() <= before
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors


def test_a_failure_of_ours_is_raised_to_whoever_runs_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(fixture: Fixture) -> None:
        async def take_warm() -> None:
            raise ValueError("a bug")

        monkeypatch.setattr(fixture.pool, "_take_warm", take_warm)
        os.kill(fixture.pool.pids[0], signal.SIGKILL)
        with pytest.raises(ValueError, match="a bug"):
            await fixture.pool.run()

    with_pool(1, scenario)
