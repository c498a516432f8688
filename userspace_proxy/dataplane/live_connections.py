"""The connections and flows of a worker, listed for whoever asks, and nothing on their way for it.

What is asked of the kernel (who the client is, where it sent to, how many bytes have passed) is asked when a
connection is described: some microseconds each. So a listing goes in portions, between which clients have
their turns.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final, Protocol

from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.live_traffic import ConnectionQuery, ConnectionState, LiveConnection
from userspace_proxy.core.traffic_counters import EndpointKey, ServicePortCounters
from userspace_proxy.dataplane.poller import Socket
from userspace_proxy.dataplane.tcp_options import original_destination, read_progress

_DESCRIBED_AT_ONCE: Final = 64
_LOOKED_AT_AT_ONCE: Final = 256
"""Half a millisecond either way, where each is asked for its client."""


class Connection(Protocol):
    """What can be listed."""

    came_at: float

    @property
    def counters(self) -> ServicePortCounters:
        """Its Service port's."""

    @property
    def leads_to(self) -> Endpoint | None: ...

    @property
    def live_state(self) -> ConnectionState: ...

    def client_address(self) -> EndpointKey:
        """Raises OSError if it is over."""

    def tcp_client(self) -> Socket | None:
        """Where the kernel knows more; None of a flow."""


class ServicePort(Protocol):
    """Whose connections they are. The `listed` endpoints get new ones."""

    @property
    def key(self) -> str: ...

    @property
    def listed(self) -> Collection[EndpointKey]: ...


class ConnectionListing:
    """Those of `connections` that `query` means, as they are `now`, when it is made.

    `service_ports` are the worker's, by the identity of their counters.
    """

    def __init__(
        self,
        connections: Sequence[Connection],
        service_ports: Mapping[int, ServicePort],
        query: ConnectionQuery,
        now: float,
    ) -> None:
        self._left = len(connections)
        self._connections: Iterator[Connection] = iter(connections)
        self._service_ports = service_ports
        self._query = query
        self._is_of_meant: dict[int, bool] = {}
        self._now = now

    @property
    def is_complete(self) -> bool:
        return not self._left

    def portion(self, most: int) -> tuple[list[LiveConnection], int]:
        """The next ones, `most` at most, and how many beyond that are left out. Some may remain."""
        described: list[LiveConnection] = []
        left_out = 0
        for _ in range(min(_LOOKED_AT_AT_ONCE, self._left)):
            self._left -= 1
            connection = next(self._connections)
            number = id(connection.counters)
            try:
                if not (self._is_of(number) and self._is_meant(connection)):
                    continue
                if len(described) == most:
                    left_out += 1
                    continue
                described.append(_described(connection, self._service_ports[number], self._now))
            except OSError:  # it has ended since
                continue
            if len(described) == _DESCRIBED_AT_ONCE:
                break
        return described, left_out

    def _is_of(self, number: int) -> bool:
        """Whether the Service port is meant that has counters of this identity."""
        is_meant = self._is_of_meant.get(number)
        if is_meant is None:
            service_port = self._service_ports.get(number)
            is_meant = service_port is not None and self._query.has_service_port(service_port.key)
            self._is_of_meant[number] = is_meant
        return is_meant

    def _is_meant(self, connection: Connection) -> bool:
        query = self._query
        return query.has_endpoint(_key_of(connection.leads_to)) and (
            not query.client or query.has_client(connection.client_address()[0])
        )


def _described(connection: Connection, service_port: ServicePort, now: float) -> LiveConnection:
    endpoint = _key_of(connection.leads_to)
    client = connection.tcp_client()
    received, acknowledged = (None, None) if client is None else read_progress(client)
    return LiveConnection(
        service_port=service_port.key,
        client=connection.client_address(),
        frontend=None if client is None else original_destination(client),
        endpoint=endpoint,
        state=connection.live_state,
        is_draining=endpoint is not None and endpoint not in service_port.listed,
        age_seconds=max(0.0, now - connection.came_at),
        bytes_in=received,
        bytes_out=acknowledged,
    )


def _key_of(endpoint: Endpoint | None) -> EndpointKey | None:
    return None if endpoint is None else (endpoint.address, endpoint.port)
