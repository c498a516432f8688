"""What the limits of a Service port keep from its clients: counted, and said, but not one by one."""

from __future__ import annotations

import logging
from typing import Final, assert_never

from userspace_proxy.core.admission import Refusal
from userspace_proxy.core.traffic_counters import ServicePortCounters

logger = logging.getLogger(__name__)

SAY_AGAIN_SECONDS: Final = 30.0

_WHAT_TO_DO: Final = {
    Refusal.CLIENT_LIMIT: "raise --max-connections-per-client or the annotation, or look at the client",
    Refusal.SERVICE_LIMIT: "raise --max-connections-per-service or the annotation",
    Refusal.NO_ROOM: "raise the limit of open files, or limit who has most (--max-connections-per-service)",
}


class LimitReports:
    """Those of the Service port that logs call `label`: said every half minute while they go on."""

    __slots__ = ("_counters", "_label", "_silent_until")

    def __init__(self, label: str, counters: ServicePortCounters) -> None:
        self._label = label
        self._counters = counters
        self._silent_until = float("-inf")

    def refused(self, client: str, refusal: Refusal, connections: int, now: float) -> None:
        """A connection of `client` was reset; `connections` is how many there are."""
        counters = self._counters
        match refusal:
            case Refusal.CLIENT_LIMIT:
                counters.refused_client_limit += 1
            case Refusal.SERVICE_LIMIT:
                counters.refused_service_limit += 1
            case Refusal.NO_ROOM:
                counters.refused_no_room += 1
            case _:
                assert_never(refusal)
        if now < self._silent_until:
            return
        self._silent_until = now + SAY_AGAIN_SECONDS
        logger.warning(
            "Connections are refused, %s: service_port=%s client=%s connections=%d refused_so_far=%d; %s",
            refusal.value,
            self._label,
            client,
            connections,
            counters.refused,
            _WHAT_TO_DO[refusal],
        )

    def evicted(self, flows: int, now: float) -> None:
        """A UDP flow left for a new one; `flows` is how many are left."""
        counters = self._counters
        counters.evicted += 1
        if now < self._silent_until:
            return
        self._silent_until = now + SAY_AGAIN_SECONDS
        logger.warning(
            "UDP flows end early to make room for new ones: service_port=%s flows=%d ended_so_far=%d; "
            "look who floods it, or raise --max-udp-flows-per-client, --max-udp-flows-per-service or the "
            "limit of open files",
            self._label,
            flows,
            counters.evicted,
        )
