"""Stored objects in the form that a request asks for: as they are, or as rows of a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from userspace_proxy.demo.api_server import events, tables
from userspace_proxy.demo.api_server.kinds import NEW_EVENTS, Resource
from userspace_proxy.demo.api_server.objects import Object
from userspace_proxy.demo.api_server.store import Stored


@dataclass(frozen=True, slots=True)
class Rendering:
    """Which form. `includes` is what a row holds beside its cells: `None`, `Metadata` or `Object`."""

    resource: Resource
    as_table: bool
    includes: str
    now: Callable[[], datetime]

    def one(self, stored: Stored) -> bytes:
        """An object."""
        return self._table([stored], {}) if self.as_table else self._plain(stored)

    def listed(self, found: Iterable[Stored], metadata: Object) -> bytes:
        """A list, with its metadata."""
        if self.as_table:
            return self._table(found, metadata)
        head = {"kind": f"{self.resource.kind}List", "apiVersion": self.resource.group_version}
        start = msgspec.json.encode(head | {"metadata": metadata})[:-1]
        return start + b',"items":[' + b",".join(self._plain(stored) for stored in found) + b"]}"

    def event(self, kind: str, stored: Stored, *, is_first: bool) -> bytes:
        """A watch event, with its line end. Only the first has the definitions of a table's columns."""
        table = self._table([stored], {}, has_columns=is_first) if self.as_table else None
        shown = table or self._plain(stored)
        return b'{"type":"' + kind.encode() + b'","object":' + shown + b"}\n"

    def bookmark(self, version: int, *, ends_initial_events: bool = False) -> bytes:
        """The watch event that says how far a watch has come."""
        metadata: Object = {"resourceVersion": str(version)}
        if ends_initial_events:
            metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
        head = {"kind": self.resource.kind, "apiVersion": self.resource.group_version}
        return msgspec.json.encode({"type": "BOOKMARK", "object": head | {"metadata": metadata}}) + b"\n"

    def _plain(self, stored: Stored) -> bytes:
        if self.resource is NEW_EVENTS:
            return msgspec.json.encode(events.to_new(stored.read()))
        return stored.data

    def _table(self, found: Iterable[Stored], metadata: Object, *, has_columns: bool = True) -> bytes:
        now = self.now()
        table: dict[str, Any] = {
            "kind": "Table",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": metadata,
            "columnDefinitions": tables.columns_of(self.resource) if has_columns else [],
            "rows": [self._row(stored, now) for stored in found],
        }
        return msgspec.json.encode(table)

    def _row(self, stored: Stored, now: datetime) -> Object:
        item = stored.read()
        row: Object = {"cells": tables.cells_of(self.resource, item, now)}
        match self.includes:
            case "None":
                pass
            case "Object":
                row["object"] = msgspec.Raw(self._plain(stored))
            case _:
                row["object"] = {
                    "kind": "PartialObjectMetadata",
                    "apiVersion": "meta.k8s.io/v1",
                    "metadata": item["metadata"],
                }
        return row
