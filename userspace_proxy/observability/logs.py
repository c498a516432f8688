"""How log lines look: time, level, a fixed phrase and fixed keys, one line each whatever is in a name."""

from __future__ import annotations

import logging
import time
from typing import Final

_ESCAPES: Final = {code: f"\\x{code:02x}" for code in (*range(0x20), 0x7F, *range(0x80, 0xA0))} | {
    ord("\n"): "\\n",
    ord("\r"): "\\r",
    ord("\t"): "\\t",
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}


class OneLineFormatter(logging.Formatter):
    """Times are UTC. Escapes control characters, so that nobody's object name can forge or break a line."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03dZ %(levelname)-7s %(message)s", "%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's spelling)
        """The line without a traceback, which `format` puts after it and which needs its own lines."""
        return super().formatMessage(record).translate(_ESCAPES)


def configure_logging(verbosity: int) -> None:
    """Log to standard error: INFO, or DEBUG from `-v 4` on (the level at which kube-proxy tells details)."""
    handler = logging.StreamHandler()
    handler.setFormatter(OneLineFormatter())
    logging.basicConfig(
        level=logging.DEBUG if verbosity >= 4 else logging.INFO, handlers=[handler], force=True
    )
