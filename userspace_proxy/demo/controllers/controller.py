"""Running a controller: look, plan, write, wait until the mirrors show what was written, and look again.

A plan is made of what the mirrors show alone, so nothing is lost by a crash, a missed event or a failed
write. Because it waits for its own writes to come back, it never does a thing twice out of impatience; what
somebody else changed meanwhile ends in a conflict, and in a plan of what is there then.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeAlias

from userspace_proxy.core.back_off import delay_seconds
from userspace_proxy.demo.api_client import ApiClient, ApiError, Identity
from userspace_proxy.demo.controllers.attempts import Attempts, Outcome
from userspace_proxy.demo.controllers.objects import Metadata
from userspace_proxy.demo.controllers.writes import (
    Create,
    Delete,
    Patch,
    Plan,
    Post,
    Request,
    Say,
    Write,
    key_of,
)
from userspace_proxy.demo.event_recorder import EventRecorder
from userspace_proxy.demo.mirror import Mirror
from userspace_proxy.demo.notices import Notice

MAX_WRITES = 200
"""In one go; what is left comes with the next plan."""
BATCH_SECONDS = 0.01
"""A change seldom comes alone: what follows it so soon is planned together with it."""
LONGEST_WAIT_SECONDS = 600.0
"""Plans go by the time of day, which can jump: on a laptop that sleeps."""
COMING_BACK_SECONDS = 5.0
"""How long to wait for a write to be shown; a plan made without it ends in a conflict at worst."""

_log = logging.getLogger(__name__)

Planner: TypeAlias = Callable[[datetime, random.Random], Plan]
"""Plans from what its mirrors show now, the time and chance."""


@dataclass(slots=True)
class Controller:
    """Carries out what `plan` says, again after each change in `mirrors`.

    What is refused, or has no effect, is tried again after a while (`attempts`), and holds up nothing else.
    """

    name: str
    plan: Planner
    mirrors: Sequence[Mirror[Any]]
    client: ApiClient
    recorder: EventRecorder
    chance: random.Random = field(default_factory=random.Random)
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _attempts: Attempts = field(default_factory=Attempts)
    _said: set[Hashable] = field(default_factory=set)
    _unanswered: int = 0

    async def run(self) -> None:
        """Keep at it until cancelled."""
        for mirror in self.mirrors:
            mirror.subscribe(self._changed.set)
        for mirror in self.mirrors:
            await mirror.synced()
        while True:
            self._changed.clear()
            plan = self.plan(self.clock(), self.chance)
            planned = {key_of(write) for write in plan.writes}
            self._attempts.forget_all_but(planned)
            self._said &= planned
            if await self._carry_out(plan.writes):
                continue
            waits = (plan.again_in_seconds, self._attempts.seconds_until_next(_now()), LONGEST_WAIT_SECONDS)
            await self._change_within(min(wait for wait in waits if wait is not None))
            await asyncio.sleep(BATCH_SECONDS)

    async def _carry_out(self, writes: Sequence[Write]) -> bool:
        """Write what is due, and wait until the mirrors show it. Returns whether to plan again at once."""
        held = self._attempts.held(_now())
        written: list[tuple[Request, str]] = []
        tries = 0
        is_cut_short = False
        for write in writes:
            key = key_of(write)
            if isinstance(write, Say):
                if key not in self._said:
                    self._said.add(key)
                    self.recorder.record(write.subject, write.notice)
                continue
            if key in held or tries == MAX_WRITES:
                continue
            tries += 1
            try:
                version = await self._send(write)
            except ApiError as error:
                if error.code is None:
                    is_cut_short = True
                    await self._wait_for_server(error)
                    break
                held.add(key)
                is_outdated = error.is_not_found or error.is_conflict
                outcome = Outcome.CHANGED_MEANWHILE if is_outdated else Outcome.REFUSED
                self._attempts.note(write, outcome, _now())
                if not is_outdated:
                    self._complain(write, error)
                continue
            self._unanswered = 0
            if version is None:
                self._attempts.note(write, Outcome.CHANGED_MEANWHILE, _now())
                continue
            self._attempts.note(write, Outcome.DONE, _now())
            written.append((write, version))
            if write.notice is not None:
                self.recorder.record(write.subject, write.notice)
        await self._shown(written)
        return bool(written) or is_cut_short

    async def _send(self, write: Request) -> str | None:
        """Returns the version that the object has with it ("" if nobody says); None if it was not sent."""
        resource = write.resource.read_as(Identity)
        match write:
            case Create():
                made = await self.client.create(resource, write.namespace, write.body)
                return made.metadata.resource_version
            case Post(metadata=metadata):
                await self.client.create(
                    resource,
                    metadata.namespace,
                    write.body,
                    name=metadata.name,
                    subresource=write.subresource,
                )
            case Patch(metadata=metadata):
                condition = {"uid": metadata.uid, "resourceVersion": metadata.resource_version}
                body = {**write.body, "metadata": {**write.body.get("metadata", {}), **condition}}
                patched = await self.client.patch(
                    resource, metadata.namespace, metadata.name, body, subresource=write.subresource
                )
                return patched.metadata.resource_version
            case Delete(metadata=metadata):
                if await self._is_forbidden(write):
                    return None
                await self.client.delete(
                    resource,
                    metadata.namespace,
                    metadata.name,
                    uid=metadata.uid,
                    grace_seconds=write.grace_seconds,
                )
        return ""

    async def _is_forbidden(self, write: Delete) -> bool:
        """Whether the object is there that must not be. The mirrors, which do not know, may lag."""
        if write.unless_there is None:
            return False
        resource, other = write.unless_there
        try:
            found = await self.client.get(resource.read_as(Identity), other.namespace, other.name)
        except ApiError as error:
            if error.is_not_found:
                return False
            raise
        return other.uid in ("", found.metadata.uid)

    def _complain(self, write: Request, error: ApiError) -> None:
        _log.info("Request refused: controller=%s object=%s why=%s", self.name, write.subject.name, error)
        if write.failure_reason:
            self.recorder.record(write.subject, Notice(write.failure_reason, error.message, is_warning=True))

    async def _wait_for_server(self, error: ApiError) -> None:
        self._unanswered += 1
        if self._unanswered == 1:
            _log.warning("API server does not answer: controller=%s why=%s", self.name, error)
        await asyncio.sleep(delay_seconds(self._unanswered, self.chance.random()))

    async def _shown(self, written: Sequence[tuple[Request, str]]) -> None:
        """Wait until the mirrors show what was written."""
        until = _now() + COMING_BACK_SECONDS
        for write, version in written:
            for mirror in self.mirrors:
                if mirror.resource.kind == write.resource.kind:
                    while not _shows(mirror, write, version) and _now() < until:
                        self._changed.clear()
                        await self._change_within(until - _now())

    async def _change_within(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            pass


def _shows(mirror: Mirror[Any], write: Request, version: str) -> bool:
    if isinstance(write, Create | Patch):
        return mirror.shows(version)
    planned: Metadata = write.metadata
    there = mirror.objects.get((planned.namespace, planned.name))
    return there is None or there.metadata.resource_version != planned.resource_version


def _now() -> float:
    return asyncio.get_running_loop().time()
