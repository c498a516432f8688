"""`userspace-proxy cleanup`: take back everything that `run` left in the kernel."""

from __future__ import annotations

import click


@click.command()
@click.option("--force", is_flag=True, help="End the running agent first.")
def cleanup(force: bool) -> None:
    """Take back what `run` left.

    Removes every rule, chain and UDP conntrack entry of ours, and nothing of anybody else's.
    """
    from userspace_proxy.agent.cleanup import clean_up

    for line in clean_up(force=force):
        click.echo(line)
