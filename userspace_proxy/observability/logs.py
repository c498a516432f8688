"""How log lines look: time, level, a fixed phrase and fixed keys, one line each whatever is in a name."""

from __future__ import annotations

import logging
import time
from typing import Final

_MAX_CHARACTERS: Final = 8192
"""A line is cut there: an object's name from a server can be as long as the server likes."""


class OneLineFormatter(logging.Formatter):
    """Times are UTC. Escapes what is not printable: controls, line ends of every kind, marks that turn the
    direction of writing, so that nobody's object name can forge, break or disguise a line."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03dZ %(levelname)-7s %(message)s", "%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's spelling)
        """The line without a traceback, which `format` puts after it and which needs its own lines."""
        line = super().formatMessage(record)
        if len(line) > _MAX_CHARACTERS:
            line = f"{line[:_MAX_CHARACTERS]}…"
        return line if line.isprintable() else "".join(map(_printable, line))


def _printable(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def configure_logging(verbosity: int) -> None:
    """Log to standard error: INFO, or DEBUG from `-v 4` on (the level at which kube-proxy tells details)."""
    handler = logging.StreamHandler()
    handler.setFormatter(OneLineFormatter())
    logging.basicConfig(
        level=logging.DEBUG if verbosity >= 4 else logging.INFO, handlers=[handler], force=True
    )
