"""The listening sockets of this node: opened by the agent, lent to workers as duplicates.

The agent keeps every socket open while a rule leads to it, so a worker that dies takes nobody's place in a
backlog with it, and no stranger can take the port.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from itertools import islice
from random import Random
from typing import Final

from userspace_proxy.core.port_claims import PortRange, ProxyPortClaims
from userspace_proxy.core.proxy_plan import ListenerName
from userspace_proxy.core.service_port import IPFamily, Protocol, ProxyPort, ServicePortName
from userspace_proxy.dataplane.messages import ListenerKey
from userspace_proxy.dataplane.packet_info import receive_packet_info
from userspace_proxy.errors import UserspaceProxyError

_BACKLOG: Final = 65535
"""The kernel takes net.core.somaxconn if that is less."""

_TRIES: Final = 1000
"""How many ports of strangers are met before a listener is given up for now: some milliseconds of binding."""

_DOMAINS: Final = {IPFamily.IPV4: socket.AF_INET, IPFamily.IPV6: socket.AF_INET6}


class ListenerError(UserspaceProxyError):
    """A listener cannot be opened now: no free port in the range, or no descriptor left."""


class ListeningSockets:
    """Opens and owns them. `random` decides where in the range the search for a free port starts."""

    def __init__(self, claims: ProxyPortClaims, bind_addresses: dict[IPFamily, str], random: Random) -> None:
        self._claims = claims
        self._bind_addresses = bind_addresses
        self._random = random
        self._ports: dict[ListenerName, ProxyPort] = {}
        self._listeners: dict[ServicePortName, list[ListenerName]] = {}
        self._sockets: dict[ListenerKey, socket.socket] = {}
        self._reserved: dict[str, socket.socket] = {}

    def __len__(self) -> int:
        return len(self._ports)

    def __contains__(self, name: ListenerName) -> bool:
        return name in self._ports

    @property
    def by_service_port(self) -> Mapping[ServicePortName, Sequence[ListenerName]]:
        """All that are open, those of a Service port in the order in which they were opened."""
        return self._listeners

    def listeners_of(self, service_port: ServicePortName) -> tuple[ListenerName, ...]:
        """The open listeners of a Service port, in the order in which they were opened."""
        return tuple(self._listeners.get(service_port, ()))

    def port_of(self, name: ListenerName) -> ProxyPort:
        """Where a listener listens. Raises `KeyError` if it is not open."""
        return self._ports[name]

    def socket_of(self, key: ListenerKey) -> socket.socket:
        """The socket itself, for duplication. Raises `KeyError` if there is none."""
        return self._sockets[key]

    def open(self, name: ListenerName, preferred: ProxyPort | None) -> ProxyPort:
        """Listen for `name`, on `preferred` if that is free. Raises `ListenerError`; nothing changes then.

        A port on which a stranger is found is not tried again until `look_again`, so that failing costs no
        more than a look at what is known, however many ask.
        """
        protocol = name.service_port.protocol
        start = self._random.randrange(len(self._claims.port_range))
        for port in islice(self._claims.candidates(protocol, preferred, start), _TRIES):
            try:
                family = name.service_port.family
                sock = open_listener(family, protocol, self._bind_addresses[family], port)
            except OSError as error:
                if error.errno in (errno.EADDRINUSE, errno.EACCES):
                    self._claims.pass_over(protocol, port)
                    continue
                raise ListenerError(
                    f"a listener for {name.service_port} cannot be opened: {error}"
                ) from error
            self._own(name, port, sock)
            return port
        raise ListenerError(f"no proxy port is free in {self._claims.port_range}: widen --proxy-port-range")

    def accept(self, name: ListenerName, sock: socket.socket) -> bool:
        """Own a listener that an earlier agent opened, if it is what `open` might have made; False if not."""
        protocol, family = name.service_port.protocol, name.service_port.family
        address, port = sock.getsockname()[:2]
        if address != self._bind_addresses.get(family) or port not in self._claims.port_range:
            return False
        if name in self._ports or ListenerKey(protocol.value, port) in self._sockets:
            return False
        self._own(name, ProxyPort(port), sock)
        return True

    def keep_ports(self, ports: Iterable[tuple[Protocol, ProxyPort]]) -> None:
        """Open none of these unless it is preferred; an empty collection ends that."""
        self._claims.keep(ports)

    def look_again(self, most: int) -> None:
        """Let up to `most` ports of the range be tried again on which strangers were found."""
        self._claims.look_again(most)

    def room(self, protocol: Protocol) -> int:
        """How many more listeners the range can hold, as far as strangers leave it to us."""
        return self._claims.room(protocol)

    @property
    def port_range(self) -> PortRange:
        return self._claims.port_range

    @property
    def reserved(self) -> Mapping[str, socket.socket]:
        """The sockets of reserved ports, by names that `reserve_port` knows them by."""
        return self._reserved

    def reserve_port(self, purpose: str, kept: MutableMapping[str, socket.socket]) -> ProxyPort:
        """Keep a port of the range from everybody, without listening there: a TCP connection to it is reset.

        It is the one that an earlier agent reserved for this `purpose`, if `kept` has its sockets, which are
        taken from there. Else the first that is free, most likely the same after a restart. Raises
        `ListenerError`.
        """
        names = {f"{purpose} {family.value}": address for family, address in self._bind_addresses.items()}
        earlier = {name: kept.pop(name) for name in names if name in kept}
        places = [(name, *sock.getsockname()[:2]) for name, sock in earlier.items()]
        ports = {port for _, _, port in places}
        if [(name, address) for name, address, _ in places] == [*names.items()] and len(ports) == 1:
            port = ProxyPort(ports.pop())
            if port in self._claims.port_range:
                return self._reserve(port, earlier)
        for sock in earlier.values():
            sock.close()
        for port in self._claims.candidates(Protocol.TCP, None, 0):
            held: dict[str, socket.socket] = {}
            try:
                for (name, address), family in zip(names.items(), self._bind_addresses, strict=True):
                    held[name] = socket.socket(_DOMAINS[family], socket.SOCK_STREAM)
                    if family is IPFamily.IPV6:
                        held[name].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    held[name].bind((address, port))
            except OSError as error:
                for sock in held.values():
                    sock.close()
                if error.errno == errno.EADDRINUSE:
                    continue
                raise ListenerError(f"a port cannot be reserved: {error}") from error
            return self._reserve(port, held)
        raise ListenerError(f"no proxy port is free in {self._claims.port_range}")

    def _own(self, name: ListenerName, port: ProxyPort, sock: socket.socket) -> None:
        protocol = name.service_port.protocol
        self._claims.claim(protocol, port)
        self._ports[name] = port
        self._listeners.setdefault(name.service_port, []).append(name)
        self._sockets[ListenerKey(protocol.value, port)] = sock

    def close(self, name: ListenerName) -> None:
        """Close a listener to which no rule leads any more and that no worker has."""
        port = self._ports.pop(name)
        siblings = self._listeners[name.service_port]
        siblings.remove(name)
        if not siblings:
            del self._listeners[name.service_port]
        protocol = name.service_port.protocol
        self._sockets.pop(ListenerKey(protocol.value, port)).close()
        self._claims.release(protocol, port)

    def close_all(self) -> None:
        for name in tuple(self._ports):
            self.close(name)
        while self._reserved:
            self._reserved.popitem()[1].close()

    def _reserve(self, port: ProxyPort, held: Mapping[str, socket.socket]) -> ProxyPort:
        self._reserved.update(held)
        for protocol in Protocol:
            self._claims.claim(protocol, port)
        return port


def open_listener(family: IPFamily, protocol: Protocol, address: str, port: int) -> socket.socket:
    """A socket for `Worker.configure`: bound, non-blocking, listening if it is TCP's. Raises `OSError`."""
    kind = socket.SOCK_STREAM if protocol is Protocol.TCP else socket.SOCK_DGRAM
    sock = socket.socket(_DOMAINS[family], kind | socket.SOCK_NONBLOCK)
    try:
        if family is IPFamily.IPV6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if protocol is Protocol.TCP:
            # Connections of an earlier run in TIME_WAIT must not keep us from our own port.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # inherited by what is accepted
        else:
            receive_packet_info(sock)  # now: a datagram that is queued before has none
        sock.bind((address, port))
        if protocol is Protocol.TCP:
            sock.listen(_BACKLOG)
    except BaseException:
        with suppress(OSError):
            sock.close()
        raise
    return sock
