"""What goes on in a worker right now, as plain values: its connections, and the state of its endpoints.

A worker says it when it is asked; nothing of it is kept for that. Bytes are the kernel's own count of what
the client has sent and has acknowledged, so that connections need not count for themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

import msgspec

from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.relay_state import HalfState, RelayState
from userspace_proxy.core.service_port import Port, TrafficPolicy
from userspace_proxy.core.traffic_counters import EndpointKey


class ConnectionState(Enum):
    """How far a TCP connection is, or (the last two) a UDP flow."""

    CONNECTING = "connecting"
    ESTABLISHED = "established"
    CLIENT_FINISHED = "client-finished"
    """The client has sent all that it will, the endpoint has not."""
    ENDPOINT_FINISHED = "endpoint-finished"
    UNANSWERED = "unanswered"
    ANSWERED = "answered"


def state_of(relay: RelayState) -> ConnectionState:
    """How far an established connection is."""
    if relay.request is HalfState.CLOSED:
        return ConnectionState.CLIENT_FINISHED
    if relay.response is HalfState.CLOSED:
        return ConnectionState.ENDPOINT_FINISHED
    return ConnectionState.ESTABLISHED


class LiveConnection(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A TCP connection, or a UDP flow. `service_port` is `ServicePortName.key`.

    `frontend` is where the client sent to; None: nobody knows (a UDP flow, or the kernel has forgotten).
    `endpoint` is None before one is tried. If `is_draining`, its endpoint gets nothing new any more: it was
    removed, is not ready, or the whole worker is on its way out. `age_seconds` counts from the client's
    arrival, or from when a worker took a flow over from another one. Of a flow bytes are not known.
    """

    service_port: str
    client: EndpointKey
    frontend: EndpointKey | None
    endpoint: EndpointKey | None
    state: ConnectionState
    is_draining: bool
    age_seconds: float
    bytes_in: int | None = None
    bytes_out: int | None = None


def is_of(service: str, key: str) -> bool:
    """Whether a Service port (its `ServicePortName.key`) is one of `service`, as people write that: its name,
    or `namespace/name`, or either with `:port`.
    """
    label = key.partition(" ")[0]
    if "/" not in service:
        label = label.partition("/")[2]
    return service in (label, label.partition(":")[0])


class ConnectionQuery(msgspec.Struct, frozen=True, array_like=True):
    """Which connections are meant; what is left empty limits nothing.

    `service` is as `is_of` has it; `service_ports` are the keys of others that are meant by it. Addresses are
    IPs in their canonical spelling.
    """

    service: str = ""
    service_ports: frozenset[str] = frozenset()
    client: str = ""
    endpoint_address: str = ""
    endpoint_port: int = 0

    def has_service_port(self, key: str) -> bool:
        """Whether connections of the Service port are meant."""
        return not self.service or key in self.service_ports or is_of(self.service, key)

    def has_endpoint(self, endpoint: EndpointKey | None) -> bool:
        """Whether connections to the endpoint are meant."""
        if not self.endpoint_address:
            return True
        if endpoint is None:
            return False
        address, port = endpoint
        return address == self.endpoint_address and self.endpoint_port in (0, port)

    def has_client(self, address: str) -> bool:
        """Whether connections of the client are meant."""
        return self.client in ("", address)


class EndpointState(msgspec.Struct, frozen=True, array_like=True):
    """How one worker sees an endpoint of a Service port.

    `active` connections or flows go on there. `failures` connects have failed one after the other.
    `ejected_seconds` is None for an endpoint that is not ejected, else how long it is until one connection
    may try it; 0: the next one whose turn it is will. `is_probed`: one does.
    """

    endpoint: EndpointKey
    active: int = 0
    failures: int = 0
    ejected_seconds: float | None = None
    is_probed: bool = False


class TrafficClassState(msgspec.Struct, frozen=True, array_like=True):
    """A class of traffic (`policy`) on one worker.

    `left_out` endpoints get nothing new as long as another one can be had. `next` is where the next
    connection goes, of the client that was asked about, or of somebody: one endpoint, any of several where
    chance or the client's address decides, or none.
    """

    policy: str
    usable: tuple[EndpointKey, ...]
    left_out: tuple[EndpointKey, ...]
    next: tuple[EndpointKey, ...]


class ServicePortState(msgspec.Struct, frozen=True, array_like=True):
    """A Service port on one worker. `bound_to` is what the client that was asked about has by affinity."""

    endpoints: tuple[EndpointState, ...]
    classes: tuple[TrafficClassState, ...]
    bound_to: EndpointKey | None = None


@dataclass(frozen=True, slots=True)
class LiveEndpoint:
    """An endpoint of a Service port, as all workers that serve it see it.

    `active` connections or flows go on there. `failures` connects have failed one after the other, where most
    have. `ejected_seconds` is None if no worker has ejected it, else how long it is until one connection may
    try it; 0: the next one whose turn it is will. `is_probed`: one does. An operator has taken it out
    (`is_taken_out`), for so many more seconds (`taken_out_seconds`; None: until the operator says otherwise).
    """

    active: int = 0
    failures: int = 0
    ejected_seconds: float | None = None
    is_probed: bool = False
    is_taken_out: bool = False
    taken_out_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class LiveClass:
    """A class of traffic of a Service port.

    The `left_out` get nothing new as long as another endpoint can be had. `next` is where the next connection
    of the client that was asked about goes, or of somebody: one endpoint; any of several, where chance, the
    client's address or which worker takes it decides; or none.
    """

    left_out: frozenset[Endpoint]
    next: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class LiveServicePort:
    """A Service port. `endpoints` has those that may be used, and others that connections go on at.

    `bound_to` are the endpoints that the client asked about has by affinity: none, or one for each worker.
    """

    endpoints: Mapping[Endpoint, LiveEndpoint]
    classes: Mapping[TrafficPolicy, LiveClass]
    bound_to: tuple[Endpoint, ...] = ()


NOT_LIVE: Final = LiveServicePort({}, {})
"""One of which no worker says anything."""


def summed_up(
    states: Iterable[ServicePortState], taken_out: Mapping[Endpoint, float | None], now: float
) -> LiveServicePort:
    """What several workers say of one Service port; `taken_out` until when, by the clock of `now`."""
    by_worker = list(states)
    endpoints: dict[Endpoint, LiveEndpoint] = {}
    left_out: dict[TrafficPolicy, set[Endpoint]] = {}
    following: dict[TrafficPolicy, dict[Endpoint, None]] = {}
    for state in by_worker:
        for each in state.endpoints:
            endpoint = _endpoint(each.endpoint)
            known = endpoints.get(endpoint, LiveEndpoint())
            endpoints[endpoint] = _added(known, each)
        for traffic in state.classes:
            policy = TrafficPolicy(traffic.policy)
            left_out.setdefault(policy, set()).update(map(_endpoint, traffic.left_out))
            following.setdefault(policy, {}).update(dict.fromkeys(map(_endpoint, traffic.next)))
    for endpoint, until in taken_out.items():
        if endpoint in endpoints:
            seconds = None if until is None else max(0.0, until - now)
            endpoints[endpoint] = replace(endpoints[endpoint], is_taken_out=True, taken_out_seconds=seconds)
    bound_to = {_endpoint(state.bound_to): None for state in by_worker if state.bound_to is not None}
    return LiveServicePort(
        endpoints,
        {policy: LiveClass(frozenset(left_out[policy]), tuple(following[policy])) for policy in left_out},
        tuple(bound_to),
    )


def _added(known: LiveEndpoint, state: EndpointState) -> LiveEndpoint:
    seconds = [each for each in (known.ejected_seconds, state.ejected_seconds) if each is not None]
    return LiveEndpoint(
        active=known.active + state.active,
        failures=max(known.failures, state.failures),
        ejected_seconds=min(seconds, default=None),
        is_probed=known.is_probed or state.is_probed,
    )


def _endpoint(key: EndpointKey) -> Endpoint:
    address, port = key
    return Endpoint(address, Port(port))
