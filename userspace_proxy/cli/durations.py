"""Flags whose value is a duration."""

from __future__ import annotations

from typing import Any

import click

from userspace_proxy.core.durations import parse_duration


class Duration(click.ParamType[float]):
    """A duration as Go writes it, in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            return parse_duration(self.with_unit(value))
        except ValueError:
            self.fail(f"{value!r} is not a duration such as 250ms, 30s or 1m30s", param, ctx)

    def with_unit(self, text: str) -> str:
        return text


class Seconds(Duration):
    """The same for flags that have the unit in their name: a bare number is in seconds."""

    def with_unit(self, text: str) -> str:
        return f"{text}s" if text.replace(".", "", 1).isdecimal() else text
