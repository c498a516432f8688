"""API objects as the server keeps them: what JSON says, in dictionaries, and their common parts."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeAlias

import msgspec

Object: TypeAlias = dict[str, Any]


class Key(NamedTuple):
    """An object among those of its resource. `namespace` is empty for what is the whole cluster's."""

    namespace: str
    name: str


def labels_of(item: Object) -> dict[str, str]:
    """The labels of an object."""
    return item["metadata"].get("labels") or {}


def copied(item: Object) -> Object:
    """The object again, which may be changed: what was read stays as it is."""
    copy: Object = msgspec.json.decode(msgspec.json.encode(item))
    return copy


def timestamp(moment: datetime) -> str:
    """A time as metadata has it: RFC 3339 in UTC, whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_timestamp(text: str) -> datetime | None:
    """The time that RFC 3339 text says; None for other text."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None and "T" in text.upper() else None


def selector_text(labels: dict[str, str]) -> str:
    """Labels as `kubectl` writes a selector: sorted, with commas between."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
