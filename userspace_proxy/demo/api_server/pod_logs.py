"""Logs of pods: where they come from, and which one is asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from userspace_proxy.demo.api_server.objects import Object
from userspace_proxy.demo.api_server.reads import is_true, number
from userspace_proxy.demo.api_server.statuses import bad_request

_UNKNOWN_OPTIONS: Final = ("sinceSeconds", "sinceTime", "timestamps", "limitBytes")


class PodLogsError(Exception):
    """There is no log to give; the text says why."""


class PodLogs(Protocol):
    """Where the logs of pods come from."""

    def __call__(
        self,
        namespace: str,
        name: str,
        container: str,
        follow: bool,
        tail_lines: int | None,
        previous: bool,
    ) -> AsyncIterator[bytes]:
        """A container's output; with `follow` until the container ends. Raises PodLogsError."""


@dataclass(frozen=True, slots=True)
class LogRequest:
    """Which log is asked for, and how much of it (None: all)."""

    container: str
    follow: bool
    tail_lines: int | None
    previous: bool


def log_request(pod: Object, query: Mapping[str, str]) -> LogRequest:
    """What a request asks for. Raises StatusError (400) for what cannot be had."""
    if unknown := [name for name in _UNKNOWN_OPTIONS if query.get(name, "") not in ("", "false", "0")]:
        raise bad_request(f"this API server gives logs without {', '.join(unknown)}: leave that out")
    return LogRequest(
        _container(pod, query.get("container", "")),
        is_true(query, "follow"),
        number(query, "tailLines") if query.get("tailLines") else None,
        is_true(query, "previous"),
    )


def _container(pod: Object, asked: str) -> str:
    """The container whose log is wanted: a pod's only one needs no name."""
    known: list[str] = [container["name"] for container in pod["spec"]["containers"]]
    name = pod["metadata"]["name"]
    if asked in known:
        return asked
    if asked:
        raise bad_request(f"container {asked} is not valid for pod {name}")
    if len(known) > 1:
        choices = " ".join(known)
        raise bad_request(f"a container name must be specified for pod {name}, choose one of: [{choices}]")
    return known[0]
