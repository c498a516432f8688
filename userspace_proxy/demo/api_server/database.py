"""The objects on disk: SQLite, used by one thread of its own, so that no disk holds up the loop.

A write is on disk (in the write-ahead log) before anybody hears of it. Only the present is kept, not its
history: who watched before a restart lists again.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self, TypeVar

from userspace_proxy.demo.api_server.objects import Key
from userspace_proxy.errors import StartupError, UserspaceProxyError

Result = TypeVar("Result")

FORMAT: Final = 1
"""What `PRAGMA user_version` says of a database with these tables."""

_TABLES: Final = f"""
    PRAGMA locking_mode = EXCLUSIVE;
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = NORMAL;
    CREATE TABLE IF NOT EXISTS objects (
        storage TEXT, namespace TEXT, name TEXT, data BLOB NOT NULL, PRIMARY KEY (storage, namespace, name)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS version (present INTEGER NOT NULL);
    INSERT INTO version SELECT 1 WHERE NOT EXISTS (SELECT * FROM version);
    PRAGMA user_version = {FORMAT};
"""


class DatabaseError(UserspaceProxyError):
    """A write did not reach the disk; nothing of it did."""


@dataclass(frozen=True, slots=True)
class Row:
    """An object as it is kept: JSON."""

    storage: str
    key: Key
    data: bytes


class Database:
    """A file with all objects; open until `close`."""

    def __init__(self, connection: sqlite3.Connection, thread: ThreadPoolExecutor, path: Path) -> None:
        self._connection = connection
        self._thread = thread
        self._path = path

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Open the file, or make it. Raises StartupError if it cannot be used, or another process uses it."""
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="database")
        try:
            connection = await asyncio.get_running_loop().run_in_executor(thread, _connect, path)
        except BaseException:
            thread.shutdown()
            raise
        return cls(connection, thread, path)

    async def read(self) -> tuple[int, list[Row]]:
        """The version of the last write, and every object."""
        return await self._call(self._read)

    async def write(self, version: int, storage: str, key: Key, data: bytes | None) -> None:
        """Keep an object, or (None) forget it, and the version with it. Raises DatabaseError."""
        try:
            await self._call(lambda: self._write(version, storage, key, data))
        except sqlite3.Error as error:
            raise DatabaseError(f"{self._path} takes no writes: {error}") from error

    async def close(self) -> None:
        """Finish what was begun and close the file."""
        await self._call(self._connection.close)
        self._thread.shutdown()

    async def _call(self, function: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    def _read(self) -> tuple[int, list[Row]]:
        (version,) = self._connection.execute("SELECT present FROM version").fetchone()
        rows = self._connection.execute("SELECT storage, namespace, name, data FROM objects")
        return version, [Row(storage, Key(namespace, name), data) for storage, namespace, name, data in rows]

    def _write(self, version: int, storage: str, key: Key, data: bytes | None) -> None:
        with self._connection:
            if data is None:
                self._connection.execute(
                    "DELETE FROM objects WHERE storage = ? AND namespace = ? AND name = ?", (storage, *key)
                )
            else:
                self._connection.execute(
                    "INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?)", (storage, *key, data)
                )
            self._connection.execute("UPDATE version SET present = ?", (version,))


def _connect(path: Path) -> sqlite3.Connection:
    connection = None
    try:
        connection = sqlite3.connect(path, timeout=0, check_same_thread=True)
        (written_by,) = connection.execute("PRAGMA user_version").fetchone()
        if written_by not in (0, FORMAT):
            raise StartupError(
                f"{path} was written by another version of this program; remove it to start anew"
            )
        connection.executescript(_TABLES)
    except sqlite3.Error as error:
        if connection is not None:
            connection.close()
        if "locked" in str(error):
            raise StartupError(f"another API server uses {path}") from error
        raise StartupError(f"{path} cannot be used as the cluster's database: {error}") from error
    except StartupError:
        if connection is not None:
            connection.close()
        raise
    return connection
