"""When a write may be tried again: pure, times are given.

One that is refused waits twice as long each time, and so does one that is planned again with the same content
although it was done: it has no effect. One whose content is another each time is only spaced a little.
"""

from __future__ import annotations

from collections.abc import Hashable, Set
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, assert_never

from userspace_proxy.core.back_off import doubled_seconds
from userspace_proxy.demo.controllers.writes import Delete, Request, key_of

SPACING_SECONDS: Final = 0.05
REFUSAL_SECONDS: Final = 1.0
LONGEST_SECONDS: Final = 30.0


class Outcome(Enum):
    """What came of a write."""

    DONE = "done"
    CHANGED_MEANWHILE = "changed meanwhile"
    """Somebody else was faster: a plan of what there is now comes first."""
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class _Attempt:
    """The last of `count` in a row."""

    count: int
    again_at: float
    content: Any


class Attempts:
    """What was tried in plans that followed each other, by `key_of` a write."""

    def __init__(self) -> None:
        self._last: dict[Hashable, _Attempt] = {}

    def forget_all_but(self, planned: Set[Hashable]) -> None:
        """What is not planned any more begins anew when it is."""
        self._last = {key: attempt for key, attempt in self._last.items() if key in planned}

    def held(self, now: float) -> set[Hashable]:
        """What is not to be tried now."""
        return {key for key, attempt in self._last.items() if attempt.again_at > now}

    def seconds_until_next(self, now: float) -> float | None:
        """When something may be tried again; None if nothing was."""
        return min((max(0.0, attempt.again_at - now) for attempt in self._last.values()), default=None)

    def note(self, write: Request, outcome: Outcome, now: float) -> None:
        """A write was tried."""
        before = self._last.get(key_of(write))
        content = None if isinstance(write, Delete) else write.body
        match outcome:
            case Outcome.DONE:
                first, is_repeated = SPACING_SECONDS, before is not None and before.content == content
            case Outcome.CHANGED_MEANWHILE:
                first, is_repeated = SPACING_SECONDS, before is not None
            case Outcome.REFUSED:
                first, is_repeated = REFUSAL_SECONDS, before is not None
            case _:
                assert_never(outcome)
        count = before.count + 1 if before is not None and is_repeated else 1
        again_at = now + doubled_seconds(first, count, LONGEST_SECONDS)
        self._last[key_of(write)] = _Attempt(count, again_at, content)
