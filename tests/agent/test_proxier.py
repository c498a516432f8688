"""In which order listeners, endpoints and rules follow a change."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from random import Random

import pytest
import uvloop

from tests.support.objects import endpoint_slice, service
from tests.support.rules_backend import FakeBackend
from userspace_proxy.agent.portal_capture import PortalCapture
from userspace_proxy.agent.proxier import Proxier
from userspace_proxy.core.cluster_state import ClusterState
from userspace_proxy.core.objects import ApiObject, Deleted, Kind, Listed, Service, Upserted, kind_of
from userspace_proxy.core.port_claims import PortRange, ProxyPortClaims
from userspace_proxy.core.proxy_plan import HealthCheck
from userspace_proxy.core.service_port import Frontend, IPFamily, Port, Protocol, ProxyPort, ServiceName
from userspace_proxy.dataplane.listening_sockets import ListeningSockets
from userspace_proxy.dataplane.messages import ServicePortConfig
from userspace_proxy.errors import StartupError
from userspace_proxy.iptables.capture import Capture
from userspace_proxy.iptables.portal_rules import CaptureSettings, Destination, Portal, PortalRules, Refusal
from userspace_proxy.iptables.rules import RuleSet

SETTINGS = CaptureSettings(IPFamily.IPV4, PortRange(11000, 29999), ProxyPort(11000), ProxyPort(11001))
WEB = Frontend("10.96.0.10", Protocol.TCP, Port(80))


class FakeWorkers:
    """Remembers what it was told, and what was listening at that moment."""

    def __init__(self) -> None:
        self.serves: dict[str, ServicePortConfig] = {}
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def configure(
        self, service_ports: Iterable[ServicePortConfig], removed: Iterable[str] = ()
    ) -> None:
        configs = list(service_ports)
        await self.may_answer.wait()
        self.serves.update({config.key: config for config in configs})
        for key in removed:
            del self.serves[key]


class Fixture:
    def __init__(self, rules_thread: ThreadPoolExecutor, installed: RuleSet, max_descriptors: int) -> None:
        self.workers = FakeWorkers()
        self.health_checks: dict[ServiceName, HealthCheck] = {}
        self.backend = FakeBackend(installed)
        self.sockets = ListeningSockets(
            ProxyPortClaims(PortRange(11000, 29999)), {IPFamily.IPV4: "127.0.0.1"}, Random(1)
        )
        self.capture = PortalCapture(
            capture=Capture(self.backend),
            settings=SETTINGS,
            delete_stale_udp=lambda family, stale: 0,
            rules_thread=rules_thread,
        )
        self.proxier = Proxier(
            state=ClusterState("node-1"),
            sockets=self.sockets,
            workers=self.workers,
            captures=[self.capture],
            origin_of=lambda key: "manifests/web.yaml",
            serve_health_checks=self.health_checks.update,
            node_changed=lambda: None,
            listening_ports=lambda: {(Protocol.TCP, 30080)},
            udp_timeout_seconds=None,
            max_descriptors=max_descriptors,
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
) -> None:
    async def run() -> None:
        with ThreadPoolExecutor(1) as rules_thread:
            fixture = Fixture(rules_thread, installed or RuleSet(), max_descriptors)
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


def led_to(frontend: Frontend, proxy_port: int) -> Portal:
    destination = Destination(ProxyPort(proxy_port))
    return Portal(frontend, "default/web", destination, destination)


def web(*endpoints: str) -> tuple[Service, ApiObject]:
    return service("web", at="10.96.0.10", ports=["80"]), endpoint_slice(of="web", endpoints=endpoints)


KEY = "default/web TCP IPv4"


def test_nothing_is_served_before_services_and_slices_were_listed() -> None:
    async def scenario(fixture: Fixture) -> None:
        fixture.proxier.observe([Listed(Kind.SERVICE, (web()[0],))])
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert fixture.workers.serves == {}
        fixture.proxier.observe([Listed(Kind.ENDPOINT_SLICE, (web("10.244.1.2")[1],))])
        await fixture.until(lambda: WEB in fixture.capture.committed)
        assert fixture.endpoints_of(KEY) == (("10.244.1.2", 8080),)

    with_proxier(scenario)


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
        fixture.sockets._claims.port_range = PortRange(first, last)
        fixture.backend.failures = 3
        fixture.list_objects(*web("10.244.1.2"))
        await fixture.until(lambda: bool(fixture.workers.serves))
        assert fixture.workers.serves[KEY].listeners[0].proxy_port == last

    with_proxier(scenario, PortalRules().rule_set(earlier, SETTINGS))


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
            fixture = Fixture(rules_thread, RuleSet(), max_descriptors=556)
            fixture.list_objects(*many)
            with pytest.raises(StartupError, match="50 listeners are needed"):
                await fixture.proxier.run()
            fixture.sockets.close_all()

    uvloop.run(run())


def test_later_what_does_not_fit_is_named_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    many = [service(f"web-{number}", at=f"10.96.1.{number}") for number in range(50)]

    async def scenario(fixture: Fixture) -> None:
        fixture.list_objects(*many[:40])
        await fixture.until(lambda: len(fixture.capture.committed) == 40)
        fixture.list_objects(*many)
        await fixture.until(lambda: len(fixture.capture.committed) == 44)
        fixture.list_objects(*many[40:])
        await fixture.until(lambda: len(fixture.capture.committed) == 10)

    with_proxier(scenario, max_descriptors=556)
    said = [record.message for record in caplog.records if "Listener not opened" in record.message]
    assert len(said) == 6


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


def test_a_node_port_on_which_a_process_listens_too_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    taken = service("taken", at="10.96.0.10", ports=["80@30080"], type="NodePort")
    free = service("free", at="10.96.0.11", ports=["80@30081"], type="NodePort")

    async def scenario(fixture: Fixture) -> None:
        fixture.list_objects(taken, free, endpoint_slice("t-1", of="taken"), endpoint_slice("f-1", of="free"))
        await fixture.until(lambda: len(fixture.capture.committed) == 4)
        fixture.put(service("third", at="10.96.0.12"))
        await fixture.until(lambda: len(fixture.capture.committed) == 5)

    with_proxier(scenario)
    said = [record.message for record in caplog.records if "listens where" in record.message]
    assert [message.partition("frontend=")[2] for message in said] == [
        "0.0.0.0:30080/TCP service_port=default/taken"
    ]
