"""What a report says of what was measured."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from userspace_proxy.demo.costs.figures import Figures, Report, Role, Round, Work, figures_of
from userspace_proxy.demo.costs.picture import picture_of
from userspace_proxy.demo.costs.reporting import way_of
from userspace_proxy.demo.costs.table import table_of
from userspace_proxy.errors import UsageError

SVG = "{http://www.w3.org/2000/svg}"


def a_round(cpu_seconds: float, *latencies: float) -> Round:
    return Round(1.0, latencies, {Role.CLIENT: cpu_seconds, Role.PROXY: cpu_seconds * 2, Role.POD: 0.0})


def figures(way: str, work: Work, **cpu_seconds: float) -> Figures:
    cost = {role: cpu_seconds.get(role.value, 0.0) for role in Role}
    return Figures(way, work, 1234.5, 0.0002, 0.005, cost, 0.1)


REPORT = Report(
    "2026-01-02",
    "2 CPUs (<Processor>)",
    tuple(
        figures(way, work, client=100e-6, proxy=proxy, pod=100e-6)
        for work in Work
        for way, proxy in (("direct", 0.0), ("userspace", 200e-6))
    ),
)


def test_rates_and_costs_are_medians_of_rounds_and_latencies_are_of_all_requests() -> None:
    said = figures_of("direct", Work.CONNECTIONS, [a_round(4, 1, 1), a_round(8, 2, 2, 2, 2), a_round(60, 3)])
    assert said.per_second == 2
    assert said.median_seconds == 2
    assert said.cpu_seconds == {Role.CLIENT: 2, Role.PROXY: 4, Role.POD: 0}
    assert said.total_cpu_seconds == 6


def test_one_request_of_a_hundred_may_take_longer_than_p99() -> None:
    said = figures_of("direct", Work.REQUESTS, [a_round(1, *[1.0] * 99, 50.0), a_round(1, *[1.0] * 100)])
    assert said.p99_seconds == 1


def test_noise_is_the_distance_of_the_middle_half_of_rounds() -> None:
    assert figures_of("x", Work.REQUESTS, [a_round(cpu, 1) for cpu in (1, 2, 2, 3, 90)]).noise == 0.5
    assert figures_of("x", Work.REQUESTS, [a_round(0, 1), a_round(0, 1)]).noise == 0


def test_a_table_has_a_line_and_a_bar_for_each_way_and_work() -> None:
    lines = table_of(REPORT).splitlines()
    rows = [line.split() for line in lines if line.startswith(("direct", "userspace"))]
    assert [row[0] for row in rows] == ["direct", "userspace"] * 4
    assert " ".join(rows[1][1:]) == "1,234 0.20 ms 5.00 ms 400 µs 100 µs 200 µs 100 µs 10%"
    assert rows[2][1] == "░" * 14 + "▒" * 14
    assert rows[3][1] == "░" * 14 + "█" * 28 + "▒" * 14
    assert lines[-1] == "2026-01-02, 2 CPUs (<Processor>)"
    assert max(map(len, lines)) <= 100


def test_a_picture_has_a_bar_for_each_role_way_and_work() -> None:
    picture = ET.fromstring(picture_of(REPORT))
    widths = [float(bar.attrib["width"]) for bar in picture.iter(f"{SVG}rect") if "x" in bar.attrib]
    assert widths == [125, 0, 125, 125, 250, 125] * 2 + [12] * 3
    texts = ["".join(text.itertext()) for text in picture.iter(f"{SVG}text")]
    assert "2026-01-02, 2 CPUs (<Processor>)" in texts
    assert texts.count("400 µs") == 2


@pytest.mark.parametrize(
    ("text", "way"),
    [
        ("direct=10.244.1.2:8080", ("direct", ("10.244.1.2", 8080))),
        ("six=[fd00::1]:80", ("six", ("fd00::1", 80))),
        ("service=web:80", ("service", ("web", 80))),
    ],
)
def test_a_way_is_a_name_and_an_address(text: str, way: tuple[str, tuple[str, int]]) -> None:
    assert way_of(text) == way


@pytest.mark.parametrize("text", ["web:80", "a=web", "a=:80", "=web:80", "a=web:0", "a=web:65536", "a=web:x"])
def test_what_is_no_way_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no way to a server"):
        way_of(text)
