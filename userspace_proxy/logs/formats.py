"""How log lines look: text or JSON; a fixed phrase and fixed keys, one line each whatever is in a name.

A message is a template such as `"Worker lost: worker=%d pid=%d; %s"`. What stands behind `key=` is a value of
its own in JSON; its keys come from templates alone, so nobody's object name can add one.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Mapping
from typing import Any, Final

_MAX_CHARACTERS: Final = 8192
"""A line is cut there: an object's name from a server can be as long as the server likes."""
_PLACE: Final = re.compile(r"%%|(?:\b(?P<key>[a-z_]+)=)?(?P<spec>%[-+ #0]*\d*(?:\.\d+)?[a-zA-Z])")
_LOOSE_END: Final = re.compile(r"[ :,]+(?=;|$)")
_VERBOSE: Final = range(1, 10)

for _verbosity in _VERBOSE:
    logging.addLevelName(logging.INFO - _verbosity, "INFO")


def at_verbosity(verbosity: int) -> int:
    """The level of what is logged from `-v VERBOSITY` on; 0 is INFO."""
    return logging.INFO - verbosity


class TextFormatter(logging.Formatter):
    """Times are UTC. Escapes what is not printable: controls, line ends of every kind, marks that turn the
    direction of writing, so that nobody's object name can forge, break or disguise a line."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03dZ %(levelname)-7s %(message)s", "%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's spelling)
        """The line without a traceback, which `format` puts after it and which needs its own lines."""
        line = _cut(super().formatMessage(record))
        return line if line.isprintable() else "".join(map(_printable, line))


class JsonFormatter(logging.Formatter):
    """One object a line: `ts`, `level`, `v` (of level info alone), `msg`, the message's own keys, `trace`."""

    def __init__(self) -> None:
        super().__init__(datefmt="%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime

    def format(self, record: logging.LogRecord) -> str:
        phrase, values = taken_apart(record)
        line: dict[str, Any] = {
            "ts": f"{self.formatTime(record, self.datefmt)}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
        }
        if record.levelno <= logging.INFO:
            line["v"] = logging.INFO - record.levelno
        line["msg"] = _cut(phrase)
        line.update((key, value) for key, value in values.items() if key not in line)
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        elif record.exc_text:
            line["trace"] = record.exc_text
        return json.dumps(line)  # escapes all that is not ASCII


FORMATTERS: Final = {"text": TextFormatter, "json": JsonFormatter}


def taken_apart(record: logging.LogRecord) -> tuple[str, dict[str, Any]]:
    """The phrase of a message without what has a key, and the values by their keys."""
    if not record.args or isinstance(record.args, Mapping):
        return record.getMessage(), {}
    arguments = iter(record.args)
    values: dict[str, Any] = {}
    others: list[object] = []

    def take(place: re.Match[str]) -> str:
        if place["spec"] is None:
            return place[0]
        argument = next(arguments)
        if place["key"] is None:
            others.append(argument)
            return place[0]
        values[place["key"]] = argument if isinstance(argument, int | float) else _cut(str(argument))
        return ""

    template = " ".join(_PLACE.sub(take, str(record.msg)).split())
    return _LOOSE_END.sub("", template) % tuple(others), values


def _cut(text: str) -> str:
    return f"{text[:_MAX_CHARACTERS]}…" if len(text) > _MAX_CHARACTERS else text


def _printable(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()
