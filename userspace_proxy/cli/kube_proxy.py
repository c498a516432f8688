"""`kube-proxy`: the same agent for whoever calls it as they called kube-proxy, without a verb."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from userspace_proxy.cli.run import run_as
from userspace_proxy.cli.supervise import supervise_run
from userspace_proxy.cli.table_options import GoFlagsCommand, load, table_options
from userspace_proxy.configuration.values import read_boolean
from userspace_proxy.errors import UsageError, UserspaceProxyError

_FIRST_PROCESS: Final = 1
_F = TypeVar("_F", bound=Callable[..., Any])


def _asked(flag: str, help: str) -> Callable[[_F], _F]:
    """A flag that means something else than to run."""
    return click.option(flag, is_flag=False, flag_value="true", metavar="[true|false]", help=help)


@click.command(
    cls=GoFlagsCommand, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(package_name="userspace-proxy", prog_name="userspace-proxy")
@_asked("--cleanup", "Take back what a run left, and end.")
@_asked("--init-only", "Set the node's sysctls, for an agent that may not, and end.")
@table_options
def kube_proxy(cleanup: str | None, init_only: str | None, **given: Any) -> None:
    """Serve a cluster's Services on this node: `userspace-proxy run`, called as kube-proxy is.

    As the first process of a container it supervises that, since everything there ends with the first.
    """
    if _is_true("--cleanup", cleanup):
        from userspace_proxy.agent.cleanup import clean_up

        for line in clean_up(force=False, state_directory=load(given).configuration.state_directory):
            click.echo(line)
    elif _is_true("--init-only", init_only):
        from userspace_proxy.agent.node_sysctls import set_node_sysctls
        from userspace_proxy.logs.log import configure_logging

        configuration = load(given).configuration
        configure_logging(configuration.verbosity, configuration.logging_format).start()
        set_node_sysctls(configuration)
    elif os.getpid() == _FIRST_PROCESS and not given["write_config_to"]:
        supervise_run(sys.argv[1:], load(given).configuration.logging_format)
    else:
        run_as(given)


def _is_true(flag: str, text: str | None) -> bool:
    try:
        return read_boolean(text or "false")
    except ValueError as error:
        raise UsageError(f"{flag}: {error}") from error


def main() -> None:
    """The console script."""
    try:
        kube_proxy(prog_name="kube-proxy")
    except UserspaceProxyError as error:
        logging.shutdown()  # what led to it was logged, and comes before
        click.echo(f"kube-proxy: {error}", err=True)
        sys.exit(error.exit_code)
