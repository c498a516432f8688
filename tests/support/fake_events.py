"""The Events of a fake API server, which checks them as Kubernetes does.

Source: pkg/apis/core/validation/events.go; it tells Events of events.k8s.io/v1 apart from older ones, and is
strict with these.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeAlias

from userspace_proxy.core.object_names import is_dns_subdomain

Event: TypeAlias = dict[str, Any]

PATH = re.compile(r"/apis/events\.k8s\.io/v1/namespaces/([^/]+)/events(?:/([^/]+))?")
_FIELDS = {
    "apiVersion": "events.k8s.io/v1",
    "kind": "Event",
    "metadata": None,
    "eventTime": None,
    "series": None,
    "reportingController": None,
    "reportingInstance": None,
    "action": None,
    "reason": None,
    "regarding": None,
    "note": None,
    "type": None,
}
_QUALIFIED_NAME = re.compile(r"([a-z0-9.-]+/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


class EventError(Exception):
    """`status` is HTTP's."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason


@dataclass
class FakeEvents:
    """`present` are those that there are, by namespace and name; `asked` counts requests by their method.

    While `error` is set it is the answer to everything.
    """

    present: dict[tuple[str, str], Event] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    error: EventError | None = None

    def write(self, method: str, namespace: str, name: str | None, body: Event, content_type: str) -> int:
        """The status of the answer. Raises `EventError`."""
        self.asked.append(method)
        if self.error is not None:
            raise self.error
        if method == "POST":
            return self._create(namespace, body)
        if method == "PATCH" and name is not None:
            return self._patch((namespace, name), body, content_type)
        raise EventError(405, "MethodNotAllowed", "the server does not allow this method")

    def _create(self, namespace: str, event: Event) -> int:
        problems = [*_problems(namespace, event)]
        if problems:
            raise EventError(422, "Invalid", "; ".join(problems))
        key = namespace, event["metadata"]["name"]
        if key in self.present:
            raise EventError(409, "AlreadyExists", f"events.events.k8s.io {key[1]!r} already exists")
        self.present[key] = event
        return 201

    def _patch(self, key: tuple[str, str], patch: Event, content_type: str) -> int:
        if content_type != "application/merge-patch+json":
            raise EventError(415, "UnsupportedMediaType", content_type)
        if key not in self.present:
            raise EventError(404, "NotFound", f"events.events.k8s.io {key[1]!r} not found")
        before = self.present[key]
        patched = {**before, **patch}
        immutable = [name for name in patched if name != "series" and patched[name] != before.get(name)]
        problems = [*_problems(key[0], patched), *(f"{name}: field is immutable" for name in immutable)]
        if problems:
            raise EventError(422, "Invalid", "; ".join(problems))
        self.present[key] = patched
        return 200


def _problems(namespace: str, event: Event) -> list[str]:
    problems = [f"{name}: no such field" for name in event.keys() - _FIELDS.keys()]
    problems += [
        f"{name}: is not {value}" for name, value in _FIELDS.items() if value and event.get(name) != value
    ]
    metadata, regarding = event["metadata"], event["regarding"]
    if metadata.get("namespace") != namespace or not is_dns_subdomain(metadata["name"]):
        problems.append("metadata: bad names")
    if namespace != (regarding.get("namespace") or "default"):
        problems.append("regarding.namespace: does not match")
    if not regarding.get("kind") or not regarding.get("name"):
        problems.append("regarding: names nothing")
    if event["type"] not in ("Normal", "Warning"):
        problems.append("type: has invalid value")
    problems += [
        f"{name}: must have between 1 and 128 characters"
        for name in ("reason", "action", "reportingInstance")
        if not 1 <= len(event.get(name, "").encode()) <= 128
    ]
    if not _QUALIFIED_NAME.fullmatch(event.get("reportingController", "")):
        problems.append("reportingController: is no qualified name")
    if len(event["note"].encode()) > 1024:
        problems.append("note: can have at most 1024 characters")
    problems += [*_time_problems("eventTime", event.get("eventTime"))]
    if (series := event.get("series")) is not None:
        if series["count"] < 2:
            problems.append("series.count: should be at least 2")
        problems += [*_time_problems("series.lastObservedTime", series.get("lastObservedTime"))]
    return problems


def _time_problems(name: str, text: str | None) -> list[str]:
    """MicroTime, which has exactly six digits when an API server writes it."""
    try:
        datetime.strptime(text or "", "%Y-%m-%dT%H:%M:%S.%fZ")
    except ValueError:
        return [f"{name}: {text!r} is no time"]
    return []
