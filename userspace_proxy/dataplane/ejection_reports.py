"""Tells operators which endpoints are left out: counters, and lines in the log, not too many of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from userspace_proxy.core.ejection import FIRST_SECONDS
from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.load_balancer import EjectionChanged
from userspace_proxy.core.traffic_counters import ServicePortCounters

logger = logging.getLogger(__name__)

_LINES: Final = 20
_PERIOD_SECONDS: Final = 60.0
"""When a node fails that has endpoints of a thousand Services, a thousand lines help nobody."""


class EjectionReports:
    """Of all Service ports of a worker. `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lines_left = _LINES
        self._period_ends = clock() + _PERIOD_SECONDS

    def of(self, label: str, counters: ServicePortCounters) -> EjectionChanged:
        """What the load balancer of a Service port tells its ejections."""

        def changed(endpoint: Endpoint, seconds: float | None) -> None:
            if seconds is not None:
                counters.ejections += 1
                counters.at(endpoint.address, endpoint.port).ejections += 1
            if seconds is None:
                self._say(
                    logging.INFO, "Endpoint is used again: service_port=%s endpoint=%s", label, endpoint
                )
            elif seconds == FIRST_SECONDS:
                self._say(
                    logging.WARNING,
                    "Endpoint keeps failing, others take its turn: service_port=%s endpoint=%s",
                    label,
                    endpoint,
                )

        return changed

    def _say(self, level: int, phrase: str, *values: object) -> None:
        now = self._clock()
        if now >= self._period_ends:
            if self._lines_left < 0:
                logger.warning("More endpoints failed or were used again: lines=%d", -self._lines_left)
            self._lines_left = _LINES
            self._period_ends = now + _PERIOD_SECONDS
        self._lines_left -= 1
        if self._lines_left >= 0:
            logger.log(level, phrase, *values)
