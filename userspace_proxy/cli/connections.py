"""`userspace-proxy connections`: who is connected to what."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import click

from userspace_proxy.cli.asking import answer_options, ask_agent
from userspace_proxy.cli.completion import service_option
from userspace_proxy.cli.figures import bytes_text, duration_text
from userspace_proxy.cli.frames import show_frames
from userspace_proxy.cli.rendering import Block, Column, Output, Sentences, Table, number, show_one
from userspace_proxy.core.answers.connections import ConnectionAnswer, ConnectionsAnswer, ConnectionsQuestion

_TABLE_LIMIT = 200


@click.command()
@service_option
@click.option("--client", metavar="ADDRESS", default="", help="Those of a client.")
@click.option(
    "--endpoint", metavar="ADDRESS[:PORT]", default="", help="Those to an endpoint: 192.0.2.1, 192.0.2.1:80."
)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    help=f"So many at most, the oldest; 0: all. Default: {_TABLE_LIMIT}, and all as json and yaml.",
)
@click.option("-w", "--watch", is_flag=True, help="Look again and again, until `q`.")
@click.option(
    "--interval",
    "interval_seconds",
    type=click.FloatRange(min=0.2),
    metavar="SECONDS",
    default=2.0,
    show_default=True,
    help="With --watch: how often.",
)
@answer_options
def connections(
    service: str,
    client: str,
    endpoint: str,
    limit: int | None,
    watch: bool,
    interval_seconds: float,
    output: Output,
    state_directory: Path,
) -> None:
    """Say who is connected to what: TCP connections and UDP flows that go on now.

    Bytes are the kernel's count of what the client has sent, and has acknowledged.
    """
    if limit is None:
        limit = 0 if output in (Output.JSON, Output.YAML) else _TABLE_LIMIT
    question = ConnectionsQuestion(service=service, client=client, endpoint=endpoint, limit=limit)

    def look() -> ConnectionsAnswer:
        pages = list(ask_agent(state_directory, "connections", ConnectionsAnswer, question))
        return ConnectionsAnswer(
            connections=tuple(each for page in pages for each in page.connections),
            left_out=sum(page.left_out for page in pages),
            workers_not_asked=tuple(pid for page in pages for pid in page.workers_not_asked),
        )

    def looks() -> Iterator[ConnectionsAnswer]:
        while True:
            yield look()
            time.sleep(interval_seconds)

    if watch:
        show_frames(looks(), output, _blocks)
    else:
        show_one(look(), output, _blocks)


def _blocks(answer: ConnectionsAnswer, wide: bool) -> Iterator[Block]:
    columns: list[Column | str] = ["CLIENT", "FRONTEND", "ENDPOINT", "SERVICE PORT", "PROTOCOL"]
    columns += [number("AGE"), number("IN"), number("OUT")]
    if wide:
        columns += ["FAMILY", number("WORKER")]
    yield Table([*columns, "STATE"], [list(_row(each, wide)) for each in answer.connections])
    notes = []
    if answer.left_out:
        notes.append(f"{answer.left_out} more, which began later: --limit, --service, --client, --endpoint")
    if answer.workers_not_asked:
        pids = ", ".join(map(str, answer.workers_not_asked))
        notes.append(f"Not asked are workers of an earlier agent, which drain: pid {pids}")
    if notes:
        yield Sentences(notes)


def _row(each: ConnectionAnswer, wide: bool) -> Iterator[str]:
    yield each.client
    yield each.frontend or "-"
    yield each.endpoint or "-"
    yield each.service_port
    yield each.protocol
    yield duration_text(each.age_seconds)
    yield "-" if each.bytes_in is None else bytes_text(each.bytes_in)
    yield "-" if each.bytes_out is None else bytes_text(each.bytes_out)
    if wide:
        yield each.family
        yield str(each.worker or "?")
    yield f"draining, {each.state}" if each.draining else each.state
