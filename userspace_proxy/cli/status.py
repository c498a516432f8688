"""`userspace-proxy status`: how the agent does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from userspace_proxy.cli.asking import answer_options, ask_agent
from userspace_proxy.cli.endpoints import health_text
from userspace_proxy.cli.figures import duration_text
from userspace_proxy.cli.rendering import (
    Block,
    Fields,
    Output,
    Sentences,
    Table,
    long,
    number,
    show_one,
)
from userspace_proxy.core.answers.status import FamilyStatus, SourceStatus, Status


@click.command()
@answer_options
def status(output: Output, state_directory: Path) -> None:
    """Say how the running agent does.

    What it follows, what it has written, what its workers carry, and what is wrong.
    """
    (answer,) = ask_agent(state_directory, "status", Status)
    show_one(answer, output, blocks)


def blocks(status: Status, _wide: bool) -> Iterator[Block]:
    """The page."""
    yield Fields(list(_fields(status)))
    yield Table(
        [
            "FAMILY",
            "RULES BY",
            "HEALTH",
            number("PORTALS"),
            number("RULES"),
            number("FAILURES"),
            long("LAST SYNC"),
        ],
        [
            [
                each.family,
                each.written_by,
                "healthy" if each.is_healthy else "not healthy",
                str(each.portals),
                str(each.rules),
                str(each.failures),
                _synced(each),
            ]
            for each in status.families
        ],
    )
    yield Table(
        ["WORKER", number("PID"), number("SERVICE PORTS"), number("ACTIVE")],
        [
            [str(worker.number), str(worker.pid or "?"), str(worker.service_ports), str(worker.active)]
            for worker in status.workers
        ],
    )
    if status.left_out:
        yield Table(
            ["SERVICE PORT", "PROTOCOL", "ENDPOINT", "HEALTH"],
            [
                [each.service_port, each.protocol, each.endpoint, health_text(each.health)]
                for each in status.left_out
            ],
            title=f"Endpoints left out: {status.ejected_endpoints} ejected for failing, "
            f"{status.taken_out_endpoints} taken out by an operator",
        )
    if status.problems:
        more = status.problems - len(status.named_problems)
        lines = [*status.named_problems, *([f"... and {more} more, see the log"] if more else ())]
        yield Sentences(lines, title=f"Problems with objects ({status.problems})")


def _fields(status: Status) -> Iterator[tuple[str, str]]:
    yield "Agent", f"{status.version}, pid {status.pid}, up for {duration_text(status.uptime_seconds)}"
    yield "Node", status.node + (f", zone {status.zone}" if status.zone else "")
    yield "Health", _health(status)
    yield "Source", _source(status.source)
    yield (
        "Serves",
        f"{status.services} Services with {status.service_ports} ports, at {status.listeners} of the proxy "
        f"ports {status.proxy_ports}",
    )
    unopened = status.unopened_listeners
    yield "Not opened", f"{unopened} listeners, whose clients are refused" if unopened else ""
    leaving = ", ".join(str(pid or "?") for pid in status.leaving_workers)
    yield "Leaving", f"workers {leaving}, whose connections may end" if leaving else ""
    yield "Replaced", f"{status.workers_replaced} workers that died" if status.workers_replaced else ""
    yield "Log", f"verbosity {status.verbosity}" if status.verbosity else ""


def _health(status: Status) -> str:
    if status.is_draining:
        return "draining: takes nothing new"
    if not status.is_healthy:
        return "not healthy: a change has waited for the rules for too long"
    if not status.is_node_eligible:
        return "healthy, and load balancers are told to send nothing new: the node is unknown, or leaves"
    return "healthy"


def _source(source: SourceStatus) -> str:
    parts = [source.place]
    if source.failing:
        parts.append("cannot be followed now")
        parts += source.failing
    elif source.followed_seconds is not None:
        parts.append(f"followed for {duration_text(source.followed_seconds)}")
    if not source.is_complete:
        parts.append("not listed yet, so nothing new is served")
    if source.last_event_seconds is not None:
        parts.append(f"last change {duration_text(source.last_event_seconds)} ago")
    return ", ".join(parts)


def _synced(family: FamilyStatus) -> str:
    ago = "never" if family.last_sync_seconds is None else f"{duration_text(family.last_sync_seconds)} ago"
    pending = ", a change waits" if family.is_pending else ""
    return ago + pending + (f"; failing since: {family.last_error}" if family.last_error else "")
