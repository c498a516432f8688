"""`userspace-proxy trace`: what becomes of a client's packet, and why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from userspace_proxy.cli.asking import answer_options, ask_agent
from userspace_proxy.cli.completion import complete_services
from userspace_proxy.cli.endpoints import health_text
from userspace_proxy.cli.figures import duration_text
from userspace_proxy.cli.rendering import Block, Column, Fields, Output, Table, long, show_one
from userspace_proxy.core.answers.trace import CandidateAnswer, TraceAnswer, TraceQuestion


@click.command()
@click.argument("client")
@click.argument("frontend", shell_complete=complete_services)
@answer_options
def trace(client: str, frontend: str, output: Output, state_directory: Path) -> None:
    """Say what becomes of what CLIENT sends to FRONTEND, and why.

    CLIENT is an IP address, `outside` or `node`. FRONTEND is an address with a port, such as 10.96.0.10:80,
    192.0.2.10:30080/udp or [fd00::1]:80, or a Service's name: web, default/web:http.

    Nothing is sent: it follows the rules as they were last installed, and asks who would be next.
    """
    question = TraceQuestion(client=client, frontend=frontend)
    (answer,) = ask_agent(state_directory, "trace", TraceAnswer, question)
    show_one(answer, output, _blocks)


def _blocks(answer: TraceAnswer, wide: bool) -> Iterator[Block]:
    yield Fields(list(_fields(answer)))
    if answer.steps:
        columns: list[Column | str] = ["TABLE", "CHAIN", *(["RULE"] if wide else []), long("REASON")]
        yield Table(
            columns,
            [[step.table, step.chain, *([step.rule] if wide else ()), step.reason] for step in answer.steps],
            title="Rules on its way",
        )
    if answer.endpoints:
        yield Table(
            ["ENDPOINT", "CANDIDATE", "NEXT", long("WHY")],
            [
                [each.endpoint, _candidate(each), "yes" if each.is_next else "-", each.reason]
                for each in answer.endpoints
            ],
            title="Endpoints",
        )


def _candidate(answer: CandidateAnswer) -> str:
    if answer.is_left_out:
        return health_text(answer.health)
    return "yes" if answer.is_used else "no"


def _fields(answer: TraceAnswer) -> Iterator[tuple[str, str]]:
    yield "Client", answer.origin
    yield "Frontend", answer.frontend
    yield "Outcome", answer.outcome.value
    yield "Because", answer.conclusion
    yield "Service port", answer.service_port or ""
    yield "Traffic policy", answer.traffic_policy or ""
    yield "Source ranges", answer.source_ranges or ""
    yield "Proxy port", str(answer.proxy_port or "")
    yield "Worker", ", ".join(f"{worker.number} (pid {worker.pid or '?'})" for worker in answer.workers)
    yield "Balancing", answer.balancing or ""
    if answer.affinity_timeout_seconds is not None:
        bound = f"bound to {', '.join(answer.bound_to)}" if answer.bound_to else "not bound to any now"
        yield "Affinity", f"ClientIP for {duration_text(answer.affinity_timeout_seconds)}; {bound}"
