"""The UDP side of a proxy port: receives from all clients and hands each datagram to its flow.

A flow is known by the client's address and port and by the local address that the datagram was sent to,
which the kernel tells beside each datagram (IP_PKTINFO; ip(7), ipv6(7)).
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Collection, Iterable
from functools import lru_cache
from itertools import islice
from typing import Final

from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.load_balancer import LoadBalancer
from userspace_proxy.core.service_port import Port, TrafficPolicy
from userspace_proxy.core.traffic_counters import ServicePortCounters
from userspace_proxy.dataplane.packet_info import IP_PKTINFO, receive_packet_info
from userspace_proxy.dataplane.poller import READABLE, Poller, Socket
from userspace_proxy.dataplane.received_datagrams import LAYOUTS, RECORD_SIZE, pack_address, unpack_address
from userspace_proxy.dataplane.succession import HeldFlow
from userspace_proxy.dataplane.udp_flow import Control, FlowKey, ListenerFlows, UdpFlow
from userspace_proxy.dataplane.udp_flow_cap import FlowShare

_DRAIN_SECONDS: Final = 5.0
"""How long answers are waited for while nothing new is taken: as a resolver waits; resolv.conf(5)."""


class UdpListener:
    """Serves one proxy port of a UDP Service port.

    `sock` is bound and non-blocking, to the wildcard address or a specific one; it becomes the listener's to
    close. `loop` is the one that `poller` belongs to. `balancer` and `counters` are the Service port's, and
    `policy` says which of its endpoints this listener's clients may use.
    """

    def __init__(
        self,
        sock: socket.socket,
        poller: Poller,
        loop: asyncio.AbstractEventLoop,
        balancer: LoadBalancer,
        policy: TrafficPolicy,
        counters: ServicePortCounters,
        flow_share: FlowShare,
    ) -> None:
        self._flows = ListenerFlows(
            poller, loop, balancer, policy, counters, flow_share, sock.family, sock.sendmsg
        )
        self._sock = sock
        self._fd = sock.fileno()
        self._received = flow_share.received
        self._layout = LAYOUTS[sock.family]
        receive_packet_info(sock)
        self._usable: frozenset[Endpoint] = frozenset()
        self._is_reading = False
        self.read()

    @property
    def active_flows(self) -> int:
        return len(self._flows.by_key)

    @property
    def flows(self) -> Collection[UdpFlow]:
        return self._flows.by_key.values()

    def update(self, unanswered_seconds: float, answered_seconds: float) -> None:
        """How long a flow may be idle until its endpoint has answered, and after that.

        For flows that start, or are answered, from now on.
        """
        self._flows.unanswered_seconds = unanswered_seconds
        self._flows.answered_seconds = answered_seconds

    def endpoints_changed(self, endpoints: Iterable[Endpoint]) -> None:
        """`balancer` has `endpoints` now for this policy: flows to others move at their next datagram."""
        self._usable = frozenset(endpoints)
        for flow in self._flows.by_key.values():
            flow.endpoint_gone = flow.endpoint not in self._usable
        self._flows.silence.forget_all_but(self._usable)

    def read(self) -> None:
        """Take what clients send. Safe to repeat."""
        if not self._is_reading:
            self._flows.poller.register(self._sock.fileno(), self._receive, READABLE)
            self._is_reading = True

    def stop_reading(self) -> None:
        """Leave what clients send to whoever has a duplicate of the socket; answers pass. Safe to repeat."""
        if self._is_reading:
            # Because of that duplicate, closing ours would not take it out of the epoll.
            self._flows.poller.unregister(self._sock.fileno())
            self._is_reading = False

    def drain(self) -> int:
        """Take nothing new, and end every flow that waits for no answer; how many do, for 5 s at most."""
        self.stop_reading()
        since = self._flows.loop.time() - _DRAIN_SECONDS
        for flow in [flow for flow in self._flows.by_key.values() if not flow.is_waiting(since)]:
            flow.close()
        return len(self._flows.by_key)

    def hand_over(self, service_port: str, most: int) -> list[tuple[HeldFlow, Socket]]:
        """Give up `most` flows at most, each with its socket, for `adopt` elsewhere."""
        now = self._flows.loop.time()
        port = self._sock.getsockname()[1]
        handed = []
        for flow in list(islice(self._flows.by_key.values(), most)):
            held = HeldFlow(
                service_port,
                port,
                flow.client,
                flow.key[self._layout.client[1] :],
                flow.reply_control[0],
                (flow.endpoint.address, flow.endpoint.port),
                flow.answered,
                now - flow.last_used,
            )
            handed.append((held, flow.detach()))
        return handed

    def adopt(self, held: HeldFlow, sock: Socket) -> None:
        """Go on with a flow that another process has handed over; `sock` is ours to close."""
        key = pack_address(held.client) + held.local_address
        now = self._flows.loop.time()
        flow = UdpFlow(self._flows, key, held.client, (held.reply_control,), now)
        address, port = held.endpoint
        last_used = now - held.idle_seconds
        flow.resume(sock, Endpoint(address, Port(port)), is_answered=held.is_answered, last_used=last_used)
        flow.endpoint_gone = flow.endpoint not in self._usable
        self._flows.by_key[key] = flow
        self._flows.counters.opened += 1
        self._flows.counters.active += 1

    def close(self) -> None:
        """Stop serving; every flow ends."""
        self.stop_reading()
        self._flows.poller.retire(self._sock)
        for flow in list(self._flows.by_key.values()):
            flow.close()

    def _receive(self, _events: int) -> None:
        received = self._received
        count = received.receive(self._fd)
        records, lengths, buffers = received.records, received.lengths, received.buffers
        (client_from, client_to), (local_from, local_to) = self._layout.client, self._layout.local_address
        flows = self._flows.by_key
        now = self._flows.loop.time()
        record = 0
        for number in range(count):
            key = records[record + client_from : record + client_to]
            key += records[record + local_from : record + local_to]
            flow = flows.get(key) or self._open_flow(key, record, now)
            if flow is not None:
                size = lengths[number]
                flow.forward(buffers[number][:size], now)
                flow.traffic.bytes_in += size
            record += RECORD_SIZE

    def _open_flow(self, key: FlowKey, record: int, now: float) -> UdpFlow | None:
        """None, and counted, if no endpoint can be had."""
        client = unpack_address(key[: self._layout.client[1]])
        begin, end = self._layout.packet_info
        pktinfo = self._received.records[record + begin : record + end]
        flow = UdpFlow(self._flows, key, client, _reply_control(pktinfo), now)
        if not flow.connect(now):
            return None
        self._flows.by_key[key] = flow
        self._flows.counters.opened += 1
        self._flows.counters.active += 1
        return flow


@lru_cache(maxsize=256)  # the node's addresses
def _reply_control(pktinfo: bytes) -> tuple[Control]:
    """What makes an answer leave from the address that a datagram with this `pktinfo` was sent to.

    The interface is left to the routing table, as for any answer of the node. With an ifindex IPv4 looks at
    routes through that interface only, and where the way back is another one it takes the client for a
    neighbour on the link and the answer is lost. A link-local address, though, means nothing without its
    interface. ip(7), ipv6(7).
    """
    if len(pktinfo) == 12:
        return ((socket.IPPROTO_IP, IP_PKTINFO, struct.pack("=i4s4x", 0, pktinfo[4:8])),)
    is_link_local = pktinfo[0] == 0xFE and pktinfo[1] & 0xC0 == 0x80
    address = pktinfo if is_link_local else pktinfo[:16] + bytes(4)
    return ((socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, address),)
