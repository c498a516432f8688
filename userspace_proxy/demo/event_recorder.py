"""Events about objects, as `kubectl describe` shows them.

What is said again of the same object is counted, as long as it is remembered. Events are for people: one that
cannot be written is lost, and nobody waits for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from userspace_proxy.demo.api_client import ApiClient, ApiError
from userspace_proxy.demo.api_resources import EVENTS, JsonObject, timestamp
from userspace_proxy.demo.notices import Notice, Reference

__all__ = ["EventRecorder", "Notice", "Reference"]

MAX_WAITING = 1000
MAX_REMEMBERED = 1000
MAX_MESSAGE_CHARACTERS = 1024

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Told:
    """The Event that says it, and how often it did so."""

    name: str
    count: int


class EventRecorder:
    """Writes events as `component` (of `host`), in the order in which they are recorded."""

    def __init__(
        self,
        client: ApiClient,
        component: str,
        *,
        host: str = "",
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client = client
        self._component = component
        self._host = host
        self._clock = clock
        self._waiting: asyncio.Queue[tuple[Reference, Notice, datetime]] = asyncio.Queue(MAX_WAITING)
        self._told: OrderedDict[tuple[Reference, Notice], _Told] = OrderedDict()

    def record(self, subject: Reference, notice: Notice) -> None:
        """Have it written. Returns at once; when too much waits to be written, it is left out."""
        if not self._waiting.full():
            self._waiting.put_nowait((subject, notice, self._clock()))

    async def run(self) -> None:
        """Write what is recorded, until cancelled."""
        while True:
            subject, notice, moment = await self._waiting.get()
            try:
                await self._write(subject, notice, moment)
            except ApiError as error:
                _log.debug(
                    "Event lost: reason=%s about=%s/%s why=%s",
                    notice.reason,
                    subject.kind,
                    subject.name,
                    error,
                )

    async def _write(self, subject: Reference, notice: Notice, moment: datetime) -> None:
        key = subject, notice
        told = self._told.pop(key, None)
        # Events about what has no namespace are kept in `default`.
        namespace = subject.namespace or "default"
        if told is not None:
            again = {"count": told.count + 1, "lastTimestamp": timestamp(moment)}
            try:
                await self._client.patch(EVENTS, namespace, told.name, again)
            except ApiError as error:
                if not error.is_not_found:
                    raise
                told = None
        if told is None:
            # As client-go names them: unique, and sorted by time.
            told = _Told(f"{subject.name}.{int(moment.timestamp() * 1e9):x}", 0)
            await self._client.create(
                EVENTS, namespace, self._event(namespace, told.name, subject, notice, moment)
            )
        self._told[key] = _Told(told.name, told.count + 1)
        if len(self._told) > MAX_REMEMBERED:
            self._told.popitem(last=False)

    def _event(
        self, namespace: str, name: str, subject: Reference, notice: Notice, moment: datetime
    ) -> JsonObject:
        return {
            "apiVersion": EVENTS.group_version,
            "kind": EVENTS.kind,
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": {
                "apiVersion": subject.api_version,
                "kind": subject.kind,
                "namespace": subject.namespace,
                "name": subject.name,
                "uid": subject.uid,
            },
            "type": "Warning" if notice.is_warning else "Normal",
            "reason": notice.reason,
            "message": notice.message[:MAX_MESSAGE_CHARACTERS],
            "source": {"component": self._component, **({"host": self._host} if self._host else {})},
            "reportingComponent": self._component,
            "reportingInstance": self._host,
            "firstTimestamp": timestamp(moment),
            "lastTimestamp": timestamp(moment),
            "count": 1,
        }
