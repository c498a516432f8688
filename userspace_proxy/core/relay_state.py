"""What a relay may do next: two half-connections and their joint rules, as tables.

Theory of operation. A TCP connection is two streams that end independently (RFC 9293, 3.6), and so is a
relay: the request half carries bytes from the client to the endpoint, the response half from the endpoint to
the client. Each half has a source, which it reads, and a sink, which it writes. Everything that decides what
a half may do lives in this file; the rest of the data path moves bytes.

A half is FLOWING until one of three things happens:

- Its sink takes no more. It is BLOCKED: it keeps what is left over, and reads nothing until that is flushed.
  So a slow reader slows its peer down and costs a bounded amount of memory.
- It has moved its share of bytes in one go. It is QUEUED, and goes on after everybody else had a turn.
- Its source ends. It is CLOSED: the end was passed on to the sink, and nothing follows.

The end of a stream can be reached only while FLOWING, because a half that holds bytes back does not read.
That is what keeps an end from overtaking the bytes before it, and why the first table has no such move.

The relay is OPEN until a half closes; HALF_CLOSED, in either order and for as long as the peers like; CLOSED
when both have. A reset on one side, at any time before that, is a reset on the other: the relay is RESET.

A move that a table does not have raises `IllegalMoveError` and changes nothing.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class _Word(Enum):
    """Hashes by identity, which is what its members compare by. Enum's own hash is a call into Python."""

    __hash__ = object.__hash__


class Half(_Word):
    """Which half, by what it carries."""

    REQUEST = "request"
    RESPONSE = "response"


class HalfState(_Word):
    FLOWING = "flowing"
    BLOCKED = "blocked"
    QUEUED = "queued"
    CLOSED = "closed"


class HalfEvent(_Word):
    SINK_FILLED = "sink filled"
    SINK_FLUSHED = "sink flushed"
    SHARE_SPENT = "share spent"
    TURN_CAME = "turn came"
    SOURCE_ENDED = "source ended"


class RelayPhase(_Word):
    OPEN = "open"
    HALF_CLOSED = "half closed"
    CLOSED = "closed"
    RESET = "reset"


HALF_MOVES: Final[dict[HalfState, dict[HalfEvent, HalfState]]] = {
    HalfState.FLOWING: {
        HalfEvent.SINK_FILLED: HalfState.BLOCKED,
        HalfEvent.SHARE_SPENT: HalfState.QUEUED,
        HalfEvent.SOURCE_ENDED: HalfState.CLOSED,
    },
    HalfState.BLOCKED: {
        HalfEvent.SINK_FLUSHED: HalfState.FLOWING,
    },
    HalfState.QUEUED: {
        HalfEvent.TURN_CAME: HalfState.FLOWING,
    },
    HalfState.CLOSED: {},
}

PHASE_AFTER_CLOSE: Final[dict[RelayPhase, RelayPhase]] = {
    RelayPhase.OPEN: RelayPhase.HALF_CLOSED,
    RelayPhase.HALF_CLOSED: RelayPhase.CLOSED,
}

PHASE_AFTER_RESET: Final[dict[RelayPhase, RelayPhase]] = {
    RelayPhase.OPEN: RelayPhase.RESET,
    RelayPhase.HALF_CLOSED: RelayPhase.RESET,
}


# Names of our own: to look a member up in its class costs more than a call (in Python 3.11).
_REQUEST: Final = Half.REQUEST
_FLOWING: Final = HalfState.FLOWING
_CLOSED: Final = HalfState.CLOSED
_OPEN: Final = RelayPhase.OPEN


class IllegalMoveError(RuntimeError):
    """The data path asked for a move that the tables do not have: a bug, nobody's bad input."""


class RelayState:
    """The joint state of a relay. The attributes are read-only for everybody else."""

    __slots__ = ("phase", "request", "response")

    def __init__(self) -> None:
        self.phase = _OPEN
        self.request = _FLOWING
        self.response = _FLOWING

    def move(self, half: Half, event: HalfEvent) -> HalfState:
        """Apply `event` to one half and return its new state; `phase` follows."""
        phase = self.phase
        if phase not in PHASE_AFTER_RESET:
            raise IllegalMoveError(f"{event.value} on the {half.value} half of a relay that is {phase.value}")
        is_request = half is _REQUEST
        state = self.request if is_request else self.response
        new_state = HALF_MOVES[state].get(event)
        if new_state is None:
            raise IllegalMoveError(f"{event.value} on the {half.value} half, which is {state.value}")
        if is_request:
            self.request = new_state
        else:
            self.response = new_state
        if new_state is _CLOSED:
            self.phase = PHASE_AFTER_CLOSE[phase]
        return new_state

    def reset(self) -> None:
        """Either side was reset."""
        phase = PHASE_AFTER_RESET.get(self.phase)
        if phase is None:
            raise IllegalMoveError(f"reset of a relay that is {self.phase.value}")
        self.phase = phase
