"""`userspace-proxy supervise -- run …`: what a container runs."""

from __future__ import annotations

import sys

import click


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def supervise(command: tuple[str, ...]) -> None:
    """Keep `userspace-proxy COMMAND…` running, as the first process of a container.

    For example: userspace-proxy supervise -- run --hostname-override "$NODE_NAME"

    An agent that dies is started again, and takes back the workers that it left. On SIGTERM the agent is
    stopped; this command ends when its workers have, too.
    """
    from userspace_proxy.agent.supervisor import supervise
    from userspace_proxy.observability.logs import configure_logging

    configure_logging(0)
    sys.exit(supervise([sys.executable, "-m", "userspace_proxy", *command]))
