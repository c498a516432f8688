"""Which endpoints of a Service port are left out for a while because they keep failing.

Theory of operation. Nobody is asked whether an endpoint is well; what happens to real connections tells.

- FAILURES_TO_EJECT connects that fail one after the other *eject* an endpoint: its turn goes to the others.
  One success in between, and the count begins again.
- It is ejected for 1 s, less a little chance, so that the nodes of a cluster do not all come back to it at
  once. Then it is *half-open*: the one connection that finds it so, at its turn, is the probe, and everybody
  else goes on without it. If the probe succeeds, the endpoint is used again at once and nothing is held
  against it. If the probe fails, it is ejected for twice as long, up to 30 s. Of a probe of which nothing is
  heard (its client left, say) the next one follows after as long again.
- A success of any kind ends an ejection. A failure while it lasts says nothing new: it comes from a
  connection that began before, or had nowhere else to go.
- Of those that a class of traffic may use, half are left out at most (rounded up) and never the last one:
  those that have been ejected for longest. The others are used as if nothing were.

Beside these are the endpoints that an operator has *taken out*, all of them, without probes, until the
operator says otherwise. Half and the last one are then counted among the others.

Time (seconds of any monotonic clock) and chance (from 0 to 1) are arguments.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from copy import copy
from typing import Final

from userspace_proxy.core.endpoint import Endpoint

FAILURES_TO_EJECT: Final = 3
FIRST_SECONDS: Final = 1.0
LONGEST_SECONDS: Final = 30.0
_MOST_CHANCE: Final = 0.25
"""The part of a time-out that chance may take away."""


def most_left_out(usable: int) -> int:
    """How many of `usable` endpoints may be left out at once."""
    return min((usable + 1) // 2, max(usable - 1, 0))


class Suspect:
    """An endpoint whose last connect failed. `seconds` is the length of its ejection, 0 if there is none."""

    __slots__ = ("failures", "is_probed", "retry_at", "seconds")

    def __init__(self) -> None:
        self.failures = 0
        self.is_probed = False
        self.retry_at = 0.0
        self.seconds = 0.0


class Ejections:
    """Those of one Service port. `suspects` is empty as long as every endpoint is well.

    `taken_out` are the endpoints that an operator wants left out.
    """

    __slots__ = ("_ejected", "suspects", "taken_out")

    def __init__(self) -> None:
        self.suspects: dict[Endpoint, Suspect] = {}
        self._ejected: dict[Endpoint, Suspect] = {}
        self.taken_out: frozenset[Endpoint] = frozenset()

    @property
    def ejected(self) -> Iterable[Endpoint]:
        """Those that have been ejected for longest come first."""
        return self._ejected

    def failed(self, endpoint: Endpoint, now: float, chance: float) -> bool:
        """A connect failed. Returns whether that ejects the endpoint, for the first time or once more."""
        suspect = self.suspects.get(endpoint)
        if suspect is None:
            suspect = self.suspects[endpoint] = Suspect()
        if not suspect.seconds:
            suspect.failures += 1
            if suspect.failures < FAILURES_TO_EJECT:
                return False
            suspect.seconds = FIRST_SECONDS
            self._ejected[endpoint] = suspect
        elif suspect.is_probed:
            suspect.is_probed = False
            suspect.seconds = min(suspect.seconds * 2, LONGEST_SECONDS)
        else:
            return False
        suspect.retry_at = now + suspect.seconds * (1 - _MOST_CHANCE * chance)
        return True

    def succeeded(self, endpoint: Endpoint) -> bool:
        """A connect succeeded: nothing is held against the endpoint. Returns whether it was ejected."""
        self.suspects.pop(endpoint, None)
        return self._ejected.pop(endpoint, None) is not None

    def seconds_of(self, endpoint: Endpoint) -> float:
        """For how long an ejected endpoint is left out until its next probe, chance aside."""
        return self._ejected[endpoint].seconds

    def probe(self, endpoint: Endpoint, now: float) -> bool:
        """Whether the connection that asks is to try an ejected endpoint; for the next one it is not."""
        if endpoint in self.taken_out:
            return False
        suspect = self._ejected[endpoint]
        if now < suspect.retry_at:
            return False
        suspect.is_probed = True
        suspect.retry_at = now + suspect.seconds
        return True

    def copy(self) -> Ejections:
        """Another one that begins as this one is."""
        twin = Ejections()
        twin.suspects = {endpoint: copy(suspect) for endpoint, suspect in self.suspects.items()}
        twin._ejected = {endpoint: twin.suspects[endpoint] for endpoint in self._ejected}
        twin.taken_out = self.taken_out
        return twin

    def forget_all_but(self, endpoints: Collection[Endpoint]) -> None:
        """Only `endpoints` are left: one that comes back later is a new one, with which nothing is wrong."""
        for endpoint in [known for known in self.suspects if known not in endpoints]:
            self.succeeded(endpoint)
