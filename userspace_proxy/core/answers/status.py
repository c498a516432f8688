"""How the agent does."""

from __future__ import annotations

from userspace_proxy.core.answers.shape import Shape


class WorkerStatus(Shape, frozen=True):
    """A worker process. `pid` is 0 if it cannot be seen from here."""

    number: int
    pid: int
    service_ports: int


class Status(Shape, frozen=True):
    version: str
    pid: int
    node: str
    uptime_seconds: float
    workers: tuple[WorkerStatus, ...]
