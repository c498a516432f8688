"""How the agent does."""

from __future__ import annotations

from userspace_proxy.core.answers.endpoints import EndpointHealth
from userspace_proxy.core.answers.shape import Shape


class WorkerStatus(Shape, frozen=True):
    """A worker process. `pid` is 0 if it cannot be seen from here."""

    number: int
    pid: int
    service_ports: int


class LeftOutEndpoint(Shape, frozen=True):
    """An endpoint of a Service port that gets nothing new now, and why: `health`."""

    service_port: str
    protocol: str
    family: str
    endpoint: str
    health: EndpointHealth


class Status(Shape, frozen=True):
    """So many endpoints of all Service ports are ejected, and so many taken out by an operator; `left_out`
    has the first of them.
    """

    version: str
    pid: int
    node: str
    uptime_seconds: float
    workers: tuple[WorkerStatus, ...]
    ejected_endpoints: int = 0
    taken_out_endpoints: int = 0
    left_out: tuple[LeftOutEndpoint, ...] = ()
