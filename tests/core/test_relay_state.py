from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userspace_proxy.core.relay_state import (
    HALF_MOVES,
    Half,
    HalfEvent,
    HalfState,
    IllegalMoveError,
    RelayPhase,
    RelayState,
)

REQUEST, RESPONSE = Half.REQUEST, Half.RESPONSE


def snapshot(state: RelayState) -> tuple[RelayPhase, HalfState, HalfState]:
    return state.phase, state.request, state.response


def half_in(half_state: HalfState, half: Half) -> RelayState:
    """A relay whose `half` is in `half_state`, by the shortest way."""
    state = RelayState()
    match half_state:
        case HalfState.BLOCKED:
            state.move(half, HalfEvent.SINK_FILLED)
        case HalfState.QUEUED:
            state.move(half, HalfEvent.SHARE_SPENT)
        case HalfState.CLOSED:
            state.move(half, HalfEvent.SOURCE_ENDED)
        case HalfState.FLOWING:
            pass
    return state


@pytest.mark.parametrize("half", Half)
@pytest.mark.parametrize("half_state", HalfState)
@pytest.mark.parametrize("event", HalfEvent)
def test_every_move_is_in_the_table_or_raises_and_changes_nothing(
    half: Half, half_state: HalfState, event: HalfEvent
) -> None:
    state = half_in(half_state, half)
    before = snapshot(state)
    expected = HALF_MOVES[half_state].get(event)
    if expected is None:
        with pytest.raises(IllegalMoveError, match=half_state.value):
            state.move(half, event)
        assert snapshot(state) == before
    else:
        assert state.move(half, event) is expected
        other = state.response if half is REQUEST else state.request
        assert other is HalfState.FLOWING


def test_an_end_cannot_overtake_the_bytes_before_it() -> None:
    for half_state in (HalfState.BLOCKED, HalfState.QUEUED):
        assert HalfEvent.SOURCE_ENDED not in HALF_MOVES[half_state]


@pytest.mark.parametrize(("first", "second"), [(REQUEST, RESPONSE), (RESPONSE, REQUEST)])
def test_halves_close_in_either_order_and_the_other_goes_on_between(first: Half, second: Half) -> None:
    state = RelayState()
    state.move(first, HalfEvent.SOURCE_ENDED)
    phases = [state.phase]
    state.move(second, HalfEvent.SINK_FILLED)
    state.move(second, HalfEvent.SINK_FLUSHED)
    state.move(second, HalfEvent.SOURCE_ENDED)
    assert [*phases, state.phase] == [RelayPhase.HALF_CLOSED, RelayPhase.CLOSED]


@pytest.mark.parametrize("half_closed", [False, True])
def test_a_reset_ends_it(half_closed: bool) -> None:
    state = RelayState()
    if half_closed:
        state.move(REQUEST, HalfEvent.SOURCE_ENDED)
    state.reset()
    assert state.phase is RelayPhase.RESET


@given(st.lists(st.tuples(st.sampled_from(Half), st.sampled_from([*HalfEvent, None]))))
def test_what_is_over_stays_over(moves: list[tuple[Half, HalfEvent | None]]) -> None:
    """Any sequence of moves (None: a reset): legal ones apply, illegal ones leave no trace."""
    state = RelayState()
    for half, event in moves:
        before = snapshot(state)
        try:
            if event is None:
                state.reset()
            else:
                state.move(half, event)
        except IllegalMoveError:
            assert snapshot(state) == before
        else:
            assert before[0] in (RelayPhase.OPEN, RelayPhase.HALF_CLOSED)
        both_closed = state.request is state.response is HalfState.CLOSED
        assert both_closed == (state.phase is RelayPhase.CLOSED)
