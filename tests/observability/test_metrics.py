"""What /metrics says, read back by Prometheus' own parser, and by promtool where that is installed."""

from __future__ import annotations

import asyncio
import subprocess
import threading
from collections.abc import Iterable, Mapping

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.parser import text_string_to_metric_families

from tests.support.http_answers import total
from tests.support.promtool import promtool
from userspace_proxy.core.objects import Kind
from userspace_proxy.core.proxy_plan import PlannedServicePort
from userspace_proxy.core.service_port import IPFamily, ServicePortName
from userspace_proxy.core.traffic_counters import ServicePortCounters
from userspace_proxy.core.traffic_totals import Reading, TrafficTotals
from userspace_proxy.observability import metric_table as table
from userspace_proxy.observability.http_server import Response
from userspace_proxy.observability.metric_table import METRICS, MetricKind
from userspace_proxy.observability.metrics import MetricsPort, of_agent, of_ejections, of_health, of_syncs
from userspace_proxy.observability.proxy_health import ProxyHealth
from userspace_proxy.observability.sync_record import ChangeRecord, SyncRecord

V4 = IPFamily.IPV4
WEB, DNS = "default/web:http TCP IPv4", "kube-system/dns UDP IPv6"
SINGLE = (
    table.SERVICE_PORTS,
    table.UNOPENED_LISTENERS,
    table.WORKERS,
    table.WORKERS_REPLACED,
    table.PROBLEMS,
    table.PROBLEMS_NAMED,
    table.EVENTS_WRITTEN,
    table.EVENTS_DROPPED,
)


def carried() -> ServicePortCounters:
    counters = ServicePortCounters(
        opened=7, failed=1, retried=2, active=3, refused_client_limit=4, refused_no_room=5, ejected=1
    )
    counters.connected(0.002)
    counters.connected(100)
    endpoint = counters.at("fd00::1", 8080)
    endpoint.opened, endpoint.bytes_in, endpoint.bytes_out, endpoint.failed = 7, 70, 700, 1
    return counters


class Agent:
    """What a metrics port watches."""

    def __init__(self, readings: Mapping[int, Reading]) -> None:
        self.readings = readings
        self.asked = 0
        self.thread = threading.get_ident()
        self.record = SyncRecord(rules={"nat": 12, "filter": 3})
        self.record.synced(0.5, 1000.0)
        self.changes = ChangeRecord([V4], lambda: 0.0)
        self.changes.changes[Kind.SERVICE, V4] = 9
        self.health = ProxyHealth(dict, lambda: True, lambda: 0.0)

    def families(self) -> Iterable[Family]:
        yield from of_syncs({V4: self.record}, self.changes)
        yield from of_health(self.health)
        yield from of_ejections({ServicePortName.from_key(WEB): 2})
        yield from of_agent(dict.fromkeys(SINGLE, 1), "1.2.3")

    async def read_counters(self) -> Mapping[int, Reading]:
        self.asked += 1
        await asyncio.sleep(0)
        return self.readings

    def planned(self) -> Mapping[ServicePortName, PlannedServicePort]:
        return {}


def scraped(readings: Mapping[int, Reading], *, service_ports: int = 10, times: int = 1) -> tuple[str, int]:
    """The text of the last of so many scrapes at once, and how often workers were asked for it."""

    async def scrape() -> tuple[str, int]:
        agent = Agent(readings)
        port = MetricsPort(asyncio.get_running_loop(), agent, TrafficTotals(service_ports, 10), dict)
        try:
            answers = await asyncio.gather(*(responding(port) for _ in range(times)))
        finally:
            await port.close()
        return answers[-1].body.decode(), agent.asked

    return asyncio.run(scrape())


async def responding(port: MetricsPort) -> Response:
    response = port.respond("/metrics")
    return response if isinstance(response, Response) else await response


def test_every_metric_of_the_table_is_exposed_as_the_table_says() -> None:
    text, _ = scraped({1: {WEB: carried()}})
    exposed = {family.name: family for family in text_string_to_metric_families(text)}
    for metric in METRICS:
        is_counter = metric.kind is MetricKind.COUNTER
        family = exposed.pop(metric.name.removesuffix("_total") if is_counter else metric.name)
        assert (family.type, family.documentation) == (metric.kind.value, metric.help) or (
            metric in table.OF_PROCESS and family.type == metric.kind.value
        )
        for sample in family.samples:
            assert sample.labels.keys() - {"le"} == set(metric.labels)
    assert not exposed


def test_numbers_are_what_workers_said() -> None:
    text, _ = scraped({1: {WEB: carried(), DNS: ServicePortCounters(opened=1)}, 2: {WEB: carried()}})
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    web = {"namespace": "default", "service": "web", "port": "http", "protocol": "TCP", "ip_family": "IPv4"}
    dns = {"namespace": "kube-system", "service": "dns", "port": "", "protocol": "UDP", "ip_family": "IPv6"}
    endpoint = {**web, "endpoint": "[fd00::1]:8080"}
    ours = "userspace_proxy_"
    for name, labels, value in (
        ("connections_total", web, 14),
        ("connections_total", dns, 1),
        ("connections_active", web, 6),
        ("connections_refused_total", {**web, "reason": "client-limit"}, 8),
        ("connections_refused_total", {**web, "reason": "no-room"}, 10),
        ("connect_retries_total", web, 4),
        ("endpoints_taken_out", web, 2),
        ("bytes_total", {**web, "direction": "in"}, 140),
        ("bytes_total", {**web, "direction": "out"}, 1400),
        ("endpoint_bytes_total", {**endpoint, "direction": "in"}, 140),
        ("endpoint_connections_total", endpoint, 14),
        ("connect_duration_seconds_bucket", {**web, "le": "0.0025"}, 2),
        ("connect_duration_seconds_bucket", {**web, "le": "+Inf"}, 4),
        ("connect_duration_seconds_count", web, 4),
        ("other_service_ports", {}, 0),
    ):
        assert total(samples, ours + name, **labels) == value, (name, labels)
    assert total(samples, "kubeproxy_sync_proxy_rules_iptables_total", table="nat") == 12
    assert total(samples, "kubeproxy_sync_proxy_rules_service_changes_total", ip_family="IPv4") == 9
    assert total(samples, "kubeproxy_sync_proxy_rules_last_timestamp_seconds") == 1000


def test_what_is_beyond_the_limit_is_added_up_and_counted() -> None:
    text, _ = scraped({1: {WEB: carried(), DNS: carried()}}, service_ports=0)
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    assert total(samples, "userspace_proxy_connections_total", service="other") == 14
    assert total(samples, "userspace_proxy_connections_total") == 14
    assert total(samples, "userspace_proxy_other_service_ports") == 2


def test_scrapes_that_come_together_share_one() -> None:
    text, asked = scraped({1: {WEB: carried()}}, times=5)
    assert "userspace_proxy_connections_total{" in text
    assert asked == 1


def test_promtool_finds_nothing_to_complain_about() -> None:
    text, _ = scraped({1: {WEB: carried()}})
    checked = subprocess.run([promtool(), "check", "metrics"], input=text, capture_output=True, text=True)
    complaints = [
        line
        for line in (checked.stdout + checked.stderr).splitlines()
        if line and not line.startswith("kubeproxy_")  # kube-proxy's names are what they are
    ]
    assert complaints == []
