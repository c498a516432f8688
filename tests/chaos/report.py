"""What a run is reported as."""

from __future__ import annotations

from collections.abc import Iterator

from tests.chaos.ledger import Conversation, Ledger
from tests.chaos.run import Result
from tests.support.steady_load import quantile

EVENTS_BEFORE = 12
FAILURES_SHOWN = 5
_HEAD = (
    f"{'clients':28} {'number':>7} {'failed':>7} {'excused':>8} {'p50 ms':>7} {'p99 ms':>7} {'worst ms':>9}"
)


def report(result: Result) -> str:
    return "\n".join(_lines(result))


def _lines(result: Result) -> Iterator[str]:
    ledger = result.ledger
    yield f"seed {result.seed}, {result.setting}: {result.faults} faults"
    yield _HEAD
    for kind, counts in sorted(ledger.by_kind.items()):
        waits = counts.waits or [0.0]
        figures = " ".join(
            f"{seconds * 1e3:{width}.0f}"
            for seconds, width in ((quantile(waits, 0.5), 7), (quantile(waits, 0.99), 7), (max(waits), 9))
        )
        yield f"{kind:28} {counts.conversations:7} {counts.failed:7} {counts.excused:8} {figures}"
    for reason, number in ledger.excused.most_common():
        yield f"excused: {number} x {reason}"
    for name, took in sorted(result.took.items()):
        yield f"repaired: {name} x {len(took)}, p50 {quantile(took, 0.5):.2f} s, worst {max(took):.2f} s"
    for failure in ledger.failures[:FAILURES_SHOWN]:
        yield f"FAILED: {failure}"
        yield from _events_before(ledger, failure)
    if len(ledger.failures) > FAILURES_SHOWN:
        yield f"and {len(ledger.failures) - FAILURES_SHOWN} failures more"
    for problem in result.problems:
        yield f"PROBLEM: {problem}"
    if result.problems:
        yield from (f"  {at:.2f} {event}" for at, event in ledger.events[-EVENTS_BEFORE:])


def _events_before(ledger: Ledger, failure: Conversation) -> Iterator[str]:
    events = [(at, event) for at, event in ledger.events if at <= failure.ended_at]
    yield from (f"  {at:.2f} {event}" for at, event in events[-EVENTS_BEFORE:])
