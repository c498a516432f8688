"""One order of writes, on disk before anybody sees it, and a history that is bounded."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from userspace_proxy.demo.api_server.database import Database, DatabaseError
from userspace_proxy.demo.api_server.kinds import EVENTS, NEW_EVENTS, PODS, SERVICES
from userspace_proxy.demo.api_server.objects import Key, Object
from userspace_proxy.demo.api_server.statuses import StatusError
from userspace_proxy.demo.api_server.store import Store, Stored, Transition
from userspace_proxy.errors import StartupError

WEB = Key("default", "web")


def put(value: int, name: str = "web") -> Transition:
    """Have a Service say a value."""
    return lambda _: {"metadata": {"namespace": "default", "name": name}, "value": value}


def values(found: dict[Key, Stored]) -> dict[str, int]:
    return {key.name: stored.read()["value"] for key, stored in found.items()}


@asynccontextmanager
async def opened(folder: Path, history: int = 100) -> AsyncIterator[Store]:
    database = await Database.open(folder / "cluster.sqlite")
    try:
        yield await Store.open(database, history)
    finally:
        await database.close()


def run(test: Callable[[], Any]) -> None:
    asyncio.run(test())


def test_versions_are_of_one_order_and_survive(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path) as store:
            first = await store.write(SERVICES, WEB, put(1))
            other = await store.write(PODS, Key("default", "p"), put(7, "p"))
            second = await store.write(SERVICES, WEB, put(2))
            assert first.version < other.version < second.version == store.version
            await store.write(PODS, Key("default", "p"), lambda _: None)
        async with opened(tmp_path) as store:
            assert store.version == second.version + 1
            again = store.get(SERVICES, WEB)
            assert again is not None
            assert again == second
            assert store.get(PODS, Key("default", "p")) is None
            assert (await store.write(SERVICES, WEB, put(3))).version == second.version + 2

    run(test)


def test_a_write_without_a_change_is_none(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path) as store:
            first = await store.write(SERVICES, WEB, put(1))
            assert await store.write(SERVICES, WEB, put(1)) is first
            assert store.version == first.version

    run(test)


def test_a_dry_run_says_what_would_be(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path) as store:
            first = await store.write(SERVICES, WEB, put(1))
            assert (await store.write(SERVICES, WEB, put(2), is_dry_run=True)).read()["value"] == 2
            await store.write(SERVICES, WEB, lambda _: None, is_dry_run=True)
            assert store.get(SERVICES, WEB) is first
            assert store.collection(SERVICES).since(first.version) == []

    run(test)


def test_what_is_refused_changes_nothing(tmp_path: Path) -> None:
    def refuse(_: Stored | None) -> Object:
        raise StatusError(409, "Conflict", "no")

    async def test() -> None:
        async with opened(tmp_path) as store:
            with pytest.raises(StatusError):
                await store.write(SERVICES, WEB, refuse)
            with pytest.raises(LookupError):
                await store.write(SERVICES, WEB, lambda _: None)
            assert store.get(SERVICES, WEB) is None

    run(test)


def test_each_transition_sees_the_one_before(tmp_path: Path) -> None:
    def count(before: Stored | None) -> Object:
        return put(1 if before is None else before.read()["value"] + 1)(None) or {}

    async def test() -> None:
        async with opened(tmp_path) as store:
            await asyncio.gather(*(store.write(SERVICES, WEB, count) for _ in range(50)))
            assert values(store.collection(SERVICES).objects) == {"web": 50}

    run(test)


def test_a_caller_that_gives_up_does_not_stop_its_write(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path) as store:
            writing = asyncio.ensure_future(store.write(SERVICES, WEB, put(1)))
            await asyncio.sleep(0)
            writing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await writing
            await store.finish()
            assert values(store.collection(SERVICES).objects) == {"web": 1}

    run(test)


def test_history_tells_what_was_and_is_bounded(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path, history=5) as store:
            versions = [(await store.write(SERVICES, WEB, put(value))).version for value in range(1, 8)]
            collection = store.collection(SERVICES)
            late = collection.since(versions[4])
            assert [change.last.read()["value"] for change in late] == [6, 7]
            assert [change.before and change.before.read()["value"] for change in late] == [5, 6]
            await store.write(SERVICES, Key("default", "db"), put(1, "db"))
            await store.write(SERVICES, WEB, lambda _: None)
            assert values(collection.at(versions[6])) == {"web": 7}
            assert values(collection.at(versions[6] + 1)) == {"web": 7, "db": 1}
            assert values(collection.at(store.version)) == {"db": 1}
            for value in range(2, 20):
                await store.write(SERVICES, Key("default", "db"), put(value, "db"))
            assert 5 <= len(collection.since(store.version - 5)) <= 10
            for look in (collection.since, collection.at):
                with pytest.raises(StatusError) as refused:
                    look(versions[6])
                assert refused.value.code == 410

    run(test)


def test_the_order_of_writes_is_that_of_the_objects_also_after_a_restart(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path) as store:
            for name in ("c", "a", "b", "c"):
                await store.write(SERVICES, Key("default", name), put(store.version, name))
            assert [key.name for key in store.collection(SERVICES).objects] == ["a", "b", "c"]
            await store.write(SERVICES, Key("default", "a"), put(0, "a"))
        async with opened(tmp_path) as store:
            assert [key.name for key in store.collection(SERVICES).objects] == ["b", "c", "a"]

    run(test)


def test_another_collections_changes_age_nobody(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path, history=2) as store:
            first = await store.write(SERVICES, WEB, put(1))
            for value in range(20):
                await store.write(PODS, Key("default", "web"), put(value))
            assert store.collection(SERVICES).since(first.version) == []

    run(test)


def test_the_history_before_a_restart_is_forgotten(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path) as store:
            first = await store.write(SERVICES, WEB, put(1))
            second = await store.write(SERVICES, WEB, put(2))
        async with opened(tmp_path) as store:
            assert store.collection(SERVICES).since(second.version) == []
            with pytest.raises(StatusError):
                store.collection(SERVICES).since(first.version)

    run(test)


def test_a_change_wakes_who_waits(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path) as store:
            waiting = asyncio.ensure_future(store.collection(SERVICES).changed())
            await asyncio.sleep(0)
            await store.write(PODS, Key("default", "web"), put(1))
            assert not waiting.done()
            await store.write(SERVICES, WEB, put(1))
            await waiting
            ending = asyncio.ensure_future(store.collection(SERVICES).changed())
            await asyncio.sleep(0)
            store.end_watches()
            await ending
            assert store.is_closing

    run(test)


def test_events_are_found_by_both_their_names(tmp_path: Path) -> None:
    event: Object = {
        "metadata": {"namespace": "default", "name": "web.1"},
        "involvedObject": {"name": "web"},
        "reportingComponent": "agent",
    }

    async def test() -> None:
        async with opened(tmp_path) as store:
            stored = await store.write(NEW_EVENTS, Key("default", "web.1"), lambda _: event)
            assert store.get(EVENTS, Key("default", "web.1")) is stored
            assert stored.fields["involvedObject.name"] == stored.fields["regarding.name"] == "web"
            assert stored.fields["reportingController"] == "agent"

    run(test)


def test_two_servers_on_one_database(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path):
            with pytest.raises(StartupError, match="another API server uses"):
                await Database.open(tmp_path / "cluster.sqlite")

    run(test)


def test_what_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database, but a text that is long enough to be looked at" * 20)
    later = sqlite3.connect(tmp_path / "later")
    later.execute("PRAGMA user_version = 99")
    later.close()

    async def test() -> None:
        for name, words in (
            ("text", "cannot be used as the cluster's database"),
            ("missing/cluster", "cannot be used as the cluster's database"),
            ("later", "was written by another version"),
        ):
            with pytest.raises(StartupError, match=words):
                await Database.open(tmp_path / name)

    run(test)


def test_a_write_that_fails_changes_nothing(tmp_path: Path) -> None:
    class FullDatabase(Database):
        def _write(self, *_: Any) -> None:
            raise sqlite3.OperationalError("database or disk is full")

    async def test() -> None:
        database = await FullDatabase.open(tmp_path / "cluster.sqlite")
        store = await Store.open(database, 10)
        with pytest.raises(DatabaseError, match="database or disk is full"):
            await store.write(SERVICES, WEB, put(1))
        assert store.get(SERVICES, WEB) is None
        await database.close()

    run(test)
