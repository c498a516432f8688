"""`userspace-proxy supervise -- run …`: what a container runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from userspace_proxy.cli.run import run
from userspace_proxy.cli.table_options import load


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def supervise(command: tuple[str, ...]) -> None:
    """Keep `userspace-proxy run …` running, as the first process of a container.

    For example: userspace-proxy supervise -- run --hostname-override "$NODE_NAME"

    An agent that dies is started again, and takes back the workers that it left. On SIGTERM the agent is
    stopped; this command ends when its workers have, too. An agent that cannot start, because a flag is wrong
    or a privilege is missing, ends it with the same exit status.
    """
    verb, *flags = command
    if verb != "run":
        raise click.UsageError(
            f"only `run` can be supervised, not `{verb}`: userspace-proxy supervise -- run"
        )
    # A wrong flag, and --help, are answered here.
    with run.make_context(f"{click.get_current_context().command_path} -- run", flags) as context:
        configuration = load(context.params).configuration
    supervise_run(flags, configuration.logging_format)


def supervise_run(flags: Sequence[str], logging_format: str) -> NoReturn:
    """Supervise `run` with these flags, which have been checked."""
    from userspace_proxy.agent.supervisor import supervise
    from userspace_proxy.logs.log import configure_logging

    configure_logging(log_format=logging_format).start()
    sys.exit(supervise([sys.executable, "-m", "userspace_proxy", "run", *flags]))
