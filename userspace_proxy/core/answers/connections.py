"""The connections that go on now."""

from __future__ import annotations

from userspace_proxy.core.answers.shape import Parameters, Shape
from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.live_traffic import LiveConnection
from userspace_proxy.core.service_port import Port, ServicePortName
from userspace_proxy.core.traffic_counters import EndpointKey


class ConnectionsQuestion(Parameters, frozen=True):
    """Those of a Service or one of its ports, of a client (an IP address), to an endpoint (an address, with a
    port or for all); "" is all. `limit` of them at most, the oldest; 0: all.
    """

    service: str = ""
    client: str = ""
    endpoint: str = ""
    limit: int = 0


class ConnectionAnswer(Shape, frozen=True):
    """A TCP connection, or a UDP flow, and the pid of the worker that carries it (0: not to be seen).

    `state` is connecting, established, client-finished or endpoint-finished (one side has sent all that it
    will); of a flow unanswered or answered. Where it is `draining` its endpoint gets nothing new any more.
    What is not known is None: `frontend` of many a flow, `endpoint` before one is tried, bytes of flows.
    """

    service_port: str
    protocol: str
    family: str
    client: str
    frontend: str | None
    endpoint: str | None
    state: str
    draining: bool
    age_seconds: float
    bytes_in: int | None
    bytes_out: int | None
    worker: int


class ConnectionsAnswer(Shape, frozen=True):
    """Some connections. The answer may come in several of these; the last has the numbers.

    So many more were `left_out` for the limit. `workers_not_asked` are the pids of workers of an earlier
    agent, which drain and may not understand the question.
    """

    connections: tuple[ConnectionAnswer, ...] = ()
    left_out: int = 0
    workers_not_asked: tuple[int, ...] = ()


def describe_connection(
    connection: LiveConnection, worker: int, frontend: EndpointKey | None
) -> ConnectionAnswer:
    """`frontend` is the one that its Service port has, if that is the only one."""
    name = ServicePortName.from_key(connection.service_port)
    return ConnectionAnswer(
        service_port=str(name),
        protocol=name.protocol.value,
        family=name.family.value,
        client=_text(connection.client),
        frontend=_text_or_none(connection.frontend or frontend),
        endpoint=_text_or_none(connection.endpoint),
        state=connection.state.value,
        draining=connection.is_draining,
        age_seconds=round(connection.age_seconds, 3),
        bytes_in=connection.bytes_in,
        bytes_out=connection.bytes_out,
        worker=worker,
    )


def _text(key: EndpointKey) -> str:
    address, port = key
    return str(Endpoint(address, Port(port)))


def _text_or_none(key: EndpointKey | None) -> str | None:
    return None if key is None else _text(key)
