"""What is wrong with objects now: each problem is named once, and again only after it was gone.

It is named in the log, and in an Event of its object: one for all that is newly wrong with that.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Final

from userspace_proxy.core.cluster_state import ObjectId
from userspace_proxy.core.event_reasons import Reason
from userspace_proxy.core.event_series import RecordEvent, unrecorded
from userspace_proxy.core.objects import Kind
from userspace_proxy.core.problem import Problem

logger = logging.getLogger(__name__)

_KINDS: Final = frozenset(kind.value for kind in Kind)


class ProblemLedger:
    """Holds the present problems by scope (a file, an object), so it is never larger than what is wrong."""

    def __init__(self, record_event: RecordEvent = unrecorded) -> None:
        self.named = 0
        self._record_event = record_event
        self._present: dict[str, frozenset[Problem]] = {}

    def __len__(self) -> int:
        """How many problems there are now."""
        return sum(len(problems) for problems in self._present.values())

    def of(self, scope: str) -> list[Problem]:
        """What is wrong with `scope` now."""
        return sorted(self._present.get(scope, ()), key=str)

    def __iter__(self) -> Iterator[Problem]:
        """All that is wrong now."""
        return iter([problem for problems in self._present.values() for problem in problems])

    def report(self, scope: str, problems: Sequence[Problem]) -> None:
        """All that is wrong with `scope` now. New problems are logged, those not repeated are gone."""
        known = self._present.pop(scope, frozenset())
        if problems:
            self._present[scope] = frozenset(problems)
        new = [problem for problem in dict.fromkeys(problems) if problem not in known]
        self.named += len(new)
        for problem in new:
            logger.warning("Skipped: %s", problem)
        self._record_all(new)
        if known and not problems:
            logger.info("Mended: %s", scope)

    def record_again(self) -> None:
        """Have Events of what is still wrong with objects again: API servers forget them in an hour."""
        present = (problem for problems in self._present.values() for problem in problems)
        self._record_all([problem for problem in present if problem.event.is_everywhere])

    def _record_all(self, problems: Sequence[Problem]) -> None:
        """One for each object and reason, in the same words on every node."""
        notes: dict[tuple[Reason, ObjectId], list[str]] = {}
        for problem in problems:
            if problem.kind in _KINDS and problem.name:  # else it is a file's
                about = ObjectId(Kind(problem.kind), problem.namespace, problem.name)
                notes.setdefault((problem.event, about), []).append(problem.clause)
        for (reason, about), clauses in notes.items():
            which = f"{about.kind.value} {about.name}: " if about.kind is Kind.ENDPOINT_SLICE else ""
            self._record_event(reason, which + "; ".join(sorted(clauses)), about)
