"""The UDP side of a proxy port: receives from all clients and hands each datagram to its flow.

A flow is known by the client's address and port and by the local address that the datagram was sent to,
which the kernel tells beside each datagram (IP_PKTINFO; ip(7), ipv6(7)).
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterable
from functools import lru_cache
from itertools import islice
from typing import Final

from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.load_balancer import LoadBalancer
from userspace_proxy.core.service_port import Port, TrafficPolicy
from userspace_proxy.core.traffic_counters import ServicePortCounters
from userspace_proxy.dataplane.packet_info import IP_PKTINFO, receive_packet_info
from userspace_proxy.dataplane.poller import READABLE, Poller, Socket
from userspace_proxy.dataplane.succession import HeldFlow
from userspace_proxy.dataplane.udp_flow import BURST, Control, FlowKey, FlowShare, ListenerFlows, UdpFlow

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
        self._recvmsg_into = sock.recvmsg_into
        self._buffers = [flow_share.buffer]
        receive_packet_info(sock)
        if sock.family == socket.AF_INET6:
            self._control_space = socket.CMSG_SPACE(20)  # struct in6_pktinfo: the address, then ifindex
            self._local_address = slice(0, 16)
        else:
            self._control_space = socket.CMSG_SPACE(12)  # struct in_pktinfo: ifindex, ipi_spec_dst, ipi_addr
            self._local_address = slice(4, 8)
        self._usable: frozenset[Endpoint] = frozenset()
        self._is_reading = False
        self.read()

    @property
    def active_flows(self) -> int:
        return len(self._flows.by_key)

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
                *flow.key,
                flow.reply_control[0],
                (flow.endpoint.address, flow.endpoint.port),
                flow.answered,
                now - flow.last_used,
            )
            handed.append((held, flow.detach()))
        return handed

    def adopt(self, held: HeldFlow, sock: Socket) -> None:
        """Go on with a flow that another process has handed over; `sock` is ours to close."""
        key = (held.client, held.local_address)
        flow = UdpFlow(self._flows, key, (held.reply_control,))
        address, port = held.endpoint
        last_used = self._flows.loop.time() - held.idle_seconds
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
        recvmsg_into, buffers, control_space = self._recvmsg_into, self._buffers, self._control_space
        buffer, flows, local_address = buffers[0], self._flows.by_key, self._local_address
        now = self._flows.loop.time()
        for _ in range(BURST):
            try:
                size, control, _flags, client = recvmsg_into(buffers, control_space)
            except OSError:
                break  # nothing is left (EAGAIN); any other error is reported once and gone with that
            key = (client, control[0][2][local_address])
            flow = flows.get(key)
            if flow is None:
                flow = self._open_flow(key, control[0][2], now)
                if flow is None:
                    continue
            flow.forward(buffer[:size], now)
            flow.traffic.bytes_in += size

    def _open_flow(self, key: FlowKey, pktinfo: bytes, now: float) -> UdpFlow | None:
        """None, and counted, if no endpoint can be had."""
        flow = UdpFlow(self._flows, key, _reply_control(pktinfo))
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
