"""When to try which endpoint for one client's connection, and when to give up.

Theory of operation. An attempt ends in one of three ways: the endpoint answers, it fails (refused,
unreachable), or it stays silent.

- A failure is an answer too: the next endpoint that was not tried yet is tried at once, and that costs none
  of the patience below.
- Silence is given 250 ms, then 500 ms, 1 s and 2 s (and 2 s from then on). After each, another endpoint is
  tried *beside* the silent one; whoever answers first wins and the others are closed unused. At most four
  stand beside each other: a fifth takes the place of the oldest.
- An endpoint towards which every source port of the node is taken is passed over like one that failed, and
  nothing is held against it.
- When each usable endpoint was tried, the next round begins, after the wait that is due. So with a single
  endpoint it is the same one again after 250 ms, whether it was silent or refused.
- A connection gives up after 30 s of silence. Endpoints that all refuse are tried for as long as the four
  waits last (3.75 s): enough for a process that restarts, or for news of other endpoints, and then a clear
  answer to the client.
- What becomes of the attempts decides which endpoints are left out in future (`ejection`). One that was
  silent until patience ran out has failed if another endpoint answers; if none does, nothing is known.
- The first failure releases the client's affinity, and whoever is tried next has it: after a failure, and
  beside a silent endpoint too. In the end it is the winner's.

kube-proxy 1.25 (userspace) tried four endpoints with time-outs of 250 ms to 2 s one after another, and then
closed the client's connection.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, TypeAlias

from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.load_balancer import LoadBalancer
from userspace_proxy.core.service_port import TrafficPolicy

WAITS_SECONDS: Final = (0.25, 0.5, 1.0, 2.0)
LIMIT_SECONDS: Final = 30.0
MAX_ATTEMPTS_BESIDE: Final = 4
_NOBODY: Final[frozenset[Endpoint]] = frozenset()


class Verdict(Enum):
    """What to do when there is no endpoint to try now: wait until `due_at`, or reset the client."""

    WAIT = "wait"
    GIVE_UP = "give up"


_WAIT: Final = Verdict.WAIT
_GIVE_UP: Final = Verdict.GIVE_UP
Decision: TypeAlias = Endpoint | Verdict


class ConnectAttempts:
    """The schedule of one connection. Every decision that is an endpoint is an attempt to start now.

    Whoever carries the decisions out calls `waited` once `due_at` has come, and keeps no more than
    MAX_ATTEMPTS_BESIDE attempts: before starting one more it closes the oldest, and says so (`closed`). Times
    are seconds of one monotonic clock. `made` counts the attempts.
    """

    __slots__ = (
        "_balancer",
        "_client",
        "_gives_up_at",
        "_pending",
        "_policy",
        "_silent",
        "_tried",
        "_waits",
        "due_at",
        "made",
    )

    def __init__(self, balancer: LoadBalancer, policy: TrafficPolicy, client: str, now: float) -> None:
        self._balancer = balancer
        self._policy = policy
        self._client = client
        self._gives_up_at = now + LIMIT_SECONDS
        self._pending: list[Endpoint] = []  # one endpoint may be in it twice
        self._silent: frozenset[Endpoint] = _NOBODY  # whose patience has run out, whatever became of them
        self._tried: list[Endpoint] = []  # in this round
        self._waits = 0
        self.due_at = self._gives_up_at
        self.made = 0

    def begin(self, now: float) -> Decision:
        """A client has come."""
        endpoint = self._untried(now)
        return _GIVE_UP if endpoint is None else self._try(endpoint, now)

    def failed(self, endpoint: Endpoint, now: float) -> Decision:
        """A pending attempt was refused, or cannot succeed for another reason."""
        self._pending.remove(endpoint)
        self._silent -= {endpoint}
        self._balancer.failed(self._client, endpoint, now)
        return self._go_on(now)

    def passed_over(self, endpoint: Endpoint, now: float) -> Decision:
        """An attempt could not be started, for want of a source port towards `endpoint`.

        Others may have one, and so may this one later; nobody failed.
        """
        self._pending.remove(endpoint)
        return self._go_on(now)

    def left(self, endpoint: Endpoint, now: float) -> Decision:
        """The endpoint of a pending attempt has left the Service, which is no fault of its own."""
        self._silent -= {endpoint}
        return self.passed_over(endpoint, now)

    def _go_on(self, now: float) -> Decision:
        another = self._untried(now)
        if another is not None:
            return self._try(another, now)
        if self._pending:
            return _WAIT
        if self._waits == len(WAITS_SECONDS):
            return _GIVE_UP
        self._wait_from(now)
        return _WAIT

    def closed(self, endpoint: Endpoint) -> None:
        """A pending attempt had to make room for a new one. Which is the oldest only its owner knows."""
        self._pending.remove(endpoint)

    def postponed(self, endpoint: Endpoint, now: float) -> None:
        """An attempt could not be started for want of something of our own (descriptors): nobody failed."""
        self._pending.remove(endpoint)
        self._tried.remove(endpoint)
        self.made -= 1
        self._wait_from(now)

    def waited(self, now: float) -> Decision:
        """Time has passed."""
        if now >= self._gives_up_at:
            return _GIVE_UP
        if now < self.due_at:
            return _WAIT
        if self._waits < len(WAITS_SECONDS):
            self._waits += 1
        self._silent |= frozenset(self._pending)
        another = self._untried(now)
        if another is None:
            another = self._begin_round(now)
        if another is not None:
            return self._try(another, now)
        if not self._pending:
            return _GIVE_UP  # every endpoint has left the Service
        self._wait_from(now)
        return _WAIT

    def succeeded(self, endpoint: Endpoint, now: float) -> None:
        """A pending attempt was answered; the others are over."""
        balancer = self._balancer
        if balancer.ejections.suspects:
            balancer.succeeded(endpoint)
        if self.made > 1:
            balancer.settle(self._client, endpoint, now)
            for silent in sorted(self._silent - {endpoint}):
                balancer.failed(self._client, silent, now)

    def _try(self, endpoint: Endpoint, now: float) -> Endpoint:
        self._pending.append(endpoint)
        self._tried.append(endpoint)
        self.made += 1
        self._wait_from(now)
        return endpoint

    def _untried(self, now: float) -> Endpoint | None:
        return self._balancer.another_endpoint(self._policy, self._client, now, self._tried)

    def _begin_round(self, now: float) -> Endpoint | None:
        """Each was tried: start again with those that failed, else beside those that are silent."""
        self._tried = self._pending.copy()
        another = self._untried(now)
        if another is None:
            self._tried.clear()
            another = self._untried(now)
        return another

    def _wait_from(self, now: float) -> None:
        waits = self._waits
        due_at = now + (WAITS_SECONDS[waits] if waits < len(WAITS_SECONDS) else WAITS_SECONDS[-1])
        self.due_at = due_at if due_at < self._gives_up_at else self._gives_up_at
