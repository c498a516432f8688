"""`userspace-proxy endpoints`: each endpoint, and why it is used or not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from userspace_proxy.cli.asking import answer_options, ask_agent
from userspace_proxy.cli.completion import service_option
from userspace_proxy.cli.figures import bytes_text, duration_text
from userspace_proxy.cli.rendering import Block, Column, Output, Table, long, number, show
from userspace_proxy.core.answers.endpoints import EndpointAnswer, EndpointHealth, EndpointsQuestion


@click.command()
@service_option
@answer_options
def endpoints(service: str, output: Output, state_directory: Path) -> None:
    """Say of each endpoint whether it is used, or why not."""
    answers = ask_agent(state_directory, "endpoints", EndpointAnswer, EndpointsQuestion(service=service))
    show(answers, output, _blocks)


def _blocks(answers: Sequence[EndpointAnswer], wide: bool) -> Iterator[Block]:
    yield endpoint_rows(answers, wide)


def endpoint_rows(answers: Sequence[EndpointAnswer], wide: bool, *, has_service_port: bool = True) -> Table:
    """A table of endpoints, of several Service ports or of one."""
    columns: list[Column | str] = ["SERVICE PORT", "PROTOCOL"] if has_service_port else []
    columns += ["ENDPOINT", "CONDITION", "HEALTH", "NODE"]
    columns += [number("ACTIVE"), number("OPENED"), number("FAILED")]
    if wide:
        columns += [number("IN"), number("OUT"), number("EJECTIONS"), "HINTS", "SLICES"]
    columns += ["USED", long("WHY")]
    rows = []
    for answer in answers:
        row = [answer.service_port, answer.protocol] if has_service_port else []
        row += [answer.endpoint, _condition(answer), health_text(answer.health), answer.node or "-"]
        row += [str(answer.active), str(answer.opened), str(answer.failed)]
        if wide:
            hints = [
                *(f"node {name}" for name in answer.hint_nodes),
                *(f"zone {zone}" for zone in answer.hint_zones),
            ]
            row += [bytes_text(answer.bytes_in), bytes_text(answer.bytes_out), str(answer.ejections)]
            row += [", ".join(hints) or "-", " ".join(answer.slices)]
        rows.append([*row, _used(answer), _why(answer)])
    return Table(columns, rows)


def _condition(answer: EndpointAnswer) -> str:
    if answer.terminating:
        return "terminating, serving" if answer.serving else "terminating"
    return "ready" if answer.ready else "not ready"


def health_text(health: EndpointHealth) -> str:
    """How workers find it: well, failing, ejected, or taken out by an operator."""
    if health.taken_out:
        seconds = health.taken_out_seconds
        return "taken out" if seconds is None else f"taken out for {duration_text(seconds)}"
    if health.ejected_seconds is None:
        return f"failing ({health.failures})" if health.failures else "well"
    if not health.left_out_of:
        return "failing, used all the same"
    if health.probed or not health.ejected_seconds:
        return "ejected, being tried" if health.probed else "ejected, tried next"
    return f"ejected for {duration_text(health.ejected_seconds)}"


def _used(answer: EndpointAnswer) -> str:
    """Whether it is used, or by traffic under which policy."""
    policies = [use.policy for use in answer.uses if use.is_used]
    if len(policies) in (0, len(answer.uses)):
        return "yes" if policies else "no"
    return ", ".join(policies)


def _why(answer: EndpointAnswer) -> str:
    """What there is to say that its condition does not say; by policy where that differs."""
    condition = _condition(answer)
    reasons: dict[str, list[str]] = {}
    for use in answer.uses:
        if use.reason != condition:
            reasons.setdefault(use.reason, []).append(use.policy)
    if len(answer.uses) == 1 or any(len(policies) == len(answer.uses) for policies in reasons.values()):
        return "; ".join(reasons)
    return "; ".join(f"{', '.join(policies)}: {reason}" for reason, policies in reasons.items())
