"""In which order listeners, endpoints and rules follow a change."""

from __future__ import annotations

import asyncio
import itertools
import socket
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from random import Random
from typing import TypeAlias

import pytest
import uvloop

from tests.support.objects import endpoint, endpoint_slice, service
from tests.support.rules_backend import FakeBackend
from userspace_proxy.agent.operator_ejections import OperatorEjections
from userspace_proxy.agent.portal_capture import PortalCapture
from userspace_proxy.agent.proxier import Proxier
from userspace_proxy.agent.shared_ports import SharedPorts
from userspace_proxy.agent.stale_conntrack import StaleConntrack
from userspace_proxy.core.cluster_state import ClusterState
from userspace_proxy.core.objects import ApiObject, Deleted, Kind, Listed, Service, Upserted, kind_of
from userspace_proxy.core.port_claims import DEFAULT_PROXY_PORT_RANGE, PortRange, ProxyPortClaims
from userspace_proxy.core.proxy_plan import HealthCheck, ListenerName
from userspace_proxy.core.service_port import Frontend, IPFamily, Port, Protocol, ProxyPort, ServiceName
from userspace_proxy.dataplane.listening_sockets import ListeningSockets
from userspace_proxy.dataplane.messages import ServicePortConfig
from userspace_proxy.errors import StartupError
from userspace_proxy.iptables.capture import Capture
from userspace_proxy.iptables.portal_rules import CaptureSettings, Destination, Portal, PortalRules, Refusal
from userspace_proxy.iptables.rules import RuleSet

SETTINGS = CaptureSettings(IPFamily.IPV4, PortRange(11000, 29999), ProxyPort(11000), ProxyPort(11001))
ListeningPorts: TypeAlias = Callable[[], set[tuple[Protocol, int]]]
WEB = Frontend("10.96.0.10", Protocol.TCP, Port(80))


class FakeWorkers:
    """Remembers what it was told, and what was listening at that moment."""

    def __init__(self) -> None:
        self.serves: dict[str, ServicePortConfig] = {}
        self.retired = False
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def retire(self) -> None:
        self.retired = True

    async def configure(
        self, service_ports: Iterable[ServicePortConfig], removed: Iterable[str] = ()
    ) -> None:
        configs = list(service_ports)
        await self.may_answer.wait()
        self.serves.update({config.key: config for config in configs})
        for key in removed:
            self.serves.pop(key, None)


class Fixture:
    def __init__(
        self,
        rules_thread: ThreadPoolExecutor,
        installed: RuleSet | None = None,
        max_descriptors: int = 10_000,
        ports: PortRange = DEFAULT_PROXY_PORT_RANGE,
        retry_seconds: float = 3600.0,
        listening_ports: ListeningPorts = lambda: {(Protocol.TCP, 30080)},
        ipv6: FakeBackend | None = None,
        ejections: OperatorEjections | None = None,
    ) -> None:
        self.ejections = ejections or OperatorEjections()
        self.workers = FakeWorkers()
        self.health_checks: dict[ServiceName, HealthCheck] = {}
        self.backend = FakeBackend(installed or RuleSet())
        addresses = {IPFamily.IPV4: "127.0.0.1", IPFamily.IPV6: "::1"}
        self.sockets = ListeningSockets(ProxyPortClaims(ports), addresses, Random(1))
        self.capture, *others = (
            PortalCapture(
                capture=Capture(backend),
                settings=replace(SETTINGS, family=family),
                local_addresses=(),
                stale_conntrack=StaleConntrack(SETTINGS, lambda *_, **__: 0, rules_thread),
                rules_thread=rules_thread,
            )
            for family, backend in {IPFamily.IPV4: self.backend, IPFamily.IPV6: ipv6}.items()
            if backend is not None
        )
        self.state = ClusterState("node-1")
        self.began: list[int] = []
        self.proxier = Proxier(
            state=self.state,
            sockets=self.sockets,
            workers=self.workers,
            captures=[self.capture, *others],
            origin_of=lambda key: "manifests/web.yaml",
            serve_health_checks=self.health_checks.update,
            node_changed=lambda: None,
            shared_ports=SharedPorts(listening_ports),
            ejections=self.ejections,
            udp_timeout_seconds=None,
            max_descriptors=max_descriptors,
            retry_seconds=retry_seconds,
            serving_began=lambda: self.began.append(len(self.proxier.service_ports)),
        )

    def list_objects(self, *objects: ApiObject) -> None:
        self.proxier.observe(
            [Listed(kind, tuple(item for item in objects if kind_of(item) is kind)) for kind in Kind]
        )

    def put(self, item: ApiObject) -> None:
        self.proxier.observe([Upserted(item)])

    def delete(self, kind: Kind, name: str) -> None:
        self.proxier.observe([Deleted(kind, "default", name)])

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.002)

    def endpoints_of(self, key: str) -> Sequence[tuple[str, int]]:
        config = self.workers.serves.get(key)
        return config.listeners[0].endpoints if config and config.listeners else ()


def with_proxier(
    scenario: Callable[[Fixture], Awaitable[None]],
    installed: RuleSet | None = None,
    max_descriptors: int = 10_000,
    ports: PortRange = DEFAULT_PROXY_PORT_RANGE,
    retry_seconds: float = 3600.0,
    listening_ports: ListeningPorts = lambda: {(Protocol.TCP, 30080)},
    ipv6: FakeBackend | None = None,
    ejections: OperatorEjections | None = None,
) -> None:
    async def run() -> None:
        with ThreadPoolExecutor(1) as rules_thread:
            fixture = Fixture(
                rules_thread,
                installed,
                max_descriptors,
                ports,
                retry_seconds,
                listening_ports,
                ipv6,
                ejections,
            )
            job = asyncio.ensure_future(fixture.proxier.run())
            try:
                async with asyncio.timeout(20):
                    await scenario(fixture)
            finally:
                job.cancel()
                with suppress(asyncio.CancelledError):
                    await job
                fixture.sockets.close_all()

    uvloop.run(run())


WEB_V6 = Frontend("fd00:10:96::10", Protocol.TCP, Port(80))


def led_to(frontend: Frontend, proxy_port: int) -> Portal:
    destination = Destination(ProxyPort(proxy_port))
    return Portal(frontend, "default/web", destination, destination)


def web(*endpoints: str) -> tuple[Service, ApiObject]:
    return service("web", at="10.96.0.10", ports=["80"]), endpoint_slice(of="web", endpoints=endpoints)


KEY = "default/web TCP IPv4"


def test_nothing_is_served_before_everything_was_listed() -> None:
    async def scenario(fixture: Fixture) -> None:
        fixture.proxier.observe([Listed(Kind.SERVICE, (web()[0],))])
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert fixture.workers.serves == {}
        assert fixture.began == []
        fixture.proxier.observe([Listed(Kind.ENDPOINT_SLICE, (web("10.244.1.2")[1],)), Listed(Kind.NODE, ())])
        await fixture.until(lambda: WEB in fixture.capture.committed)
        assert fixture.endpoints_of(KEY) == (("10.244.1.2", 8080),)
        fixture.put(service("other", at="10.96.0.11"))
        await fixture.until(lambda: len(fixture.capture.committed) == 2)
        assert fixture.began == [1]

    with_proxier(scenario)


@pytest.mark.parametrize("leads_in_ipv6", [False, True])
def test_workers_of_an_earlier_agent_drain_once_no_rule_can_lead_to_them(leads_in_ipv6: bool) -> None:
    settings = replace(SETTINGS, family=IPFamily.IPV6)
    earlier = PortalRules().rule_set([led_to(WEB_V6, 20001)], settings) if leads_in_ipv6 else None
    ipv6 = FakeBackend(earlier)
    ipv6.failures = sys.maxsize

    async def scenario(fixture: Fixture) -> None:
        fixture.list_objects(*web("10.244.1.2"))
        if leads_in_ipv6:
            await fixture.until(lambda: WEB in fixture.capture.committed and ipv6.failures < sys.maxsize)
            fixture.put(service("other", at="10.96.0.11"))
            await fixture.until(lambda: len(fixture.capture.committed) == 2)
            assert not fixture.workers.retired
            ipv6.failures = 0
        await fixture.until(lambda: fixture.workers.retired)
        assert WEB in fixture.capture.committed

    with_proxier(scenario, ipv6=ipv6)


def test_no_rule_leads_to_a_listener_before_its_worker_serves() -> None:
    async def scenario(fixture: Fixture) -> None:
        fixture.workers.may_answer.clear()
        fixture.list_objects(*web("10.244.1.2"))
        await fixture.until(lambda: len(fixture.sockets) == 1)
        for _ in range(50):
            await asyncio.sleep(0.001)
        assert fixture.backend.commits == []
        fixture.workers.may_answer.set()
        await fixture.until(lambda: WEB in fixture.capture.committed)

    with_proxier(scenario)


def test_a_change_of_endpoints_touches_no_rule() -> None:
    async def scenario(fixture: Fixture) -> None:
        fixture.list_objects(*web("10.244.1.2"))
        await fixture.until(lambda: WEB in fixture.capture.committed)
        fixture.backend.commits.clear()
        fixture.put(web("10.244.1.7", "10.244.1.8")[1])
        await fixture.until(lambda: len(fixture.endpoints_of(KEY)) == 2)
        assert fixture.backend.commits == []

    with_proxier(scenario)


def test_the_last_endpoint_gone_is_refused_and_back_is_served() -> None:
    async def scenario(fixture: Fixture) -> None:
        def refusal() -> Refusal | None:
            return fixture.capture.committed[WEB].outside.refusal

        fixture.list_objects(*web("10.244.1.2"))
        await fixture.until(lambda: WEB in fixture.capture.committed)
        fixture.delete(Kind.ENDPOINT_SLICE, "web-1")
        await fixture.until(lambda: refusal() is Refusal.REJECT)
        fixture.put(web("10.244.1.2")[1])
        await fixture.until(lambda: refusal() is None)

    with_proxier(scenario)


def test_a_listener_closes_only_after_its_rule_is_gone() -> None:
    async def scenario(fixture: Fixture) -> None:
        fixture.list_objects(*web("10.244.1.2"))
        await fixture.until(lambda: WEB in fixture.capture.committed)
        fixture.backend.failures = 2
        fixture.delete(Kind.SERVICE, "web")
        await fixture.until(lambda: fixture.backend.failures < 2)
        assert len(fixture.sockets) == 1
        assert KEY in fixture.workers.serves
        await fixture.until(lambda: len(fixture.sockets) == 0)
        assert fixture.workers.serves == {}

    with_proxier(scenario)


def test_a_service_that_returns_before_its_listener_closed_keeps_it() -> None:
    async def scenario(fixture: Fixture) -> None:
        fixture.list_objects(*web("10.244.1.2"))
        await fixture.until(lambda: WEB in fixture.capture.committed)
        port = fixture.capture.committed[WEB].outside.proxy_port
        fixture.backend.failures = 1
        fixture.delete(Kind.SERVICE, "web")
        await fixture.until(lambda: fixture.backend.failures == 0)
        fixture.put(web()[0])
        await fixture.until(lambda: fixture.capture.committed.get(WEB) is not None)
        assert fixture.capture.committed[WEB].outside.proxy_port == port
        assert len(fixture.sockets) == 1

    with_proxier(scenario)


def test_a_changed_policy_gets_its_own_listener_and_the_old_one_goes() -> None:
    async def scenario(fixture: Fixture) -> None:
        fixture.list_objects(*web("10.244.1.2"))
        await fixture.until(lambda: WEB in fixture.capture.committed)
        old = fixture.capture.committed[WEB].outside.proxy_port
        fixture.put(service("web", at="10.96.0.10", internal_traffic_policy="Local"))
        await fixture.until(lambda: fixture.capture.committed[WEB].outside.proxy_port != old)
        await fixture.until(lambda: len(fixture.sockets) == 1)
        assert fixture.capture.committed[WEB].outside.refusal is Refusal.DROP
        assert [listener.policy for listener in fixture.workers.serves[KEY].listeners] == ["Local"]

    with_proxier(scenario)


def test_the_ports_of_an_earlier_run_are_bound_again() -> None:
    earlier = PortalRules().rule_set([led_to(WEB, 12345)], SETTINGS)

    async def scenario(fixture: Fixture) -> None:
        fixture.list_objects(*web("10.244.1.2"))
        await fixture.until(lambda: bool(fixture.workers.serves))
        assert fixture.workers.serves[KEY].listeners[0].proxy_port == 12345
        assert fixture.backend.commits == []

    with_proxier(scenario, earlier)


def test_nobody_else_gets_a_port_to_which_old_rules_still_lead() -> None:
    """Else clients of one Service would reach another until the rules are there."""
    first, last = 12400, 12409
    earlier = [
        led_to(Frontend(f"10.96.9.{port - first}", Protocol.TCP, Port(80)), port)
        for port in range(first, last)
    ]

    async def scenario(fixture: Fixture) -> None:
        fixture.backend.failures = 3
        fixture.list_objects(*web("10.244.1.2"))
        await fixture.until(lambda: bool(fixture.workers.serves))
        assert fixture.workers.serves[KEY].listeners[0].proxy_port == last

    with_proxier(scenario, PortalRules().rule_set(earlier, SETTINGS), ports=PortRange(first, last))


def test_a_port_that_a_stranger_took_meanwhile_gets_a_new_one() -> None:
    earlier = PortalRules().rule_set([led_to(WEB, 12346)], SETTINGS)

    async def scenario(fixture: Fixture) -> None:
        fixture.list_objects(*web("10.244.1.2"))
        await fixture.until(
            lambda: fixture.capture.committed.get(WEB, led_to(WEB, 12346)).outside.proxy_port != 12346
        )

    with socket.create_server(("127.0.0.1", 12346)):
        with_proxier(scenario, earlier)


def test_more_listeners_than_descriptors_is_said_at_the_start() -> None:
    many = [service(f"web-{number}", at=f"10.96.1.{number}") for number in range(50)]

    async def run() -> None:
        with ThreadPoolExecutor(1) as rules_thread:
            fixture = Fixture(rules_thread, max_descriptors=556)
            fixture.list_objects(*many)
            with pytest.raises(StartupError, match="50 listeners are needed"):
                await fixture.proxier.run()
            fixture.sockets.close_all()

    uvloop.run(run())


def test_later_what_does_not_fit_is_named_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    many = [service(f"web-{number}", at=f"10.96.1.{number}") for number in range(50)]

    async def scenario(fixture: Fixture) -> None:
        def outcomes() -> Counter[Refusal | None]:
            return Counter(portal.inside.refusal for portal in fixture.capture.committed.values())

        def with_endpoints(services: Sequence[Service]) -> list[ApiObject]:
            slices = [endpoint_slice(f"{web.metadata.name}-1", of=web.metadata.name) for web in services]
            return [*services, *slices]

        fixture.list_objects(*with_endpoints(many[:40]))
        await fixture.until(lambda: outcomes() == {None: 40})
        fixture.list_objects(*with_endpoints(many))
        await fixture.until(lambda: outcomes() == {None: 44, Refusal.NO_LISTENER: 6})
        fixture.list_objects(*with_endpoints(many[40:]))  # the listeners of the others close
        await fixture.until(lambda: outcomes() == {None: 10})

    with_proxier(scenario, max_descriptors=556)
    said = [record.message for record in caplog.records if "Listener not opened" in record.message]
    assert len(said) == 6


LOCAL_NODE_PORT = service(
    "web", at="10.96.0.10", ports=["80@30080"], type="NodePort", external_traffic_policy="Local"
)
NODE_PORT = Frontend("0.0.0.0", Protocol.TCP, Port(30080))


def test_a_class_without_a_listener_is_refused_and_the_other_served() -> None:
    here = endpoint_slice(of="web", endpoints=[endpoint("10.244.1.2", node="node-1")])

    async def scenario(fixture: Fixture) -> None:
        fixture.list_objects(web()[0], here)
        await fixture.until(lambda: WEB in fixture.capture.committed)
        fixture.put(LOCAL_NODE_PORT)
        await fixture.until(lambda: NODE_PORT in fixture.capture.committed)
        portal = fixture.capture.committed[NODE_PORT]
        assert portal.inside == Destination(ProxyPort(12470))
        assert portal.outside.refusal is Refusal.NO_LISTENER
        assert fixture.capture.committed[WEB].outside == Destination(ProxyPort(12470))

    with_proxier(scenario, ports=PortRange(12470, 12470))


def test_a_new_class_gets_the_only_port_from_the_old_one() -> None:
    """The rules refuse the new class first, so that nothing leads to the old listener any more."""

    async def scenario(fixture: Fixture) -> None:
        here = endpoint_slice(of="web", endpoints=[endpoint("10.244.1.2", node="node-1")])
        fixture.list_objects(web()[0], here)
        await fixture.until(lambda: WEB in fixture.capture.committed)
        fixture.put(service("web", at="10.96.0.10", internal_traffic_policy="Local"))
        await fixture.until(lambda: [c.policy for c in fixture.workers.serves[KEY].listeners] == ["Local"])
        await fixture.until(lambda: fixture.capture.committed[WEB].outside.refusal is None)
        fixture.delete(Kind.SERVICE, "web")
        await fixture.until(lambda: not fixture.workers.serves)

    with_proxier(scenario, ports=PortRange(12471, 12471))


def test_workers_forget_a_service_that_goes_while_it_has_no_listener() -> None:
    async def scenario(fixture: Fixture) -> None:
        fixture.list_objects(*web("10.244.1.2"))
        await fixture.until(lambda: WEB in fixture.capture.committed)
        with ExitStack() as strangers:
            close = fixture.sockets.close

            def close_for_a_stranger(name: ListenerName) -> None:
                close(name)
                strangers.enter_context(socket.create_server(("127.0.0.1", 12472)))

            fixture.sockets.close = close_for_a_stranger  # type: ignore[method-assign]
            fixture.put(service("web", at="10.96.0.10", internal_traffic_policy="Local"))
            await fixture.until(lambda: not fixture.workers.serves[KEY].listeners)
            await fixture.until(lambda: len(fixture.sockets) == 0)
            fixture.delete(Kind.SERVICE, "web")
            await fixture.until(lambda: not fixture.workers.serves)

    with_proxier(scenario, ports=PortRange(12472, 12472))


def test_what_could_not_be_opened_is_tried_again_in_time_however_much_changes() -> None:
    async def scenario(fixture: Fixture) -> None:
        with socket.create_server(("127.0.0.1", 12473)):
            fixture.list_objects(*web("10.244.1.2"))
            await fixture.until(lambda: WEB in fixture.capture.committed)
            assert fixture.capture.committed[WEB].inside.refusal is Refusal.NO_LISTENER
        numbers = itertools.cycle(range(1, 250))

        def changes() -> bool:
            fixture.put(web(f"10.244.1.{next(numbers)}")[1])
            return fixture.capture.committed[WEB].inside.refusal is None

        await fixture.until(changes)

    with_proxier(scenario, ports=PortRange(12473, 12473), retry_seconds=0.1)


def test_serving_and_health_checks_do_not_wait_for_a_look_at_the_nodes_ports() -> None:
    may_answer = threading.Event()

    def never_answers() -> set[tuple[Protocol, int]]:
        may_answer.wait(20)
        return set()

    async def scenario(fixture: Fixture) -> None:
        fixture.list_objects(
            service(
                "web",
                at="10.96.0.10",
                ports=["80@30080"],
                type="LoadBalancer",
                external_traffic_policy="Local",
                health_check_node_port=30100,
            )
        )
        await fixture.until(lambda: NODE_PORT in fixture.capture.committed)
        assert [check.port for check in fixture.health_checks.values()] == [30100]
        fixture.put(web("10.244.1.2")[1])
        await fixture.until(lambda: fixture.endpoints_of(KEY) == (("10.244.1.2", 8080),))
        may_answer.set()

    with_proxier(scenario, listening_ports=never_answers)


def test_the_listener_of_a_service_without_an_address_goes_with_it() -> None:
    """No rule changes then, and yet somebody has to close it."""
    older = service("older", at="10.96.0.10", created="2026-01-01T00:00:00Z")
    newer = service("newer", at="10.96.0.10", created="2026-01-02T00:00:00Z")

    async def scenario(fixture: Fixture) -> None:
        def policies_of(name: str) -> list[str]:
            return [
                listener.policy for listener in fixture.workers.serves[f"default/{name} TCP IPv4"].listeners
            ]

        fixture.list_objects(older, newer, endpoint_slice(of="older"))
        await fixture.until(lambda: fixture.capture.committed.get(WEB) is not None)
        assert len(fixture.sockets) == 2
        local = service(
            "newer", at="10.96.0.10", created="2026-01-02T00:00:00Z", internal_traffic_policy="Local"
        )
        fixture.put(local)
        await fixture.until(lambda: policies_of("newer") == ["Local"])
        assert len(fixture.sockets) == 2
        fixture.delete(Kind.SERVICE, "newer")
        await fixture.until(lambda: len(fixture.sockets) == 1)
        assert list(fixture.workers.serves) == ["default/older TCP IPv4"]

    with_proxier(scenario)


def test_a_process_is_named_that_listens_where_a_load_balancers_address_is_put_on_the_node(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The Node object does not state it; an interface has it, and gets it later than the Service."""

    async def scenario(fixture: Fixture) -> None:
        fixture.list_objects(service("web", at="10.96.0.10", external_ips=["203.0.113.1"]))
        await fixture.until(lambda: len(fixture.capture.committed) == 2)
        fixture.state.readdress(frozenset({"203.0.113.1"}))
        fixture.proxier.observe(())
        await fixture.until(lambda: any("A process of this node listens" in text for text in caplog.messages))

    with_proxier(scenario, listening_ports=lambda: {(Protocol.TCP, 80)})
    assert "frontend=203.0.113.1:80/TCP" in caplog.text


def test_a_claim_that_an_older_service_holds_is_named_with_its_file(
    caplog: pytest.LogCaptureFixture,
) -> None:
    older = service("older", at="10.96.0.10", created="2026-01-01T00:00:00Z")
    newer = service("newer", at="10.96.0.10", created="2026-01-02T00:00:00Z")

    async def scenario(fixture: Fixture) -> None:
        fixture.list_objects(older, newer, endpoint_slice(of="older"), endpoint_slice("n-1", of="newer"))
        await fixture.until(lambda: fixture.capture.committed.get(WEB) is not None)
        assert fixture.capture.committed[WEB].comment == "default/older"
        fixture.delete(Kind.SERVICE, "older")
        await fixture.until(lambda: fixture.capture.committed[WEB].comment == "default/newer")

    with_proxier(scenario)
    said = [record.message for record in caplog.records if "belongs to" in record.message]
    assert said == [
        "Skipped: manifests/web.yaml: Service default/newer: "
        "10.96.0.10:80/TCP belongs to default/older, which is older"
    ]
