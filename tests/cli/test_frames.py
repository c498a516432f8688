"""What changes while somebody looks, where nobody looks: printed one after the other."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from userspace_proxy.cli.frames import show_frames
from userspace_proxy.cli.rendering import Block, Output, Sentences
from userspace_proxy.cli.sparklines import Histories, sparkline
from userspace_proxy.cli.top import _View
from userspace_proxy.core.answers.top import EndpointRates, Rates, ServicePortRates, TopFrame


class Frame(msgspec.Struct):
    number: int


def frames() -> Iterator[Frame]:
    for number in range(100):
        yield Frame(number)
    raise KeyboardInterrupt


def blocks(frame: Frame, wide: bool) -> Iterator[Block]:
    yield Sentences([f"number {frame.number}{' wide' if wide else ''}"])


@pytest.mark.parametrize(
    ("output", "printed"),
    [
        (Output.TABLE, "number 0\n\nnumber 1\n"),
        (Output.WIDE, "number 0 wide\n\nnumber 1 wide\n"),
        (Output.JSON, '{"number":0}\n{"number":1}\n'),
        (Output.YAML, "---\nnumber: 0\n---\nnumber: 1\n"),
    ],
)
def test_so_many_are_printed(output: Output, printed: str, capsys: pytest.CaptureFixture[str]) -> None:
    show_frames(frames(), output, blocks, 2)
    assert capsys.readouterr().out == printed


def test_who_interrupts_has_seen_enough(capsys: pytest.CaptureFixture[str]) -> None:
    show_frames(frames(), Output.JSON, blocks)
    assert capsys.readouterr().out.count("\n") == 100


@pytest.mark.parametrize(
    ("values", "drawn"),
    [
        ([], "    "),
        ([0.0, 0.0], "    "),
        ([1.0, 0.0, 4.0, 8.0], "▂ ▅█"),
        ([9.0, 1.0, 1.0, 1.0, 1.0], "████"),
        ([0.001, 8.0], "  ▁█"),
    ],
)
def test_a_sparkline_is_as_high_as_its_values(values: list[float], drawn: str) -> None:
    assert sparkline(values, 4) == drawn


def test_who_is_missing_for_once_had_nothing_and_who_has_nothing_for_long_is_forgotten() -> None:
    histories = Histories(2)
    histories.add([("web", 1.0), ("dns", 2.0)])
    histories.add([("web", 3.0)])
    assert histories.of("web") == [1.0, 3.0]
    assert histories.of("dns") == [2.0, 0.0]
    histories.add([("web", 3.0)])
    assert histories.of("dns") == []


def test_top_shows_service_ports_with_a_trend_and_their_endpoints() -> None:
    view = _View(has_endpoints=True)
    web = ServicePortRates(
        service_port="default/web",
        protocol="TCP",
        family="IPv4",
        active=3,
        connections_per_second=12.0,
        connect_p50_seconds=0.0004,
        connect_p99_seconds=0.25,
        endpoints=(EndpointRates(endpoint="10.1.0.1:80", connections_per_second=12.0),),
    )
    frame = TopFrame(
        seconds=1.0, service_ports=(web,), left_out=2, total=Rates(active=3, connections_per_second=12.0)
    )
    for wide in (False, True):
        table, more = view.blocks(frame, wide)
    assert [row[0] for row in table.rows] == ["all", "default/web", "  10.1.0.1:80"]  # type: ignore[union-attr]
    assert len({len(row) for row in table.rows} | {len(table.columns)}) == 1  # type: ignore[union-attr]
    assert {"12", "0.40 ms", "250 ms", "██".rjust(20)} <= {*table.rows[1]}  # type: ignore[union-attr]
    assert more == Sentences(["2 more Service ports have traffic: --limit, --service"])
