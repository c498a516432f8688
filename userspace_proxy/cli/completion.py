"""Completing what is typed: Services as the running agent has them, and the script that shells read."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click
from click.shell_completion import get_completion_class

from userspace_proxy.cli.asking import ask_agent
from userspace_proxy.configuration.options import DEFAULT_STATE_DIRECTORY
from userspace_proxy.core.answers.services import NamesQuestion
from userspace_proxy.errors import UserspaceProxyError

_VARIABLE: Final = "_USERSPACE_PROXY_COMPLETE"
"""By which click knows that a shell asks, and not a person."""
_PATIENCE_SECONDS: Final = 2.0


def complete_services(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """The Services that begin so; none where no agent can be asked, since nobody wants an error there."""
    state_directory = Path(context.params.get("state_directory") or DEFAULT_STATE_DIRECTORY)
    question = NamesQuestion(prefix=incomplete)
    try:
        return list(ask_agent(state_directory, "names", str, question, timeout_seconds=_PATIENCE_SECONDS))
    except UserspaceProxyError:
        return []


service_option = click.option(
    "--service",
    metavar="NAME",
    default="",
    shell_complete=complete_services,
    help="Those of a Service or one of its ports: web, default/web, default/web:http.",
)


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what makes a shell complete this command.

    Names of Services are the running agent's. For bash: source <(userspace-proxy completion bash)
    """
    complete = get_completion_class(shell)
    assert complete is not None, "click has those three"
    root = context.find_root()
    click.echo(complete(root.command, {}, "userspace-proxy", _VARIABLE).source())
