"""`userspace-proxy cleanup`: take back everything that `run` left in the kernel."""

from __future__ import annotations

from pathlib import Path

import click

from userspace_proxy.configuration.options import DEFAULT_STATE_DIRECTORY


@click.command()
@click.option("--force", is_flag=True, help="End the running agent first.")
@click.option(
    "--state-directory",
    metavar="DIR",
    default=DEFAULT_STATE_DIRECTORY,
    show_default=True,
    help="The one that `run` was given.",
)
def cleanup(force: bool, state_directory: str) -> None:
    """Take back what `run` left.

    Removes every rule, chain and UDP conntrack entry of ours, and nothing of anybody else's. Workers that
    serve on without an agent are ended, and so are their connections.
    """
    from userspace_proxy.agent.cleanup import clean_up

    for line in clean_up(force=force, state_directory=Path(state_directory)):
        click.echo(line)
