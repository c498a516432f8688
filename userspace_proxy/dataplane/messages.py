"""What agent and worker say to each other: whole states, not changes, so that saying it again is harmless.

A message is one msgpack array that starts with its name. `Configure` carries the descriptors of listeners
that are new to the worker beside it, in the order of `new_listeners`; everything else is plain data. The
worker answers every numbered message with the same number, in order.

Both ends are of one version. What an agent says to workers of another one stands in `succession`, and is part
of what these understand too.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

from userspace_proxy.core.balancing import Balancing
from userspace_proxy.core.live_traffic import ConnectionQuery, LiveConnection, ServicePortState
from userspace_proxy.core.traffic_counters import ServicePortCounters
from userspace_proxy.dataplane.succession import (
    Acknowledged,
    AffineClient,
    Drain,
    End,
    GaveUp,
    GiveUp,
    HandBack,
    HandedBack,
    HeldFlow,
    Hello,
    Introduction,
)

MAX_DESCRIPTORS_PER_MESSAGE: Final = 253
"""SCM_MAX_FD, the kernel's limit for one SCM_RIGHTS message; unix(7)."""


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    pass


class ListenerKey(msgspec.Struct, frozen=True, array_like=True):
    """What tells listeners of one node apart: TCP and UDP have port numbers of their own."""

    protocol: str
    proxy_port: int


class ListenerConfig(msgspec.Struct, frozen=True, array_like=True):
    """One listener of a Service port and the endpoints that its class of traffic may use, in API order."""

    policy: str
    proxy_port: int
    endpoints: tuple[tuple[str, int], ...]


class TakenOut(msgspec.Struct, frozen=True, array_like=True):
    """An endpoint that an operator wants left out `until` then, in seconds of CLOCK_MONOTONIC; None: until
    the operator says otherwise.
    """

    address: str
    port: int
    until: float | None


class ServicePortConfig(msgspec.Struct, frozen=True, array_like=True):
    """The whole state of one Service port on a worker that serves it.

    `key` is `ServicePortName.key`, `label` what logs call it (`namespace/name:port`). All listeners of a
    Service port share its affinity; each has its own endpoints. `udp_*_seconds` is how long a UDP flow
    may be idle before and after the endpoint has answered. `max_connections` are the Service port's in all,
    `max_per_client` those of one client; None: no limit, and the worker's own. In IPv6 a client is a /64,
    within `pod_cidrs` an address. TCP connections to an endpoint that is neither a listener's nor one of
    `idle_endpoints` end after `drain_removed_seconds`; None: they go on. So many `workers` serve it, and each
    has turns (by `balancing`) and affinity for itself. With `sends_proxy_protocol` TCP endpoints are told of
    the client first (`core.proxy_protocol`). Endpoints that are `taken_out` get nothing new as long as there
    is another.
    """

    key: str
    label: str
    protocol: str
    family: str
    affinity_timeout_seconds: int | None
    udp_unanswered_seconds: float
    udp_answered_seconds: float
    listeners: tuple[ListenerConfig, ...]
    max_connections: int | None = None
    max_per_client: int | None = None
    drain_removed_seconds: float | None = None
    idle_endpoints: tuple[tuple[str, int], ...] = ()
    workers: int = 1
    pod_cidrs: tuple[str, ...] = ()
    balancing: str = Balancing.ROUND_ROBIN.value
    sends_proxy_protocol: bool = False
    taken_out: tuple[TakenOut, ...] = ()


class WorkerLimits(msgspec.Struct, frozen=True, array_like=True):
    """A worker's share of what the node allows. `max_udp_flows` None: as many as descriptors allow.

    Endpoints on loopback, link-local addresses and the like are refused, unless `dials_any_address`: for
    tests and whoever has everything on one machine. The agent never sets it. `peer_watch` says what the
    `tcp_*_seconds` limit; 0 is never.
    """

    max_udp_flows: int | None = None
    dials_any_address: bool = False
    tcp_peer_timeout_seconds: float = 0.0
    tcp_user_timeout_seconds: float = 0.0


class Configure(_Message, frozen=True, tag="configure"):
    """Serve `service_ports` as they stand here, and stop serving those whose keys are in `removed`."""

    sequence: int
    service_ports: tuple[ServicePortConfig, ...]
    removed: tuple[str, ...]
    new_listeners: tuple[ListenerKey, ...]


class ReadCounters(_Message, frozen=True, tag="read-counters"):
    """Say what Service ports have carried, from number `start` on. A worker answers with some, so that
    reading many keeps no client waiting.
    """

    sequence: int
    start: int = 0


class ListConnections(_Message, frozen=True, tag="list-connections"):
    """Say what `query` means of the connections that go on now, `most` of them at most. A worker answers with
    some; `goes_on` asks for the next ones of the same listing.
    """

    sequence: int
    query: ConnectionQuery
    most: int
    goes_on: bool = False


class ReadStates(_Message, frozen=True, tag="read-states"):
    """Say how these Service ports are, and where the next connection of `client` goes; None: of somebody. A
    worker answers with some of them, from the first on.
    """

    sequence: int
    service_ports: tuple[str, ...]
    client: str | None = None


class Keep(_Message, frozen=True, tag="keep"):
    """Hold exactly these sockets for the next agent, by their names. Those of `new` come along."""

    sequence: int
    names: tuple[str, ...]
    new: tuple[str, ...]


class Inherit(_Message, frozen=True, tag="inherit"):
    """Flows, whose descriptors come along, and clients of listeners that the next `Configure` brings."""

    sequence: int
    flows: tuple[HeldFlow, ...]
    clients: tuple[AffineClient, ...]


class Logged(_Message, frozen=True, tag="logged"):
    """Something that a worker logs, for an agent that has adopted it; nobody asked, so `sequence` is 0.

    `level`, `template` and `arguments` are those of Python's logging, `created` is when (seconds since the
    epoch), `trace` a traceback or "".
    """

    sequence: int
    created: float
    level: int
    template: str
    arguments: tuple[int | float | str, ...]
    trace: str = ""


class RanShort(_Message, frozen=True, tag="ran-short"):
    """A worker lacks descriptors or socket memory for new connections; nobody asked, so `sequence` is 0."""

    sequence: int


class Start(_Message, frozen=True, tag="start"):
    """An agent's first message of this version: what holds for the worker from now on.

    `seed` says where in the balancing the random start lies, for a worker that has not started yet.
    `orphan_seconds` is how long it serves without an agent (0: it ends with its agent), `build` and
    `pool_size` are what it introduces itself with to the next one. `log_format` and `verbosity` are the
    agent's log's.
    """

    sequence: int
    limits: WorkerLimits
    seed: int
    orphan_seconds: float
    build: str
    pool_size: int
    log_format: str = "text"
    verbosity: int = 0


class SetVerbosity(_Message, frozen=True, tag="set-verbosity"):
    """From now on the log is to show what `-v VERBOSITY` shows."""

    sequence: int
    verbosity: int


class Counters(_Message, frozen=True, tag="counters"):
    """The answer to `ReadCounters`, by `ServicePortConfig.key`. `following` is where the next begins, None
    after the last.
    """

    sequence: int
    service_ports: dict[str, ServicePortCounters]
    following: int | None


class Connections(_Message, frozen=True, tag="connections"):
    """The answer to `ListConnections`: some, and how many beyond `most` were left out. Unless `is_complete`
    there may be more.
    """

    sequence: int
    connections: tuple[LiveConnection, ...]
    left_out: int
    is_complete: bool


class States(_Message, frozen=True, tag="states"):
    """The answer to `ReadStates`: so many were `looked_at`; those of them that the worker serves are here."""

    sequence: int
    service_ports: dict[str, ServicePortState]
    looked_at: int


AgentMessage: TypeAlias = (
    Start
    | Configure
    | Inherit
    | Keep
    | ReadCounters
    | ListConnections
    | ReadStates
    | SetVerbosity
    | Hello
    | HandBack
    | GiveUp
    | Drain
    | End
)
WorkerMessage: TypeAlias = (
    Acknowledged | Counters | Connections | States | Logged | RanShort | Introduction | HandedBack | GaveUp
)
