"""How the agent does: what it follows and has written, who carries what, and what is wrong."""

from __future__ import annotations

from userspace_proxy.core.answers.endpoints import EndpointHealth
from userspace_proxy.core.answers.shape import Shape


class SourceStatus(Shape, frozen=True):
    """Where objects come from. `is_complete`: everything was listed once, so that Services are served.

    Seconds are how long ago: since when all is followed without a break, and when something was told last;
    None: it is not, it never was. `failing` are sentences.
    """

    place: str
    is_complete: bool
    followed_seconds: float | None
    last_event_seconds: float | None
    failing: tuple[str, ...]


class FamilyStatus(Shape, frozen=True):
    """The rules of a family. `written_by` is nft, legacy or legacy (python-iptables).

    `is_pending`: a change waits for the rules. `last_sync_seconds` is how long ago the last sync was that
    succeeded (None: none has), `last_error` why the one after that failed, `failures` how many have so far.
    """

    family: str
    written_by: str
    is_healthy: bool
    is_pending: bool
    last_sync_seconds: float | None
    last_error: str | None
    failures: int
    portals: int
    rules: int


class WorkerStatus(Shape, frozen=True):
    """A worker process. `pid` is 0 if it cannot be seen from here. `active` are connections and flows."""

    number: int
    pid: int
    service_ports: int
    active: int


class LeftOutEndpoint(Shape, frozen=True):
    """An endpoint of a Service port that gets nothing new now, and why: `health`."""

    service_port: str
    protocol: str
    family: str
    endpoint: str
    health: EndpointHealth


class Status(Shape, frozen=True):
    """`is_node_eligible`: load balancers are told to send new connections here; /healthz says both.

    `leaving_workers` are the pids of those that serve no more and let their connections end.
    So many endpoints of all Service ports are ejected for failing, and so many taken out by an operator;
    `left_out` has the first of them.
    `problems` counts what is wrong with people's objects now; the first of them are `named_problems`.
    """

    version: str
    pid: int
    node: str
    zone: str | None
    uptime_seconds: float
    verbosity: int
    is_healthy: bool
    is_node_eligible: bool
    is_draining: bool
    source: SourceStatus
    families: tuple[FamilyStatus, ...]
    services: int
    service_ports: int
    listeners: int
    unopened_listeners: int
    proxy_ports: str
    max_descriptors: int
    workers: tuple[WorkerStatus, ...]
    leaving_workers: tuple[int, ...]
    workers_replaced: int
    ejected_endpoints: int
    taken_out_endpoints: int
    left_out: tuple[LeftOutEndpoint, ...]
    problems: int
    named_problems: tuple[str, ...]
