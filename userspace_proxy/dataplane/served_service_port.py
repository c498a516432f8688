"""What a worker keeps of one Service port: its listeners, balancing, limits and counters."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from userspace_proxy.core.admission import Admission, Room
from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.live_traffic import EndpointState, ServicePortState, TrafficClassState
from userspace_proxy.core.load_balancer import LoadBalancer
from userspace_proxy.core.service_port import Port, TrafficPolicy
from userspace_proxy.core.traffic_counters import EndpointKey, ServicePortCounters
from userspace_proxy.dataplane.ejection_reports import EjectionReports
from userspace_proxy.dataplane.inherited import Flow, Inherited
from userspace_proxy.dataplane.limit_reports import LimitReports
from userspace_proxy.dataplane.messages import ListenerKey
from userspace_proxy.dataplane.succession import AffineClient
from userspace_proxy.dataplane.tcp_listener import TcpListener
from userspace_proxy.dataplane.udp_flow import UdpFlow
from userspace_proxy.dataplane.udp_flow_cap import FlowCap, FlowShare
from userspace_proxy.dataplane.udp_listener import UdpListener


@dataclass(frozen=True, slots=True)
class ServedListener:
    policy: TrafficPolicy
    socket: TcpListener | UdpListener

    def close(self, *, serve_waiting: bool) -> None:
        if serve_waiting and isinstance(self.socket, TcpListener):
            self.socket.serve_waiting()
        self.socket.close()


class ServedServicePort:
    """What the worker keeps of one Service port, which may still carry connections after it was removed."""

    __slots__ = (
        "admission",
        "balancer",
        "counters",
        "flows",
        "given_clients",
        "key",
        "listed",
        "listeners",
        "reports",
        "taken_out_timer",
    )

    def __init__(
        self,
        key: str,
        label: str,
        room: Room,
        flow_cap: FlowCap,
        random: Random,
        ejection_reports: EjectionReports,
    ) -> None:
        self.key = key
        self.admission = Admission(room)
        self.given_clients = 0
        self.listed: frozenset[EndpointKey] = frozenset()
        self.counters = ServicePortCounters()
        self.balancer = LoadBalancer(
            random,
            ejection_reports.of(label, self.counters),
            load=lambda endpoint: self.counters.active_at(endpoint.address, endpoint.port),
        )
        self.reports = LimitReports(label, self.counters)
        self.flows = FlowShare(flow_cap, self.reports)
        self.listeners: dict[ListenerKey, ServedListener] = {}
        self.taken_out_timer: asyncio.TimerHandle | None = None

    def stop_timer(self) -> None:
        """No endpoint's time of being taken out is to end by itself."""
        if self.taken_out_timer is not None:
            self.taken_out_timer.cancel()
            self.taken_out_timer = None

    def count(self) -> ServicePortCounters:
        """What it has carried until now."""
        self.counters.forget_departed(self.listed)
        self.counters.ejected = len(self.balancer.ejected)
        return self.counters

    @property
    def is_busy(self) -> bool:
        """Whether it has connections, be they on their way to an endpoint, or flows."""
        return bool(self.counters.active or self.admission.admitted)

    def live_flows(self) -> Iterator[UdpFlow]:
        for _, listener in self._udp_listeners():
            yield from listener.flows

    def state(self, client: str | None, now: float) -> ServicePortState:
        """How it is, and where the next connection goes, of `client` (an IP address) or of somebody."""
        policies = dict.fromkeys(listener.policy for listener in self.listeners.values())
        classes = [self._class_state(policy, client, now) for policy in policies]
        known = {endpoint for each in classes for endpoint in each.usable}
        known.update(endpoint for endpoint, each in self.counters.endpoints.items() if each.active)
        bound_to = None if client is None else self.balancer.bound_endpoint(client, now)
        return ServicePortState(
            tuple(self._endpoint_state(endpoint, now) for endpoint in sorted(known)),
            tuple(classes),
            None if bound_to is None else _key_of(bound_to),
        )

    def _class_state(self, policy: TrafficPolicy, client: str | None, now: float) -> TrafficClassState:
        balancer = self.balancer
        usable = balancer.usable(policy)
        return TrafficClassState(
            policy.value,
            tuple(map(_key_of, usable)),
            tuple(sorted(_key_of(each) for each in usable if balancer.leaves_out(policy, each))),
            tuple(map(_key_of, balancer.peek(policy, client, now))),
        )

    def _endpoint_state(self, endpoint: EndpointKey, now: float) -> EndpointState:
        address, port = endpoint
        active = self.counters.active_at(address, port)
        suspect = self.balancer.ejections.suspects.get(Endpoint(address, Port(port)))
        if suspect is None:
            return EndpointState(endpoint, active)
        ejected_seconds = max(0.0, suspect.retry_at - now) if suspect.seconds else None
        return EndpointState(endpoint, active, suspect.failures, ejected_seconds, suspect.is_probed)

    def _udp_listeners(self) -> Iterator[tuple[ListenerKey, UdpListener]]:
        for key, listener in self.listeners.items():
            if isinstance(listener.socket, UdpListener):
                yield key, listener.socket

    def stop_reading(self) -> None:
        for _, listener in self._udp_listeners():
            listener.stop_reading()

    def drain(self) -> bool:
        """Whether it is done with its listeners."""
        return not sum(listener.drain() for _, listener in self._udp_listeners())

    def read_again(self) -> None:
        self.given_clients = 0
        for _, listener in self._udp_listeners():
            listener.read()

    def give_clients(self, key: str, most: int, now: float) -> list[AffineClient]:
        clients = self.balancer.affine_clients(now, self.given_clients, self.given_clients + most)
        self.given_clients += len(clients)
        return [
            AffineClient(key, address, (endpoint.address, endpoint.port), silent_seconds)
            for address, endpoint, silent_seconds in clients
        ]

    def give_flows(self, key: str, most: int) -> list[Flow]:
        flows: list[Flow] = []
        for _, listener in self._udp_listeners():
            flows += listener.hand_over(key, most - len(flows))
        return flows

    def inherit(self, key: str, inherited: Inherited, now: float) -> None:
        for client in inherited.take_clients(key):
            address, port = client.endpoint
            endpoint = Endpoint(address, Port(port))
            self.balancer.settle(client.address, endpoint, now - client.silent_seconds)
        flows = [
            (listener, held, sock)
            for listener_key, listener in self._udp_listeners()
            for held, sock in inherited.take_flows(key, listener_key.proxy_port)
        ]
        # As they were used: who was idle for longest is the first to expire, and to leave for another one.
        for udp_listener, held, sock in sorted(flows, key=lambda flow: -flow[1].idle_seconds):
            udp_listener.adopt(held, sock)


def _key_of(endpoint: Endpoint) -> EndpointKey:
    return endpoint.address, endpoint.port
