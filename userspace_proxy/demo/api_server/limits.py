"""How much, and how long: what keeps the server from growing with what its clients do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of one server; the defaults are a small cluster's."""

    history: int = 1_000
    """Changes of a collection that are remembered, at least. Who is further behind has to list again."""

    events: int = 1_000
    """Events that are kept; with each beyond, the oldest goes."""

    watches: int = 1_000
    """Watches at a time; more are asked to come again."""

    body_bytes: int = 3 * 1024 * 1024
    """The largest request."""

    watch_seconds: float = 1800.0
    """How long a watch lasts that does not say."""

    bookmark_seconds: float = 60.0
    """How often a watch without events is told the version."""

    write_seconds: float = 30.0
    """A client that takes nothing for so long is cut off."""
