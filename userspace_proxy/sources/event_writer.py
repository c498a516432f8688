"""Writes Events to an API server, as events.k8s.io/v1 has them.

Source: the reference of Event, and what an API server checks (pkg/apis/core/validation/events.go).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from userspace_proxy.core.event_series import EventWrite
from userspace_proxy.sources.api_connection import Connection

API_VERSION: Final = "events.k8s.io/v1"
CONTROLLER: Final = "userspace-proxy"


async def write_event(connection: Connection, write: EventWrite) -> None:
    """Create it, or bring its series up to date. Raises `RequestFailedError`."""
    path = f"/apis/{API_VERSION}/namespaces/{write.namespace}/events"
    if write.is_new:
        await connection.write("POST", path, event_of(write), "application/json")
    else:
        series = {"series": _series_of(write)}
        await connection.write("PATCH", f"{path}/{write.name}", series, "application/merge-patch+json")


def event_of(write: EventWrite) -> dict[str, Any]:
    """The whole Event, as JSON has it."""
    regarding = write.regarding
    about = {
        "apiVersion": regarding.api_version,
        "kind": regarding.kind,
        "namespace": regarding.namespace,
        "name": regarding.name,
        "uid": regarding.uid,
    }
    event = {
        "apiVersion": API_VERSION,
        "kind": "Event",
        "metadata": {"namespace": write.namespace, "name": write.name},
        "eventTime": _micro_time(write.first),
        "reportingController": CONTROLLER,
        "reportingInstance": write.instance,
        "action": write.reason.action,
        "reason": write.reason.name,
        "type": write.reason.type.value,
        "regarding": {name: value for name, value in about.items() if value},
        "note": write.note,
    }
    return event if write.count == 1 else {**event, "series": _series_of(write)}


def _series_of(write: EventWrite) -> dict[str, Any]:
    return {"count": write.count, "lastObservedTime": _micro_time(write.last)}


def _micro_time(seconds: float) -> str:
    """The API's MicroTime: RFC 3339 with six digits."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
