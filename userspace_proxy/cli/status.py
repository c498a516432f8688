"""`userspace-proxy status`: how the agent does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from userspace_proxy.cli.asking import answer_options, ask_agent
from userspace_proxy.cli.endpoints import health_text
from userspace_proxy.cli.rendering import Block, Fields, Output, Table, number, show_one
from userspace_proxy.core.answers.status import Status


@click.command()
@answer_options
def status(output: Output, state_directory: Path) -> None:
    """Say how the running agent does."""
    (answer,) = ask_agent(state_directory, "status", Status)
    show_one(answer, output, _blocks)


def _blocks(status: Status, wide: bool) -> Iterator[Block]:
    yield Fields([("Version", status.version), ("Pid", str(status.pid)), ("Node", status.node)])
    yield Table(
        ["WORKER", number("PID"), number("SERVICE PORTS")],
        [[str(worker.number), str(worker.pid), str(worker.service_ports)] for worker in status.workers],
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
