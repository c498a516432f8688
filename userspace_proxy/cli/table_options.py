"""Flags made from the table of options, understood as kube-proxy's own are (pflag)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from userspace_proxy.configuration.accepted_options import ACCEPTED_FLAGS, BOOLEAN_FLAGS
from userspace_proxy.configuration.loading import LiveConfiguration
from userspace_proxy.configuration.options import OPTIONS, VARIABLE_PREFIX, Kind, Option

_F = TypeVar("_F", bound=Callable[..., Any])
EPILOG: Final = (
    "What else kube-proxy takes is accepted to no effect, which the log says. A variable may say the same: "
    f"{VARIABLE_PREFIX}WORKERS stands for --workers. docs/configuration.md has it all, flag by flag."
)
_NEGATION: Final = "no_"


class GoFlagsCommand(click.Command):
    """A command whose flags may be written as pflag has them: `-v=2`, `--hostname_override`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"epilog": EPILOG, **kwargs})
        self.context_settings.setdefault("token_normalize_func", lambda token: token.replace("_", "-"))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, [re.sub(r"^-v=", "-v", argument) for argument in args])


def table_options(command: _F) -> _F:
    """A flag for each option, a hidden one for all that is accepted, `--config` and `--write-config-to`."""
    decorators = [
        click.option(
            "--config",
            metavar="FILE",
            help="A KubeProxyConfiguration; it counts, and of kube-proxy's flags beside it only "
            "--hostname-override and those of logging.",
        ),
        click.option(
            "--write-config-to", metavar="FILE", help="Write the effective configuration there, and end."
        ),
    ]
    for option in OPTIONS.values():
        decorators += _decorators(option)
    for flag in ACCEPTED_FLAGS:
        is_boolean = flag in BOOLEAN_FLAGS
        decorators.append(
            click.option(
                flag,
                _accepted(flag),
                hidden=True,
                multiple=not is_boolean,
                is_flag=False,
                flag_value="true" if is_boolean else None,
            )
        )
    for decorator in reversed(decorators):
        command = decorator(command)
    return command


def _accepted(flag: str) -> str:
    return f"accepted{flag.replace('-', '_')}"


def _decorators(option: Option) -> list[Callable[[_F], _F]]:
    declared = [option.long_flag, option.name]
    if option.long_flag == "--v":
        declared.insert(0, "-v")
    default = option.shown_default or option.default
    described = f"{option.help}  [default: {default}]"
    if option.kind is not Kind.BOOLEAN:
        several = option.kind is Kind.STRINGS
        return [click.option(*declared, metavar=option.metavar, help=described, multiple=several)]
    denied = f"--no-{option.long_flag[2:]}"
    return [
        click.option(*declared, is_flag=False, flag_value="true", metavar="[true|false]", help=described),
        click.option(
            denied, f"{_NEGATION}{option.name}", is_flag=True, help=f"The same as {option.long_flag}=false."
        ),
    ]


def load(given: Mapping[str, Any]) -> LiveConfiguration:
    """The configuration that a command's arguments ask for. Raises `UsageError`."""
    flags = {}
    for name in OPTIONS:
        text = given.get(name)
        if isinstance(text, tuple):
            text = ",".join(text)
        if given.get(f"{_NEGATION}{name}"):
            text = "false"
        if text is not None:
            flags[name] = text
    ignored = {
        flag: why for flag, why in ACCEPTED_FLAGS.items() if given.get(_accepted(flag)) not in (None, ())
    }
    file = given["config"]
    return LiveConfiguration(flags, file=Path(file) if file else None, ignored=ignored)
