"""The whole agent against a trivial model, with whatever fails meanwhile.

Events go in, rules and workers' states come out. A packet is traced through the installed rules to a proxy
port, and that worker's listener has endpoints: those are whom a client may meet. The model says the same from
the objects in a few lines. Between them commits fail, rules are flushed, ports are taken, workers die.
"""

from __future__ import annotations

import asyncio
import errno
import os
import selectors
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.agent.test_proxier import FakeWorkers
from tests.iptables.fake_tables import FakeTables
from tests.support.objects import endpoint, endpoint_slice, service
from userspace_proxy.agent.operator_ejections import OperatorEjections
from userspace_proxy.agent.portal_capture import PortalCapture
from userspace_proxy.agent.proxier import Proxier
from userspace_proxy.agent.shared_ports import SharedPorts
from userspace_proxy.agent.stale_conntrack import StaleConntrack
from userspace_proxy.core.cluster_state import ClusterState
from userspace_proxy.core.objects import ApiObject, Deleted, Kind, Listed, Upserted, kind_of
from userspace_proxy.core.port_claims import PortRange, ProxyPortClaims
from userspace_proxy.core.proxy_plan import ListenerName
from userspace_proxy.core.service_port import IPFamily, Protocol, ProxyPort
from userspace_proxy.dataplane.listening_sockets import ListenerError, ListeningSockets
from userspace_proxy.iptables.capture import Capture
from userspace_proxy.iptables.chains import Table, is_ours
from userspace_proxy.iptables.packet_tracer import Delivered, Dropped, Node, Packet, PassedOn, Refused, trace
from userspace_proxy.iptables.portal_rules import CaptureSettings

PROFILE = settings()
PORTS = PortRange(11000, 29999)
SETTINGS = CaptureSettings(IPFamily.IPV4, PORTS, ProxyPort(11000), ProxyPort(11001))
NODE = Node({"eth0": ("192.0.2.10",), "cni0": ("10.244.1.1",)}, closed_port=11000)
SHARED = "198.51.100.1"
NAMES = ("a", "b", "c")
SPEED = 100
"""How much faster than ours the agent's clock goes: its waits and retries are over in no time."""


class FastSelector(selectors.DefaultSelector):
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(timeout and timeout / SPEED)


class FastLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        super().__init__(FastSelector())

    def time(self) -> float:
        return super().time() * SPEED


@dataclass(frozen=True)
class Spec:
    """What a Service of the model says."""

    external: str
    internal: str
    with_node_port: bool
    with_shared_address: bool

    def build(self, name: str) -> ApiObject:
        number = NAMES.index(name)
        return service(
            name,
            at=f"10.96.0.{number + 1}",
            ports=[f"80@{30080 + number}" if self.with_node_port else "80"],
            type="NodePort" if self.with_node_port else "ClusterIP",
            internal_traffic_policy=self.internal,
            external_traffic_policy=self.external,
            external_ips=[SHARED] if self.with_shared_address else [],
            created=f"2026-01-0{number + 1}T00:00:00Z",
        )


@dataclass(frozen=True)
class End:
    """An endpoint of the model."""

    number: int
    is_here: bool
    condition: str

    @property
    def address(self) -> str:
        return f"10.244.1.{self.number}"


@dataclass
class Model:
    services: dict[str, Spec] = field(default_factory=dict)
    slices: dict[str, tuple[End, ...]] = field(default_factory=dict)

    def allowed(self, name: str, policy: str) -> set[str] | type[Refused] | type[Dropped]:
        """The endpoints that a new connection under a policy may go to, or what happens instead."""

        def usable(ends: list[End]) -> set[str]:
            ready = {end.address for end in ends if end.condition == "ready"}
            return ready or {end.address for end in ends if end.condition == "terminating"}

        every = list(self.slices.get(name, ()))
        if not usable(every):
            return Refused
        if policy == "Cluster":
            return usable(every)
        return usable([end for end in every if end.is_here]) or Dropped

    def meets(self, address: str, port: int, *, inside: bool) -> set[str] | type[Any]:
        """What a client meets at an address."""
        for name, spec in self.services.items():
            number = NAMES.index(name)
            if (address, port) == (f"10.96.0.{number + 1}", 80):
                return self.allowed(name, spec.internal)
            if spec.with_node_port and (address, port) == ("192.0.2.10", 30080 + number):
                return self.allowed(name, "Cluster" if inside else spec.external)
        if (address, port) == (SHARED, 80):
            for name, spec in sorted(self.services.items()):
                if spec.with_shared_address:
                    return self.allowed(name, "Cluster" if inside else spec.external)
        return Delivered if address == "192.0.2.10" else PassedOn


PLACES = (
    *((f"10.96.0.{number + 1}", 80) for number in range(len(NAMES))),
    *(("192.0.2.10", 30080 + number) for number in range(len(NAMES))),
    (SHARED, 80),
)
specs = st.builds(
    Spec,
    external=st.sampled_from(("Cluster", "Local")),
    internal=st.sampled_from(("Cluster", "Local")),
    with_node_port=st.booleans(),
    with_shared_address=st.booleans(),
)
ends = st.lists(
    st.builds(
        End,
        number=st.integers(2, 6),
        is_here=st.booleans(),
        condition=st.sampled_from(("ready", "ready", "terminating", "unready")),
    ),
    max_size=4,
    unique_by=lambda end: end.number,
).map(tuple)


def slice_of(name: str, of: tuple[End, ...]) -> ApiObject:
    return endpoint_slice(
        f"{name}-1",
        of=name,
        endpoints=[
            endpoint(
                end.address,
                node="node-1" if end.is_here else "node-2",
                ready=end.condition == "ready",
                serving=end.condition != "unready",
                terminating=end.condition == "terminating",
            )
            for end in of
        ],
    )


class UnluckySockets(ListeningSockets):
    """Refuses to open as often as it is told to."""

    failures = 0

    def open(self, name: ListenerName, preferred: ProxyPort | None) -> ProxyPort:
        if self.failures:
            self.failures -= 1
            raise ListenerError(os.strerror(errno.EMFILE))
        return super().open(name, preferred)


class Agent(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.runner = asyncio.Runner(loop_factory=FastLoop)
        self.thread = ThreadPoolExecutor(1)
        self.runner.run(self.start())

    async def start(self) -> None:
        self.tables = FakeTables()
        self.workers = FakeWorkers()
        self.sockets = UnluckySockets(ProxyPortClaims(PORTS), {IPFamily.IPV4: "127.0.0.1"}, Random(1))
        self.capture = PortalCapture(
            capture=Capture(self.tables),
            settings=SETTINGS,
            local_addresses=(),
            stale_conntrack=StaleConntrack(SETTINGS, lambda *_, **__: 0, self.thread),
            rules_thread=self.thread,
        )
        self.proxier = Proxier(
            state=ClusterState("node-1"),
            sockets=self.sockets,
            workers=self.workers,
            captures=[self.capture],
            origin_of=lambda key: "API server",
            serve_health_checks=lambda checks: None,
            node_changed=lambda: None,
            shared_ports=SharedPorts(set),
            ejections=OperatorEjections(),
            udp_timeout_seconds=None,
            max_descriptors=10_000,
        )
        self.job = asyncio.create_task(self.proxier.run())
        self.proxier.observe([Listed(kind, ()) for kind in Kind])

    def teardown(self) -> None:
        """Nothing fails any more, so what clients meet is right in the end."""

        async def stop() -> None:
            self.tables.failing.clear()
            self.workers.may_answer.set()
            await self.until(lambda: self.differences() == [])
            self.job.cancel()
            with suppress(asyncio.CancelledError):
                await self.job
            self.sockets.close_all()

        self.runner.run(stop())
        self.runner.close()
        self.thread.shutdown()

    def tell(self, *events: Any) -> None:
        async def observe() -> None:
            self.proxier.observe(events)

        self.runner.run(observe())

    # What happens in the cluster.

    @rule(name=st.sampled_from(NAMES), spec=specs)
    def a_service_is_written(self, name: str, spec: Spec) -> None:
        self.model.services[name] = spec
        self.tell(Upserted(spec.build(name)))

    @rule(name=st.sampled_from(NAMES))
    def a_service_is_deleted(self, name: str) -> None:
        self.model.services.pop(name, None)
        self.tell(Deleted(Kind.SERVICE, "default", name))

    @rule(name=st.sampled_from(NAMES), of=ends)
    def endpoints_change(self, name: str, of: tuple[End, ...]) -> None:
        self.model.slices[name] = of
        self.tell(Upserted(slice_of(name, of)))

    @rule(name=st.sampled_from(NAMES))
    def a_slice_is_deleted(self, name: str) -> None:
        self.model.slices.pop(name, None)
        self.tell(Deleted(Kind.ENDPOINT_SLICE, "default", f"{name}-1"))

    @rule(
        services=st.dictionaries(st.sampled_from(NAMES), specs),
        of=st.dictionaries(st.sampled_from(NAMES), ends),
    )
    def everything_is_listed_again(self, services: dict[str, Spec], of: dict[str, tuple[End, ...]]) -> None:
        """As after a restore: anything may be older, newer, there or not."""
        self.model = Model(dict(services), dict(of))
        items = [
            *(spec.build(name) for name, spec in services.items()),
            *(slice_of(name, found) for name, found in of.items()),
        ]
        self.tell(*(Listed(kind, tuple(item for item in items if kind_of(item) is kind)) for kind in Kind))

    @rule()
    def events_come_twice(self) -> None:
        for name, spec in self.model.services.items():
            self.tell(Upserted(spec.build(name)))
        for name, of in self.model.slices.items():
            self.tell(Upserted(slice_of(name, of)))

    # What fails.

    @rule(tables=st.sets(st.sampled_from(Table), min_size=1))
    def commits_fail(self, tables: set[Table]) -> None:
        self.tables.failing |= tables

    @precondition(lambda self: self.tables.failing)
    @rule()
    def commits_succeed_again(self) -> None:
        self.tables.failing.clear()

    @rule(how=st.sampled_from(("flushed", "emptied")))
    def rules_are_flushed(self, how: str) -> None:
        for chain in list(self.tables.chains):
            if how == "flushed" or not is_ours(chain):
                self.tables.chains[chain] = []
        self.tables.generation += 1

    @rule(count=st.integers(1, 3))
    def listeners_cannot_be_opened(self, count: int) -> None:
        self.sockets.failures += count

    @precondition(lambda self: self.workers.may_answer.is_set())
    @rule()
    def a_worker_dies(self) -> None:
        """Nobody answers until its successor does, which knows nothing then but what it is told."""
        self.workers.may_answer.clear()

    @precondition(lambda self: not self.workers.may_answer.is_set())
    @rule()
    def its_successor_serves(self) -> None:
        async def serve() -> None:
            self.workers.may_answer.set()

        self.runner.run(serve())

    # What clients meet.

    @invariant()
    def clients_meet_whom_the_model_allows(self) -> None:
        if self.tables.failing or not self.workers.may_answer.is_set():
            return
        self.runner.run(self.until(lambda: self.differences() == []))

    def differences(self) -> list[object]:
        listening = {
            (config.protocol, listener.proxy_port): {address for address, _ in listener.endpoints}
            for config in self.workers.serves.values()
            for listener in config.listeners
        }
        installed = self.tables.read()
        found: list[object] = []
        for address, port in PLACES:
            for inside in (True, False):
                came_in_by, source = (None, "192.0.2.10") if inside else ("eth0", "192.0.2.1")
                packet = Packet(Protocol.TCP, address, port, came_in_by, source)
                ending = trace(installed, packet, NODE)
                meets: object = type(ending)
                if isinstance(ending, Delivered) and ending.port in PORTS:
                    meets = listening.get(("TCP", ending.port), "nobody")
                expected = self.model.meets(address, port, inside=inside)
                if meets != expected:
                    found.append((address, port, inside, meets, expected))
        return found

    async def until(self, is_so: Callable[[], bool]) -> None:
        deadline = asyncio.get_running_loop().time() + 10 * SPEED
        while not is_so():
            assert not self.job.done(), self.job.exception()
            assert asyncio.get_running_loop().time() < deadline, self.differences()
            await asyncio.sleep(0.2)


TestAgent = Agent.TestCase
TestAgent.settings = settings(
    max_examples=max(10, PROFILE.max_examples // 10), stateful_step_count=PROFILE.stateful_step_count
)
