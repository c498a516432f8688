"""What is said about repairs: one line for many, so that who flushes chain by chain is named once."""

from __future__ import annotations

import logging
from itertools import islice
from typing import Final

from userspace_proxy.core.event_reasons import RULES_REPAIRED
from userspace_proxy.core.event_series import RecordEvent, unrecorded
from userspace_proxy.core.service_port import IPFamily
from userspace_proxy.iptables.capture import Synced
from userspace_proxy.iptables.chains import Chain

logger = logging.getLogger(__name__)

_SPACING_SECONDS: Final = 30.0
_EXAMPLES: Final = 3


class Repairs:
    """Those of one family since the last line. The first is told at once, others with the next line."""

    def __init__(self, family: IPFamily, record_event: RecordEvent = unrecorded) -> None:
        self._family = family
        self._record_event = record_event
        self._count = 0
        self._rules = 0
        self._chains: dict[Chain, None] = {}
        self._silent_until = 0.0

    def add(self, synced: Synced) -> None:
        self._count += 1
        self._rules += synced.rule_count
        self._chains |= synced.chains

    def log(self, now: float) -> None:
        """Say what there is to say, unless something has just been said."""
        if not self._count or now < self._silent_until:
            return
        logger.warning(
            "Rules of ours were changed by somebody, repaired: "
            "family=%s repairs=%d rules=%d chains=%d such_as=%s",
            self._family.value,
            self._count,
            self._rules,
            len(self._chains),
            ",".join(f"{chain.table.value}/{chain.name}" for chain in islice(self._chains, _EXAMPLES)),
        )
        # Without numbers: what is said in the same words is one Event.
        self._record_event(
            RULES_REPAIRED,
            f"{self._family.value} rules of ours were changed by somebody, and have been repaired; look what "
            "flushes or reloads rules on this node (the log names the chains)",
        )
        self._count = self._rules = 0
        self._chains.clear()
        self._silent_until = now + _SPACING_SECONDS
