"""A sink for sources' tests: what is known by now, and a way to wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from userspace_proxy.core.objects import ApiObject, Event, Kind, Listed, Upserted, kind_of
from userspace_proxy.core.problem import Problem
from userspace_proxy.sources import Source

DEADLINE_SECONDS = 30.0


class RecordingSink:
    """Folds events into `objects`, and keeps them in `observed`, one entry for each call."""

    def __init__(self) -> None:
        self.observed: list[tuple[Event, ...]] = []
        self.objects: dict[tuple[Kind, str, str], ApiObject] = {}
        self.problems: dict[str, tuple[Problem, ...]] = {}
        self.reports = 0
        self._changed = asyncio.Event()
        self._is_fed = True

    def observe(self, events: Sequence[Event]) -> None:
        self.observed.append(tuple(events))
        for event in events:
            match event:
                case Listed(kind, objects):
                    self.objects = {key: item for key, item in self.objects.items() if key[0] is not kind}
                    self.objects.update((_key(item), item) for item in objects)
                case Upserted(item):
                    self.objects[_key(item)] = item
                case _:
                    self.objects.pop((event.kind, event.namespace, event.name), None)
        self._changed.set()

    def report(self, scope: str, problems: Sequence[Problem]) -> None:
        self.reports += 1
        self.problems.pop(scope, None)
        if problems:
            self.problems[scope] = tuple(problems)
        self._changed.set()

    def names(self, kind: Kind = Kind.SERVICE) -> list[str]:
        """`namespace/name` of all objects of a kind, sorted."""
        return sorted(f"{namespace}/{name}" for known, namespace, name in self.objects if known is kind)

    def problem_texts(self) -> list[str]:
        """Every problem as it would be logged, without where it was found."""
        return sorted(
            str(problem).removeprefix(f"{problem.origin}: ")
            for problems in self.problems.values()
            for problem in problems
        )

    def listings(self, kind: Kind = Kind.SERVICE) -> int:
        """How often a kind was listed whole."""
        return sum(
            isinstance(event, Listed) and event.kind is kind for call in self.observed for event in call
        )

    async def until(self, is_reached: Callable[[], object]) -> None:
        """Return when `is_reached` holds after something was told."""
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                while not is_reached():
                    assert self._is_fed, "the source has ended"
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"not reached with {self.objects} and {self.problems}") from None

    def end(self) -> None:
        """Nothing more will come."""
        self._is_fed = False
        self._changed.set()


@asynccontextmanager
async def running(source: Source) -> AsyncIterator[RecordingSink]:
    """A sink that `source` feeds meanwhile. If the source ended with an error, that is what is raised."""
    sink = RecordingSink()
    task = asyncio.create_task(source.run(sink))
    task.add_done_callback(lambda _: sink.end())
    try:
        yield sink
    finally:
        if task.done():
            task.result()
        task.cancel()
        await asyncio.wait([task])


def _key(item: ApiObject) -> tuple[Kind, str, str]:
    return kind_of(item), item.metadata.namespace, item.metadata.name
