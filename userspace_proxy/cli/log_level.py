"""`userspace-proxy log-level`: how much a running agent logs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from userspace_proxy.cli.asking import answer_options, ask_agent
from userspace_proxy.cli.rendering import Block, Fields, Output, show_one
from userspace_proxy.core.answers.verbosity import VerbosityAnswer, VerbosityQuestion


@click.command("log-level")
@click.argument("verbosity", required=False, type=click.IntRange(0, 10))
@answer_options
def log_level(verbosity: int | None, output: Output, state_directory: Path) -> None:
    """Say how much the running agent and its workers log, or have them log as `-v VERBOSITY` does.

    That is so until the agent starts again or reads its configuration file again.
    """
    question = VerbosityQuestion(verbosity=verbosity)
    (answer,) = ask_agent(state_directory, "log-level", VerbosityAnswer, question)
    show_one(answer, output, _blocks)


def _blocks(answer: VerbosityAnswer, _wide: bool) -> Iterator[Block]:
    yield Fields([("Verbosity", str(answer.verbosity))])
