"""`userspace-proxy drain`: let what runs finish, and nothing begin."""

from __future__ import annotations

import click


@click.command()
def drain() -> None:
    """Have the running agent take nothing new and let what runs finish.

    New connections are refused at once. Established ones go on until they are over, for the agent's
    --drain-seconds at most; UDP flows end, those that wait for an answer with that, or after 5 s. Then the
    agent ends, and so does this command. The rules stay.
    """
    from userspace_proxy.agent.single_instance import drain_running_agent

    click.echo(f"drained and ended the agent, pid {drain_running_agent() or 'unknown'}")
