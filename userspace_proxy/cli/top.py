"""`userspace-proxy top`: what goes through, live."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from userspace_proxy.cli.asking import answer_options, ask_agent
from userspace_proxy.cli.completion import service_option
from userspace_proxy.cli.figures import bytes_text, latency_text, rate_text
from userspace_proxy.cli.frames import show_frames
from userspace_proxy.cli.rendering import Block, Column, Output, Sentences, Table, number
from userspace_proxy.cli.sparklines import Histories, sparkline
from userspace_proxy.core.answers.top import EndpointRates, Rates, ServicePortRates, TopFrame, TopQuestion

_TREND: Final = 20
_ALL: Final = ""


@click.command()
@service_option
@click.option("--endpoints", "has_endpoints", is_flag=True, help="Show the endpoints of each, too.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="How many Service ports, the busiest first.",
)
@click.option(
    "--interval",
    "interval_seconds",
    type=click.FloatRange(0.2, 30.0),
    metavar="SECONDS",
    default=1.0,
    show_default=True,
    help="How often.",
)
@click.option("-n", "count", type=click.IntRange(min=1), metavar="COUNT", help="End after so many times.")
@answer_options
def top(
    service: str,
    has_endpoints: bool,
    limit: int,
    interval_seconds: float,
    count: int | None,
    output: Output,
    state_directory: Path,
) -> None:
    """Watch what Service ports carry: connections, bytes and failures a second, and how long connects take.

    The busiest come first. `q` ends it. Where it is no terminal, each look is printed after the other.
    """
    question = TopQuestion(service=service, interval_seconds=interval_seconds, limit=limit)
    frames = ask_agent(state_directory, "top", TopFrame, question)
    show_frames(frames, output, _View(has_endpoints or bool(service)).blocks, count)


class _View:
    """Frames, and what the last ones showed."""

    def __init__(self, has_endpoints: bool) -> None:
        self._has_endpoints = has_endpoints
        self._histories = Histories(_TREND)

    def blocks(self, frame: TopFrame, wide: bool) -> Iterator[Block]:
        self._histories.add(
            [(_ALL, frame.total.connections_per_second)]
            + [(_key(each), each.connections_per_second) for each in frame.service_ports]
        )
        columns: list[Column | str] = ["SERVICE PORT", "PROTOCOL", number("ACTIVE"), number("CONNECTIONS/S")]
        columns += ["TREND", number("IN/S"), number("OUT/S"), number("FAILED/S"), number("RETRIED/S")]
        columns += [number("P50"), number("P99")]
        if wide:
            columns += [number("REFUSED/S"), number("EJECTED"), "FAMILY"]
        rows = [self._total(frame.total, wide)]
        for each in frame.service_ports:
            rows.append(self._service_port(each, wide))
            if self._has_endpoints:
                rows += [_endpoint(endpoint, wide) for endpoint in each.endpoints]
        yield Table(columns, rows)
        if frame.left_out:
            yield Sentences([f"{frame.left_out} more Service ports have traffic: --limit, --service"])

    def _total(self, total: Rates, wide: bool) -> list[str]:
        row = ["all", "", *_traffic(total, self._trend(_ALL)), "", "", ""]
        return [*row, *([""] * 3 if wide else [])]

    def _service_port(self, each: ServicePortRates, wide: bool) -> list[str]:
        row = [each.service_port, each.protocol, *_traffic(each, self._trend(_key(each)))]
        row += [rate_text(each.retries_per_second)]
        row += [_latency(each.connect_p50_seconds), _latency(each.connect_p99_seconds)]
        if wide:
            row += [rate_text(each.refused_per_second), str(each.ejected), each.family]
        return row

    def _trend(self, key: str) -> str:
        return sparkline(self._histories.of(key), _TREND)


def _endpoint(each: EndpointRates, wide: bool) -> list[str]:
    row = [f"  {each.endpoint}", "", *_traffic(each, ""), "", "", ""]
    return [*row, *([""] * 3 if wide else [])]


def _traffic(rates: Rates, trend: str) -> list[str]:
    return [
        str(rates.active),
        rate_text(rates.connections_per_second),
        trend,
        bytes_text(rates.bytes_in_per_second),
        bytes_text(rates.bytes_out_per_second),
        rate_text(rates.failures_per_second),
    ]


def _latency(seconds: float | None) -> str:
    return "-" if seconds is None else latency_text(seconds)


def _key(each: ServicePortRates) -> str:
    return f"{each.service_port} {each.protocol} {each.family}"
