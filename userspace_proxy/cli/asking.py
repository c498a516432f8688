"""What commands that ask a live agent have in common: where they ask, and in which form they answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from userspace_proxy.admin.client import ANSWER_SECONDS, ask
from userspace_proxy.admin.socket_file import admin_socket_in
from userspace_proxy.cli.rendering import Output
from userspace_proxy.configuration.options import DEFAULT_STATE_DIRECTORY
from userspace_proxy.dataplane.control_sockets import ControlSockets

_F = TypeVar("_F", bound=Callable[..., Any])
_T = TypeVar("_T")

output_option = click.option(
    "-o",
    "--output",
    type=click.Choice([output.value for output in Output]),
    default=Output.TABLE.value,
    show_default=True,
    callback=lambda _context, _parameter, text: Output(text),
    help="`wide` shows all; json and yaml have it for programs.",
)


def state_directory_option(command: _F) -> _F:
    return click.option(
        "--state-directory",
        metavar="DIR",
        type=click.Path(path_type=Path),
        default=DEFAULT_STATE_DIRECTORY,
        show_default=True,
        help="The one that `run` was given.",
    )(command)


def answer_options(command: _F) -> _F:
    """`--output` and `--state-directory`, as arguments `output` and `state_directory`."""
    return output_option(state_directory_option(command))


def ask_agent(
    state_directory: Path,
    method: str,
    item_type: type[_T],
    parameters: msgspec.Struct | None = None,
    *,
    timeout_seconds: float = ANSWER_SECONDS,
) -> Iterator[_T]:
    """What the agent of this network namespace answers. Raises as `admin.client.ask` does."""
    path = admin_socket_in(ControlSockets(state_directory).folder)
    return ask(path, method, item_type, parameters, timeout_seconds=timeout_seconds)
