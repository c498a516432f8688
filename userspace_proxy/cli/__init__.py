"""The command line: a file a verb, and no logic. An error of ours ends in one sentence and an exit code."""

from __future__ import annotations

import logging
import sys

import click

from userspace_proxy.cli.check import check
from userspace_proxy.cli.cleanup import cleanup
from userspace_proxy.cli.completion import completion
from userspace_proxy.cli.connections import connections
from userspace_proxy.cli.demo import demo
from userspace_proxy.cli.drain import drain
from userspace_proxy.cli.eject import eject, uneject
from userspace_proxy.cli.endpoints import endpoints
from userspace_proxy.cli.log_level import log_level
from userspace_proxy.cli.rules import rules
from userspace_proxy.cli.run import run
from userspace_proxy.cli.services import services
from userspace_proxy.cli.status import status
from userspace_proxy.cli.supervise import supervise
from userspace_proxy.cli.top import top
from userspace_proxy.cli.trace import trace
from userspace_proxy.errors import UserspaceProxyError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="userspace-proxy")
def commands() -> None:
    """A Kubernetes Service proxy in user space: a connection that fails is tried elsewhere."""


commands.add_command(run)
commands.add_command(check)
commands.add_command(cleanup)
commands.add_command(drain)
commands.add_command(demo)
commands.add_command(supervise)
commands.add_command(status)
commands.add_command(services)
commands.add_command(endpoints)
commands.add_command(rules)
commands.add_command(connections)
commands.add_command(top)
commands.add_command(eject)
commands.add_command(uneject)
commands.add_command(trace)
commands.add_command(log_level)
commands.add_command(completion)


def main() -> None:
    """The console script."""
    try:
        commands(prog_name="userspace-proxy")
    except UserspaceProxyError as error:
        logging.shutdown()  # what led to it was logged, and comes before
        click.echo(f"userspace-proxy: {error}", err=True)
        sys.exit(error.exit_code)
