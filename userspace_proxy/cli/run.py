"""`userspace-proxy run`: the node agent."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click

from userspace_proxy.cli.table_options import GoFlagsCommand, load, table_options
from userspace_proxy.configuration.loading import Loaded
from userspace_proxy.errors import UsageError


@click.command(cls=GoFlagsCommand)
@table_options
def run(**given: Any) -> None:
    """Serve a cluster's Services on this node.

    Runs until SIGTERM or Ctrl-C. The rules stay for the next run, and so, for --orphan-seconds, do the
    workers with their connections.
    """
    run_as(given)


def run_as(given: dict[str, Any]) -> None:
    """Run, or write the configuration, as the arguments by the table say."""
    live = load(given)
    if given["write_config_to"]:
        _write(live.loaded, Path(given["write_config_to"]))
        return
    # Imported here: `--help` and a wrong flag need not wait for a second of imports.
    from userspace_proxy.agent.gentle_import import import_gently

    import_gently("userspace_proxy.agent.agent")
    import uvloop

    from userspace_proxy.agent.agent import run_agent
    from userspace_proxy.agent.replacement import start_again
    from userspace_proxy.logs.log import configure_logging

    log = configure_logging(live.configuration.verbosity, live.configuration.logging_format)
    for note in live.loaded.notes:
        logging.getLogger(__name__).info("%s", note)
    if uvloop.run(run_agent(live, log)):
        start_again()


def _write(loaded: Loaded, path: Path) -> None:
    try:
        path.write_text(loaded.written())
    except OSError as error:
        raise UsageError(f"--write-config-to: {path} cannot be written: {error.strerror}") from error
    click.echo(f"wrote the configuration to {path}", err=True)
