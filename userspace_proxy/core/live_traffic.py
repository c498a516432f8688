"""What goes on in a worker right now, as plain values: its connections, and the state of its endpoints.

A worker says it when it is asked; nothing of it is kept for that. Bytes are the kernel's own count of what
the client has sent and has acknowledged, so that connections need not count for themselves.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from userspace_proxy.core.relay_state import HalfState, RelayState
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


class ConnectionQuery(msgspec.Struct, frozen=True, array_like=True):
    """Which connections are meant; what is left empty limits nothing.

    `service` is `namespace/name`, for all ports, or `namespace/name:port`. Addresses are IPs in their
    canonical spelling.
    """

    service: str = ""
    client: str = ""
    endpoint_address: str = ""
    endpoint_port: int = 0

    def has_service_port(self, key: str) -> bool:
        """Whether connections of the Service port are meant."""
        label = key.partition(" ")[0]
        return self.service in ("", label, label.partition(":")[0])

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
