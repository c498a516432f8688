"""A worker: the Service ports it was given, served in one event loop.

A `Worker` knows nothing of processes, channels or privileges, so tests and embedders run it in a loop of
their own. It owns the listening sockets from the moment it gets them. Whatever it is told is a whole state:
it compares that with what it has, and saying it again changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from operator import attrgetter
from random import Random
from typing import Final

from userspace_proxy.core.admission import (
    CLIENTS_SHARE,
    TCP_DESCRIPTORS,
    UNLIMITED,
    Room,
)
from userspace_proxy.core.balancing import Balancing
from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.live_traffic import ConnectionQuery, ServicePortState
from userspace_proxy.core.service_port import IPFamily, Port, Protocol, TrafficPolicy
from userspace_proxy.core.traffic_counters import ServicePortCounters
from userspace_proxy.dataplane.dialled_addresses import is_dialled
from userspace_proxy.dataplane.ejection_reports import EjectionReports
from userspace_proxy.dataplane.endpoint_removals import EndpointRemovals, Listed
from userspace_proxy.dataplane.inherited import Flow, Inherited
from userspace_proxy.dataplane.live_connections import Connection, ConnectionListing
from userspace_proxy.dataplane.messages import (
    ListenerConfig,
    ListenerKey,
    ServicePortConfig,
    WorkerLimits,
)
from userspace_proxy.dataplane.peer_watch import TcpTimeouts
from userspace_proxy.dataplane.poller import Poller
from userspace_proxy.dataplane.served_service_port import ServedListener, ServedServicePort
from userspace_proxy.dataplane.splice import PipePool
from userspace_proxy.dataplane.succession import AffineClient
from userspace_proxy.dataplane.tcp_connect import TcpConnects, TcpRoute
from userspace_proxy.dataplane.tcp_listener import BURST, SHARED_BURST, TcpListener
from userspace_proxy.dataplane.tcp_relay import TcpRelays
from userspace_proxy.dataplane.udp_flow_cap import FlowCap
from userspace_proxy.dataplane.udp_listener import UdpListener
from userspace_proxy.errors import WorkerError

logger = logging.getLogger(__name__)

_OWN_DESCRIPTORS: Final = 24
"""What a worker has open for itself: loop and poller, standard streams, and sockets to talk to agents."""
_MAX_PIPES: Final = 128
_PIPES_SHARE: Final = 16
"""Of the descriptors one in so many may be a pipe's end: where there are few, copying has to do."""

_STATES_AT_ONCE: Final = 200
"""Of so many endpoints the state is read at a time, which takes half a millisecond."""

_ADDRESS_FAMILY = {IPFamily.IPV4: socket.AF_INET, IPFamily.IPV6: socket.AF_INET6}


class Worker:
    """Serves Service ports. `random` decides where in the balancing the start lies; `ran_short` is
    `TcpConnects`'.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        limits: WorkerLimits,
        random: Random,
        ran_short: Callable[[], None] = lambda: None,
    ) -> None:
        self._loop = loop
        self._random = random
        self._dials_any_address = limits.dials_any_address
        self._poller = Poller(loop, _report)
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        max_pipes = min(_MAX_PIPES, descriptors // (2 * _PIPES_SHARE))
        self._descriptors = max(0, descriptors - _OWN_DESCRIPTORS - 2 * max_pipes)
        self._others = 0
        self._room = Room(self._descriptors)
        self._relays = TcpRelays(loop, self._poller, PipePool(max_lent=max_pipes), _timeouts(limits))
        self._ejection_reports = EjectionReports(loop.time)
        self._connects = TcpConnects(loop, self._poller, self._relays, ran_short)
        self._removals = EndpointRemovals(loop, self._connects)
        max_udp_flows = _default_udp_flows() if limits.max_udp_flows is None else limits.max_udp_flows
        self._flow_cap = FlowCap(max_udp_flows, loop, self._room)
        self._service_ports: dict[str, ServedServicePort] = {}
        self._removed: dict[str, ServedServicePort] = {}
        self._inherited = Inherited()

    def configure(
        self,
        service_ports: Sequence[ServicePortConfig],
        removed: Sequence[str],
        sockets: Mapping[ListenerKey, socket.socket],
    ) -> None:
        """Serve `service_ports` as they stand here, and stop serving those whose keys are in `removed`.

        `sockets` has a bound socket (TCP: listening) for each listener that is new to its Service port; they
        are the worker's from here on, whatever happens. One for a listener that is not new takes its place.
        They are made non-blocking, and stay so for whoever holds duplicates: O_NONBLOCK is shared.
        Listeners that a Service port no longer names are closed; connections that they accepted go on.
        Raises WorkerError, and has changed nothing, if a socket is missing.
        """
        given = dict(sockets)
        self._forget_finished()
        try:
            self._check_sockets(service_ports, given)
            for key in removed:
                self._remove(key, serve_waiting=True)
            self._removals.update([self._serve(config, given) for config in service_ports])
        finally:
            self._inherited.close()
            for sock in given.values():
                sock.close()
            self._measure_room()

    def leave_room(self, descriptors: int) -> None:
        """So many descriptors of this process are others'."""
        self._others = descriptors
        self._measure_room()

    def _measure_room(self) -> None:
        listeners = sum(len(each.listeners) for each in self._service_ports.values())
        self._room.capacity = self._descriptors - listeners - self._others

    def inherit(self, flows: Iterable[Flow], clients: Iterable[AffineClient]) -> None:
        """Go on with these as soon as `configure`, the next time, brings the listeners they belong to."""
        self._inherited.add(flows, clients)

    def hand_over(
        self, keys: Iterable[str], *, most_flows: int, most_clients: int
    ) -> tuple[list[Flow], list[AffineClient], bool]:
        """Read no more from these Service ports' listeners, and give up their flows and clients.

        TCP connections go on. Of flows and clients no more than that many; True if these were the last: then
        the listeners are closed. The flows' sockets are the caller's to close.
        """
        flows: list[Flow] = []
        clients: list[AffineClient] = []
        names = [key for key in keys if key in self._service_ports]
        for key in names:
            self._service_ports[key].stop_reading()
        for key in names:
            service_port = self._service_ports[key]
            clients += service_port.give_clients(key, most_clients - len(clients), self._loop.time())
            flows += service_port.give_flows(key, most_flows - len(flows))
            if len(flows) == most_flows or len(clients) == most_clients:
                return flows, clients, False
            self._remove(key, serve_waiting=False)  # the successor has the same sockets
        return flows, clients, True

    def drain(self) -> int:
        """Take nothing new; how many connections and flows go on. To be asked again until none do.

        A UDP flow goes on while its client waits for an answer, which leaves through the listener.
        """
        for key in [key for key, service_port in self._service_ports.items() if service_port.drain()]:
            self._remove(key, serve_waiting=True)
        return self.active

    def serves(self, key: str) -> bool:
        """Whether the Service port has listeners here."""
        return key in self._service_ports

    def read_again(self) -> None:
        """Whoever was taking listeners over is gone: read from those that it has not been given yet."""
        for service_port in self._service_ports.values():
            service_port.read_again()

    def counted(self) -> list[str]:
        """The keys of Service ports that have counters: a removed one until its last connection has ended."""
        self._forget_finished()
        return [*self._service_ports, *(self._removed.keys() - self._service_ports.keys())]

    def counters(self, keys: Iterable[str]) -> dict[str, ServicePortCounters]:
        """Those of Service ports, by their keys; one that is gone is left out."""
        counters = {}
        for key in keys:
            service_port = self._service_ports.get(key) or self._removed.get(key)
            if service_port is not None:
                counters[key] = service_port.count()
        return counters

    def list_connections(self, query: ConnectionQuery) -> ConnectionListing:
        """Those that `query` means and that go on now, the oldest first. They are described as the listing is
        read.
        """
        service_ports = [*self._service_ports.values(), *self._removed.values()]
        flows = (flow for each in service_ports if each.counters.active for flow in each.live_flows())
        connections: list[Connection] = [*self._relays, *self._connects, *flows]
        connections.sort(key=attrgetter("came_at"))  # next to nothing: most are in order
        return ConnectionListing(
            connections,
            {id(each.counters): each for each in service_ports},
            query,
            self._loop.time(),
        )

    def states(self, keys: Sequence[str], client: str | None) -> tuple[dict[str, ServicePortState], int]:
        """How the first of these Service ports are, by their keys, and how many were looked for.

        One that is not served is left out. Where they have many endpoints the rest is to be asked for.
        """
        now = self._loop.time()
        states: dict[str, ServicePortState] = {}
        endpoints = looked_at = 0
        for key in keys:
            service_port = self._service_ports.get(key)
            if service_port is not None:
                states[key] = service_port.state(client, now)
                endpoints += len(states[key].endpoints)
            looked_at += 1
            if endpoints >= _STATES_AT_ONCE:
                break
        return states, looked_at

    @property
    def active(self) -> int:
        """How many connections and flows go on, connections on their way to an endpoint included."""
        service_ports = chain(self._service_ports.values(), self._removed.values())
        return sum(each.counters.active for each in service_ports) + len(self._connects)

    def limit(self, limits: WorkerLimits) -> None:
        """The agent has other limits now. TCP's take effect; the rest stays as it was at the start."""
        self._relays.watch.set(_timeouts(limits))

    def _forget_finished(self) -> None:
        for key in [key for key, gone in self._removed.items() if not gone.is_busy]:
            del self._removed[key]

    def close(self) -> None:
        """Close every listener, reset every connection, end every flow. Safe to repeat."""
        for service_port in (*self._service_ports.values(), *self._removed.values()):
            service_port.stop_timer()
            for listener in service_port.listeners.values():
                listener.close(serve_waiting=False)  # a successor has the same sockets
        self._service_ports.clear()
        self._removals.close()
        self._connects.close()
        self._relays.close()
        self._poller.close()

    def _check_sockets(
        self, service_ports: Sequence[ServicePortConfig], sockets: Mapping[ListenerKey, socket.socket]
    ) -> None:
        for config in service_ports:
            known = self._service_ports.get(config.key)
            for listener in config.listeners:
                key = ListenerKey(config.protocol, listener.proxy_port)
                has = None if known is None else known.listeners.get(key)
                if key not in sockets and (has is None or has.policy.value != listener.policy):
                    raise WorkerError(
                        f"{config.label}: no socket came for {config.protocol} port {listener.proxy_port}"
                    )

    def _serve(self, config: ServicePortConfig, sockets: dict[ListenerKey, socket.socket]) -> Listed:
        service_port = self._service_ports.get(config.key)
        if service_port is None:
            # It may be back while connections of its earlier life go on: they are counted together.
            service_port = self._removed.pop(config.key, None) or ServedServicePort(
                config.key,
                config.label,
                self._room,
                self._flow_cap,
                self._random,
                self._ejection_reports,
            )
            self._service_ports[config.key] = service_port
        service_port.balancer.set_balancing(Balancing(config.balancing))
        service_port.balancer.set_affinity(config.affinity_timeout_seconds)
        self._take_out(service_port, config)
        self._limit(service_port, config)
        wanted = {ListenerKey(config.protocol, listener.proxy_port) for listener in config.listeners}
        for listener in config.listeners:
            endpoints = self._dialled_endpoints(config, listener)
            policy = TrafficPolicy(listener.policy)
            service_port.balancer.set_endpoints(policy, endpoints)
            self._serve_listener(config, listener, policy, endpoints, service_port, sockets)
        service_port.inherit(config.key, self._inherited, self._loop.time())
        usable = (listener.endpoints for listener in config.listeners)
        service_port.listed = frozenset(chain(*usable, config.idle_endpoints))
        service_port.counters.forget_departed(service_port.listed)
        listed = {Endpoint(address, Port(port)) for address, port in service_port.listed}
        for key in [key for key in service_port.listeners if key not in wanted]:
            service_port.listeners.pop(key).close(serve_waiting=True)
        service_port.balancer.keep_classes({listener.policy for listener in service_port.listeners.values()})
        return Listed(service_port.counters, config.label, listed, config.drain_removed_seconds)

    def _take_out(self, service_port: ServedServicePort, config: ServicePortConfig) -> None:
        """Leave out what an operator has taken out, and come back when the time of some is over."""
        service_port.stop_timer()
        now = self._loop.time()
        left = [each for each in config.taken_out if each.until is None or each.until > now]
        before = service_port.balancer.ejections.taken_out
        service_port.balancer.take_out(frozenset(Endpoint(each.address, Port(each.port)) for each in left))
        for endpoint in sorted(before - service_port.balancer.ejections.taken_out):
            logger.info(
                "Endpoint is taken out no longer: service_port=%s endpoint=%s", config.label, endpoint
            )
        ends = min((each.until for each in left if each.until is not None), default=None)
        if ends is not None:
            service_port.taken_out_timer = self._loop.call_at(ends, self._take_out, service_port, config)

    def _dialled_endpoints(self, config: ServicePortConfig, listener: ListenerConfig) -> tuple[Endpoint, ...]:
        endpoints = tuple(
            Endpoint(address, Port(port))
            for address, port in listener.endpoints
            if self._dials_any_address or is_dialled(address)
        )
        refused = len(listener.endpoints) - len(endpoints)
        if refused:
            logger.error(
                "Endpoints refused that no worker dials: service_port=%s endpoints=%d", config.label, refused
            )
        return endpoints

    def _limit(self, service_port: ServedServicePort, config: ServicePortConfig) -> None:
        """What is not said is without limit; for one client it is a part of what the worker has room for."""
        most, most_per_client = config.max_connections, config.max_per_client
        admission, flows = service_port.admission, service_port.flows.flows
        admission.max_connections = flows.max_flows = UNLIMITED if most is None else most
        admission.pod_cidrs = flows.pod_cidrs = config.pod_cidrs
        if most_per_client is not None:
            admission.max_per_client = flows.max_per_client = most_per_client
            return
        admission.max_per_client = max(1, self._descriptors // TCP_DESCRIPTORS // CLIENTS_SHARE)
        flows.max_per_client = max(1, self._flow_cap.flows.max_flows // CLIENTS_SHARE)

    def _serve_listener(
        self,
        config: ServicePortConfig,
        listener_config: ListenerConfig,
        policy: TrafficPolicy,
        endpoints: tuple[Endpoint, ...],
        service_port: ServedServicePort,
        sockets: dict[ListenerKey, socket.socket],
    ) -> None:
        key = ListenerKey(config.protocol, listener_config.proxy_port)
        sock = sockets.pop(key, None)
        if sock is not None:
            if key in service_port.listeners:
                service_port.listeners.pop(key).close(serve_waiting=True)
            opened = self._open(sock, config, policy, service_port)
            service_port.listeners[key] = ServedListener(policy, opened)
        listener = service_port.listeners[key].socket
        if isinstance(listener, TcpListener):
            listener.burst = BURST if config.workers == 1 else SHARED_BURST
            listener.route = replace(listener.route, sends_proxy_protocol=config.sends_proxy_protocol)
        else:
            listener.update(config.udp_unanswered_seconds, config.udp_answered_seconds)
            listener.endpoints_changed(endpoints)

    def _open(
        self,
        sock: socket.socket,
        config: ServicePortConfig,
        policy: TrafficPolicy,
        service_port: ServedServicePort,
    ) -> TcpListener | UdpListener:
        sock.setblocking(False)
        balancer, counters = service_port.balancer, service_port.counters
        if Protocol(config.protocol) is Protocol.UDP:
            return UdpListener(sock, self._poller, self._loop, balancer, policy, counters, service_port.flows)
        family = _ADDRESS_FAMILY[IPFamily(config.family)]
        route = TcpRoute(service_port.admission, balancer, policy, family, counters, service_port.reports)
        return TcpListener(sock, self._poller, self._loop, self._connects, route)

    def _remove(self, key: str, *, serve_waiting: bool) -> None:
        service_port = self._service_ports.pop(key, None)
        if service_port is None:
            return
        service_port.stop_timer()
        for listener in service_port.listeners.values():
            listener.close(serve_waiting=serve_waiting)
        service_port.listeners.clear()
        service_port.listed = frozenset()
        self._removed[key] = service_port


def _timeouts(limits: WorkerLimits) -> TcpTimeouts:
    return TcpTimeouts(limits.tcp_peer_timeout_seconds, limits.tcp_user_timeout_seconds)


def _default_udp_flows() -> int:
    """Half of the descriptors that the process may have; a flow takes one, a TCP connection two."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft // 2


def _report(error: Exception) -> None:
    logger.error("a data path callback failed", exc_info=error)
