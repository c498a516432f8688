"""`userspace-proxy services`: what is served, and everything about one Service."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from userspace_proxy.cli.asking import answer_options, ask_agent
from userspace_proxy.cli.completion import complete_services
from userspace_proxy.cli.endpoints import endpoint_rows
from userspace_proxy.cli.figures import bytes_text, duration_text
from userspace_proxy.cli.rendering import (
    Block,
    Column,
    Fields,
    Output,
    Sentences,
    Table,
    long,
    number,
    show,
)
from userspace_proxy.core.answers.services import (
    FrontendAnswer,
    ListenerAnswer,
    ServicePortAnswer,
    ServicesQuestion,
)


@click.command()
@click.argument("name", default="", shell_complete=complete_services)
@answer_options
def services(name: str, output: Output, state_directory: Path) -> None:
    """Say what is served, or everything about one Service.

    NAME is a Service or one of its ports: web, default/web, default/web:http, default/web:80. With a name
    each endpoint is there too, and why it is used or not.
    """
    answers = ask_agent(state_directory, "services", ServicePortAnswer, ServicesQuestion(name=name))
    show(answers, output, _described if name else _listed)


def _listed(answers: Sequence[ServicePortAnswer], wide: bool) -> Iterator[Block]:
    columns: list[Column | str] = ["NAME", "PROTOCOL", "ENDPOINTS", "WORKERS", number("ACTIVE")]
    if wide:
        columns += [number("OPENED"), number("IN"), number("OUT"), number("PROBLEMS")]
        columns += ["BALANCING", "AFFINITY", "INTERNAL", "EXTERNAL", "PROXY PORTS"]
    yield Table([*columns, long("FRONTENDS")], [list(_row(answer, wide)) for answer in answers])


def _row(answer: ServicePortAnswer, wide: bool) -> Iterator[str]:
    yield answer.service_port
    yield answer.protocol
    yield _endpoints(answer)
    yield ",".join(str(worker.number) for worker in answer.workers) or "-"
    yield str(answer.active)
    if wide:
        yield str(answer.opened)
        yield bytes_text(answer.bytes_in)
        yield bytes_text(answer.bytes_out)
        yield str(len(answer.problems) or "-")
        yield answer.balancing
        yield _affinity(answer)
        yield answer.internal_traffic_policy
        yield answer.external_traffic_policy
        yield " ".join(_proxy_port(listener) for listener in answer.listeners)
    yield " ".join(_short(frontend) for frontend in answer.frontends)


def _short(frontend: FrontendAnswer) -> str:
    """Where clients reach it, without what the row says already."""
    text = frontend.frontend.rpartition("/")[0]
    if frontend.kind == "nodePort":
        text = f"*:{text.rpartition(':')[2]}"
    return f"({text})" if frontend.captured_by else text


def _endpoints(answer: ServicePortAnswer) -> str:
    """How many each class may use, of how many there are."""
    if len(answer.listeners) == 1:
        return f"{answer.listeners[0].usable_endpoints}/{answer.listed_endpoints}"
    return " ".join(
        f"{listener.policy}:{listener.usable_endpoints}/{answer.listed_endpoints}"
        for listener in answer.listeners
    )


def _proxy_port(listener: ListenerAnswer) -> str:
    return f"{listener.policy}:{listener.proxy_port or '-'}"


def _affinity(answer: ServicePortAnswer) -> str:
    timeout = answer.affinity_timeout_seconds
    return "None" if timeout is None else f"ClientIP {duration_text(timeout)}"


def _described(answers: Sequence[ServicePortAnswer], wide: bool) -> Iterator[Block]:
    for answer in answers:
        yield Fields(list(_fields(answer)), title=f"{answer.service_port} {answer.protocol} {answer.family}")
        yield Table(
            ["FRONTEND", "KIND", "FROM OUTSIDE", "FROM INSIDE", long("SOURCE RANGES")],
            [
                [
                    frontend.frontend,
                    frontend.kind,
                    frontend.outside,
                    frontend.inside,
                    "all" if frontend.source_ranges is None else " ".join(frontend.source_ranges) or "none",
                ]
                for frontend in answer.frontends
            ],
        )
        yield Table(
            ["TRAFFIC POLICY", number("PROXY PORT"), number("USABLE ENDPOINTS"), "NEW CONNECTIONS", "NEXT"],
            [
                [
                    listener.policy,
                    str(listener.proxy_port or "-"),
                    str(listener.usable_endpoints),
                    _OUTCOMES[listener.outcome],
                    _next(listener),
                ]
                for listener in answer.listeners
            ],
        )
        if answer.endpoints:
            yield endpoint_rows(answer.endpoints, wide, has_service_port=False)
        captured = [
            f"{frontend.frontend} belongs to {frontend.captured_by}"
            for frontend in answer.frontends
            if frontend.captured_by
        ]
        if answer.problems or captured:
            yield Sentences([*captured, *answer.problems], title="Problems")


def _next(listener: ListenerAnswer) -> str:
    """Where somebody who comes now goes."""
    if not listener.next:
        return "-"
    return listener.next[0] if len(listener.next) == 1 else f"any of {len(listener.next)}"


_OUTCOMES = {"serve": "served", "refuse": "refused: no endpoint", "drop": "dropped: none on this node"}


def _fields(answer: ServicePortAnswer) -> Iterator[tuple[str, str]]:
    yield (
        "Traffic policies",
        f"internal {answer.internal_traffic_policy}, external {answer.external_traffic_policy}",
    )
    yield "Affinity", _affinity(answer)
    yield "Balancing", answer.balancing
    yield "Worker", ", ".join(f"{worker.number} (pid {worker.pid or '?'})" for worker in answer.workers)
    limits = [
        f"{limit} {what}"
        for limit, what in (
            (answer.max_connections, "in all"),
            (answer.max_connections_per_client, "for each client"),
        )
        if limit is not None
    ]
    yield "Limits", ", ".join(limits)
    drain = answer.drain_removed_seconds
    yield "Removed endpoints", "" if drain is None else f"connections end after {duration_text(drain)}"
    yield "PROXY protocol", "v2" if answer.sends_proxy_protocol else ""
    port = answer.health_check_node_port
    yield "Health check port", "" if port is None else str(port)
    ejected = answer.ejected_endpoints
    yield (
        "Endpoints",
        f"{answer.ready_endpoints} ready of {answer.listed_endpoints}"
        + (f", {ejected} ejected" if ejected else "")
        + (f", {answer.taken_out_endpoints} taken out" if answer.taken_out_endpoints else ""),
    )
    yield (
        "Connections" if answer.protocol == "TCP" else "Flows",
        f"{answer.active} active, {answer.opened} opened, {answer.failed} failed, {answer.refused} refused, "
        f"{answer.retried} tried again",
    )
    yield "Bytes", f"{bytes_text(answer.bytes_in)} in, {bytes_text(answer.bytes_out)} out"
