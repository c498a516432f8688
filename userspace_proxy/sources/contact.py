"""Whether the API server can be followed, and what a request ends with that it does not answer well."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from userspace_proxy.core.objects import Kind
from userspace_proxy.errors import UserspaceProxyError

GONE = 410
SERVER_IS_AILING = frozenset({429, 500, 502, 503})
"""Statuses that say nothing against the request: the version to watch from stays good."""

_log = logging.getLogger(__name__)


class RequestFailedError(UserspaceProxyError):
    """A request got no answer, or `status` (an HTTP status) said no; it may be tried again."""

    def __init__(self, reason: str, status: int | None = None, retry_after_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.status = status
        self.retry_after_seconds = retry_after_seconds


@dataclass(slots=True)
class Contact:
    """Whether the API server can be followed, over all kinds, so that losing it is said once.

    `explanation` is what to say, once, if it gave no answer at all since the start. `since` is when all that
    is asked for began to be answered; None: it is not.
    """

    explanation: str | None = None
    failing: dict[Kind, str] = field(default_factory=dict)
    failures: dict[Kind, str] = field(default_factory=dict)
    clock: Callable[[], float] = time.time
    since: float | None = None

    def lost(self, kind: Kind, failure: RequestFailedError) -> None:
        self.failures[kind], self.since = str(failure), None
        # A refusal is for one kind; a server that is down is so for all, in different words perhaps.
        is_refused = failure.status is not None and failure.status not in SERVER_IS_AILING
        why = str(failure) if is_refused else ""
        if kind not in self.failing and why not in self.failing.values():
            _log.warning("API server cannot be followed; keeping what is known and trying again: %s", failure)
        self.failing.setdefault(kind, why)
        if failure.status is not None:
            self.explanation = None
        elif self.explanation is not None:
            _log.error("API server does not answer: %s", self.explanation)
            self.explanation = None

    def is_lost_for_others_than(self, kind: Kind) -> bool:
        return bool(self.failing.keys() - {kind})

    def regained(self, kind: Kind) -> None:
        self.explanation = None
        self.failures.pop(kind, None)
        if self.since is None and not self.failures:
            self.since = self.clock()
        if self.failing.pop(kind, None) is not None and not self.failing:
            _log.info("API server can be followed again")
