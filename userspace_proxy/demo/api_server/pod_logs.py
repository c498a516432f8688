"""Logs of pods: where they come from, and which one is asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

from userspace_proxy.demo.api_server.objects import Object
from userspace_proxy.demo.api_server.reads import is_true, number
from userspace_proxy.demo.api_server.statuses import bad_request

_LONG_AGO_SECONDS: Final = 1_000_000_000
"""Before any log; and what `datetime` can still subtract."""


class PodLogsError(Exception):
    """There is no log to give; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRequest:
    """Which log is asked for, how much of it (None: all), and whether lines begin with their time."""

    container: str
    follow: bool = False
    previous: bool = False
    timestamps: bool = False
    tail_lines: int | None = None
    limit_bytes: int | None = None
    since: datetime | None = None


class PodLogs(Protocol):
    """Where the logs of pods come from."""

    def __call__(self, namespace: str, name: str, asked: LogRequest) -> AsyncIterator[bytes]:
        """A container's output; with `follow` until the container ends. Raises PodLogsError."""


def log_request(pod: Object, query: Mapping[str, str], now: datetime) -> LogRequest:
    """What a request asks for. Raises StatusError (400) for what cannot be had."""
    return LogRequest(
        container=_container(pod, query.get("container", "")),
        follow=is_true(query, "follow"),
        previous=is_true(query, "previous"),
        timestamps=is_true(query, "timestamps"),
        tail_lines=number(query, "tailLines") if query.get("tailLines") else None,
        limit_bytes=number(query, "limitBytes") if query.get("limitBytes") else None,
        since=_since(query, now),
    )


def _since(query: Mapping[str, str], now: datetime) -> datetime | None:
    if query.get("sinceSeconds"):
        return now - timedelta(seconds=min(number(query, "sinceSeconds"), _LONG_AGO_SECONDS))
    text = query.get("sinceTime", "")
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise bad_request(f"sinceTime must be a time as RFC 3339 has it, not {text[:50]}") from error
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _container(pod: Object, asked: str) -> str:
    """The container whose log is wanted: a pod's only one needs no name."""
    known: list[str] = [container["name"] for container in pod["spec"]["containers"]]
    name = pod["metadata"]["name"]
    if asked in known or any(asked == initial["name"] for initial in pod["spec"].get("initContainers", ())):
        return asked
    if asked:
        raise bad_request(f"container {asked} is not valid for pod {name}")
    if len(known) > 1:
        choices = " ".join(known)
        raise bad_request(f"a container name must be specified for pod {name}, choose one of: [{choices}]")
    return known[0]
