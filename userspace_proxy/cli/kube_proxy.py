"""`kube-proxy`: the same agent for whoever calls it as they called kube-proxy, without a verb."""

from __future__ import annotations

import logging
import sys
from typing import Any

import click

from userspace_proxy.cli.run import run_as
from userspace_proxy.cli.table_options import GoFlagsCommand, load, table_options
from userspace_proxy.configuration.values import read_boolean
from userspace_proxy.errors import UsageError, UserspaceProxyError


@click.command(
    cls=GoFlagsCommand, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(package_name="userspace-proxy", prog_name="userspace-proxy")
@click.option(
    "--cleanup",
    is_flag=False,
    flag_value="true",
    metavar="[true|false]",
    help="Take back what a run left, and end.",
)
@table_options
def kube_proxy(cleanup: str | None, **given: Any) -> None:
    """Serve a cluster's Services on this node: `userspace-proxy run`, called as kube-proxy is."""
    try:
        is_to_clean_up = read_boolean(cleanup or "false")
    except ValueError as error:
        raise UsageError(f"--cleanup: {error}") from error
    if not is_to_clean_up:
        run_as(given)
        return
    from userspace_proxy.agent.cleanup import clean_up

    state_directory = load(given).configuration.state_directory
    for line in clean_up(force=False, state_directory=state_directory):
        click.echo(line)


def main() -> None:
    """The console script."""
    try:
        kube_proxy(prog_name="kube-proxy")
    except UserspaceProxyError as error:
        logging.shutdown()  # what led to it was logged, and comes before
        click.echo(f"kube-proxy: {error}", err=True)
        sys.exit(error.exit_code)
