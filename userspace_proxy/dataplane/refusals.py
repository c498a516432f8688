"""Connections of a Service port that are not taken: counted, and said, but not one by one."""

from __future__ import annotations

import logging
from typing import Final

from userspace_proxy.core.admission import Admission, Refusal
from userspace_proxy.dataplane.messages import ServicePortCounters

logger = logging.getLogger(__name__)

SAY_AGAIN_SECONDS: Final = 30.0

_WHAT_TO_DO: Final = {
    Refusal.CLIENT_LIMIT: "raise --max-connections-per-client, or look what the client does",
    Refusal.SERVICE_LIMIT: "raise --max-connections-per-service",
    Refusal.NO_ROOM: "raise the limit of open files, or limit who has most (--max-connections-per-service)",
}


class Refusals:
    """Those of the Service port that logs call `label`. `admission` is what refuses."""

    __slots__ = ("_admission", "_counters", "_label", "_silent_until")

    def __init__(self, label: str, admission: Admission, counters: ServicePortCounters) -> None:
        self._label = label
        self._admission = admission
        self._counters = counters
        self._silent_until = float("-inf")

    def refused(self, client: str, refusal: Refusal, now: float) -> None:
        """A connection of `client` was reset. The operator hears of it every 30 s, while it goes on."""
        counters = self._counters
        counters.refused += 1
        if now < self._silent_until:
            return
        self._silent_until = now + SAY_AGAIN_SECONDS
        logger.warning(
            "Connections are refused, %s: service_port=%s client=%s connections=%d refused_so_far=%d; %s",
            refusal.value,
            self._label,
            client,
            self._admission.admitted,
            counters.refused,
            _WHAT_TO_DO[refusal],
        )
