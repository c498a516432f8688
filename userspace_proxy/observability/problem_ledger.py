"""What is wrong with objects now: each problem is named once, and again only after it was gone."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from userspace_proxy.core.problem import Problem

logger = logging.getLogger(__name__)


class ProblemLedger:
    """Holds the present problems by scope (a file, an object), so it is never larger than what is wrong."""

    def __init__(self) -> None:
        self.named = 0
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
        if known and not problems:
            logger.info("Mended: %s", scope)
