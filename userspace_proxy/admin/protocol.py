"""What is said over the admin socket: JSON, a line each. docs/admin-protocol.md tells others.

A request is answered by any number of lines with an `item`, and by one last line, which says `done` or has
an `error`. Fields and methods may come to it; what is there keeps its meaning within a `VERSION`.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

import msgspec

from userspace_proxy.errors import UserspaceProxyError

VERSION: Final = 1
MAX_REQUEST_BYTES: Final = 65536
"""A request is a name and some words."""


class ErrorCode(Enum):
    """Why there is no answer, for programs; the message is for people."""

    BAD_REQUEST = "bad-request"
    UNKNOWN_METHOD = "unknown-method"
    UNSUPPORTED_VERSION = "unsupported-version"
    NOT_FOUND = "not-found"
    AMBIGUOUS = "ambiguous"
    REFUSED = "refused"
    """It would do harm, and can be forced."""
    UNAVAILABLE = "unavailable"
    """It may be had later: a worker or the kernel does not answer now."""
    TOO_MANY_CLIENTS = "too-many-clients"
    INTERNAL = "internal"


class AdminError(UserspaceProxyError):
    """What was asked for over the admin socket cannot be answered."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class Request(msgspec.Struct, frozen=True, omit_defaults=True):
    """`id` comes back with every line of the answer. `version` is the protocol's that the asker knows."""

    method: str
    id: int | str | None = None
    params: msgspec.Raw = msgspec.Raw(b"{}")
    version: int = VERSION


class Failure(msgspec.Struct, frozen=True):
    code: ErrorCode
    message: str


class AnswerLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """An `item`, or the end of the answer: `done`, or an `error`."""

    id: int | str | None
    item: msgspec.Raw = msgspec.Raw()
    done: bool = False
    error: Failure | None = None


class NoParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of a method that takes none."""
