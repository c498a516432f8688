"""What it says about a UDP endpoint that a client repeats itself.

An endpoint that dies without an ICMP error looks like one that has nothing to say, and the flow of a client
who asks again and again from one port would never expire. So silence is judged:

- A client *repeats itself* if it sends a second or more after a datagram that was not answered. (Two at once
  are no repetition: a resolver asks for both address families.)
- That means nothing where no endpoint has ever answered anybody: log collectors and the like never do.
- It means nothing if the endpoint has answered somebody since: the datagram was lost, or its answer takes
  long. What is sent now may be lost too, so the silence begins anew with it.
- Otherwise the endpoint has failed, as by an ICMP error (`ejection` counts it), and the flow moves.
- A flow that had answers most likely has a state at its endpoint, and may be sending one way for a while. It
  is given ten seconds, and moves only once the endpoint is left out.

Time (seconds of any monotonic clock) is an argument.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum
from typing import Final

from userspace_proxy.core.endpoint import Endpoint

REPEAT_SECONDS: Final = 1.0
ANSWERED_REPEAT_SECONDS: Final = 10.0
_NEVER: Final = float("-inf")


class Silence(Enum):
    """What follows for the endpoint and for the flow of the client who repeats itself."""

    MEANS_NOTHING = "means nothing"
    IS_OVER = "the endpoint has answered somebody, and the silence begins anew"
    FAILED = "the endpoint has failed, the flow stays"
    MOVES = "the endpoint has failed, the flow moves to another"


class Answers:
    """When an endpoint last answered anybody."""

    __slots__ = ("last_at",)

    def __init__(self) -> None:
        self.last_at = _NEVER


class UdpSilence:
    """What the endpoints of one listener have answered."""

    __slots__ = ("_answers", "_has_answered")

    def __init__(self) -> None:
        self._answers: dict[Endpoint, Answers] = {}
        self._has_answered = False

    def answers_of(self, endpoint: Endpoint) -> Answers:
        """Where whoever hears from `endpoint` notes when that was."""
        answers = self._answers.get(endpoint)
        if answers is None:
            answers = self._answers[endpoint] = Answers()
        return answers

    def forget_all_but(self, endpoints: Collection[Endpoint]) -> None:
        """Only `endpoints` are left."""
        self._look()
        self._answers = {each: answers for each, answers in self._answers.items() if each in endpoints}

    def judge(
        self, answers: Answers, asked_at: float, now: float, *, was_answered: bool, is_left_out: bool
    ) -> Silence:
        """A client sends once more and has had no answer to what it sent at `asked_at`.

        `answers` are its endpoint's; `is_left_out` whether new clients are kept from that.
        """
        if answers.last_at >= asked_at:
            return Silence.IS_OVER
        if now - asked_at < REPEAT_SECONDS or not self._look():
            return Silence.MEANS_NOTHING
        if not was_answered or is_left_out:
            return Silence.MOVES
        return Silence.FAILED if now - asked_at >= ANSWERED_REPEAT_SECONDS else Silence.MEANS_NOTHING

    def _look(self) -> bool:
        if not self._has_answered:
            self._has_answered = any(each.last_at != _NEVER for each in self._answers.values())
        return self._has_answered
