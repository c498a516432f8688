"""When connections to endpoints that were removed have to end.

An endpoint is removed once no EndpointSlice of the Service has it any more: its pod is gone. One that is not
ready, or terminating, or of no use to this node, is not removed, and its connections are its own affair.

Level-triggered: what is compared is whom connections lead to and who is listed, so a policy that changes
takes effect for what was removed before. Time (seconds of any monotonic clock) is an argument.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final, TypeAlias

from userspace_proxy.core.endpoint import Endpoint

Deadlines: TypeAlias = dict[Endpoint, float]
"""When the connections to each removed endpoint end."""

_NO_LIMIT: Final = float("inf")


def plan_removals(
    deadlines: Deadlines,
    connected: Iterable[Endpoint],
    listed: Collection[Endpoint],
    drain_seconds: float | None,
    now: float,
) -> Deadlines:
    """The deadlines from now on. `connected` are the endpoints that established connections lead to.

    Connections may go on for `drain_seconds` after their endpoint was removed; None: as long as they last.
    Who was removed before keeps the earlier of two deadlines.
    """
    if drain_seconds is None:
        return {}
    ends = now + drain_seconds
    return {
        endpoint: min(deadlines.get(endpoint, _NO_LIMIT), ends)
        for endpoint in connected
        if endpoint not in listed
    }
