"""`userspace-proxy eject` and `uneject`: take an endpoint out, and put it back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from userspace_proxy.cli.asking import answer_options, ask_agent
from userspace_proxy.cli.completion import service_option
from userspace_proxy.cli.figures import duration_text
from userspace_proxy.cli.rendering import Block, Output, Table, show
from userspace_proxy.core.answers.ejections import Ejection, EjectParameters, UnejectParameters
from userspace_proxy.core.durations import parse_duration


def _seconds(_context: click.Context, _parameter: click.Parameter, text: str | None) -> float | None:
    try:
        return None if text is None else float(text) if text.isdecimal() else parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(f"{error}, nor a number of seconds") from None


@click.command()
@click.argument("endpoint")
@service_option
@click.option(
    "--for",
    "seconds",
    callback=_seconds,
    metavar="DURATION",
    help="Put it back by itself after that: 90, 90s, 1h30m. Default: never, that is for `uneject` to do.",
)
@click.option("--force", is_flag=True, help="Even if a Service has no other endpoint.")
@answer_options
def eject(
    endpoint: str, service: str, seconds: float | None, force: bool, output: Output, state_directory: Path
) -> None:
    """Take an endpoint out: it gets no new connections on this node.

    ENDPOINT is an address and port, 192.0.2.1:80, or an address for all its ports. Connections that it has go
    on, and no new one fails: where all others fail it is tried as a last resort. The agent's next run, and
    workers that are replaced, go on so; once the Service lists the endpoint no more it is forgotten.
    """
    parameters = EjectParameters(endpoint=endpoint, service=service, seconds=seconds, force=force)
    show(ask_agent(state_directory, "eject", Ejection, parameters), output, _taken_out)


@click.command()
@click.argument("endpoint")
@service_option
@answer_options
def uneject(endpoint: str, service: str, output: Output, state_directory: Path) -> None:
    """Put an endpoint back that `eject` has taken out."""
    parameters = UnejectParameters(endpoint=endpoint, service=service)
    show(ask_agent(state_directory, "uneject", Ejection, parameters), output, _put_back)


def _taken_out(ejections: Sequence[Ejection], wide: bool) -> Iterator[Block]:
    yield Table(
        ["SERVICE PORT", "PROTOCOL", "ENDPOINT", "TAKEN OUT FOR"],
        [
            [*_row(each), "until uneject" if each.seconds is None else duration_text(each.seconds)]
            for each in ejections
        ],
    )


def _put_back(ejections: Sequence[Ejection], wide: bool) -> Iterator[Block]:
    yield Table(["SERVICE PORT", "PROTOCOL", "ENDPOINT PUT BACK"], [_row(each) for each in ejections])


def _row(each: Ejection) -> list[str]:
    return [each.service_port, each.protocol, each.endpoint]
