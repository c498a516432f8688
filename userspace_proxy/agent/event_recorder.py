"""Writes what an operator must see as Kubernetes Events, beside everything else that the agent does.

Nobody waits for it, and nothing depends on it. What is written, and when, is `core.event_series`' to say.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NoReturn

from userspace_proxy.core.back_off import delay_seconds
from userspace_proxy.core.cluster_state import ClusterState, ObjectId
from userspace_proxy.core.event_reasons import Reason
from userspace_proxy.core.event_series import EventSeries, EventWrite, Outcome, outcome_of, regarding_of
from userspace_proxy.core.request_rate import RequestRate
from userspace_proxy.sources import WriteEvent
from userspace_proxy.sources.contact import RequestFailedError
from userspace_proxy.sources.list_watch import MAX_RETRY_AFTER_SECONDS

logger = logging.getLogger(__name__)

_QPS: Final = 0.2
_BURST: Final = 25
_FORBIDDEN: Final = 403


class EventRecorder:
    """`record` is a `RecordEvent`, `run` writes with `write`, or nothing ever if that is None.

    `state` knows the objects, and which node this is. `clock` is the loop's.
    """

    def __init__(
        self,
        state: ClusterState,
        write: WriteEvent | None,
        *,
        clock: Callable[[], float],
        qps: float = _QPS,
        burst: int = _BURST,
    ) -> None:
        self.series = EventSeries(state.node_name)
        self._state = state
        self._write = write
        self._clock = clock
        self._rate = RequestRate(qps, burst, clock())
        self._recorded = asyncio.Event()
        self._refused: set[int | None] = set()

    def record(self, reason: Reason, note: str, about: ObjectId | None = None) -> None:
        """See `RecordEvent`."""
        if self._write is None:
            return
        self.series.record(reason, regarding_of(about, self._state), note, self._clock(), time.time())
        self._recorded.set()

    async def run(self) -> NoReturn:
        """Write what is due, for ever. An API server without an answer is asked again, ever more rarely."""
        failures = 0
        while True:
            await self._until_due()
            await asyncio.sleep(self._rate.take(self._clock()))
            event = self.series.due(self._clock())
            if event is None or self._write is None:
                continue
            outcome, asked_seconds = await self._try(self._write, event)
            self.series.settle(event, outcome, self._clock())
            failures = failures + 1 if outcome is Outcome.FAILED else 0
            if failures:
                await asyncio.sleep(max(delay_seconds(failures, random.random()), asked_seconds))

    async def _try(self, write: WriteEvent, event: EventWrite) -> tuple[Outcome, float]:
        """What came of it, and how long the API server asks to be left alone, in seconds."""
        try:
            await write(event)
        except RequestFailedError as error:
            outcome = outcome_of(event.is_new, error.status)
            if outcome is Outcome.REFUSED:
                self._say_refused(error)
            return outcome, min(error.retry_after_seconds, MAX_RETRY_AFTER_SECONDS)
        except Exception:  # nothing but an Event depends on it
            logger.exception("An Event cannot be written")
            return Outcome.REFUSED, 0.0
        return Outcome.WRITTEN, 0.0

    async def _until_due(self) -> None:
        while True:
            due_at = self.series.due_at()
            if due_at is not None and due_at <= self._clock():
                return
            self._recorded.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(None if due_at is None else due_at - self._clock()):
                    await self._recorded.wait()

    def _say_refused(self, failure: RequestFailedError) -> None:
        """Once for each status: whoever may not write one may write none."""
        if failure.status in self._refused:
            return
        self._refused.add(failure.status)
        logger.warning(
            "Event refused by the API server, further refusals like it are only counted: %s%s",
            failure,
            "; allow create and patch of events in events.k8s.io, as in examples/deploy/rbac.yaml, "
            "or give --events=false"
            if failure.status == _FORBIDDEN
            else "",
        )
