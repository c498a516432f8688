"""What the data path asks of TCP beyond reading and writing; socket(7)."""

from __future__ import annotations

import socket
import struct
from typing import Final

from userspace_proxy.core.peer_silence import Keepalive
from userspace_proxy.dataplane.poller import Socket

_TCP_INFO: Final = struct.Struct("=2xBB52xI")
"""Of struct tcp_info: tcpi_retransmits, tcpi_probes, and tcpi_last_ack_recv in milliseconds; linux/tcp.h."""
_TCP_INFO_OF_LISTENER: Final = struct.Struct("=24xI")
"""tcpi_unacked, which of a listener says how many have not been accepted; tcp_get_info in the kernel."""
_TCP_INFO_OF_BYTES: Final = struct.Struct("=B119xQQ")
"""tcpi_state, tcpi_bytes_acked, tcpi_bytes_received."""
_PEER_HAS_FINISHED: Final = frozenset((8, 9, 11))
"""TCP_CLOSE_WAIT, TCP_LAST_ACK, TCP_CLOSING; net/tcp_states.h."""
_OWN_END_ACKNOWLEDGED: Final = 5
"""TCP_FIN_WAIT2."""
_SO_ORIGINAL_DST: Final = 80
"""SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST; linux/netfilter_ipv4.h, linux/netfilter_ipv6/ip6_tables.h."""
_SOCKADDR_IN: Final = struct.Struct("!2xH4s8x")
_SOCKADDR_IN6: Final = struct.Struct("!2xH4x16s4x")
_LINGER_ZERO: Final = struct.pack("ii", 1, 0)


def arm_reset(sock: Socket) -> None:
    """Let the close of `sock` be a reset, not an orderly end; SO_LINGER in socket(7)."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)


def frontend_of(client: Socket) -> tuple[str, int]:
    """The address and port that `client`, an accepted socket, sent to, be it redirected or not."""
    found = original_destination(client)
    if found is not None:
        return found
    host, port = client.getsockname()[:2]
    return str(host), int(port)


def original_destination(client: Socket) -> tuple[str, int] | None:
    """The address and port that `client` sent to before a rule redirected it; None if none has, or if the
    kernel has forgotten.
    """
    is_ipv6 = client.family == socket.AF_INET6
    try:
        if is_ipv6:
            found = client.getsockopt(socket.IPPROTO_IPV6, _SO_ORIGINAL_DST, _SOCKADDR_IN6.size)
            port, address = _SOCKADDR_IN6.unpack(found)
        else:
            found = client.getsockopt(socket.IPPROTO_IP, _SO_ORIGINAL_DST, _SOCKADDR_IN.size)
            port, address = _SOCKADDR_IN.unpack(found)
    except OSError:  # ENOENT
        return None
    return socket.inet_ntop(client.family, address), port


def defer_acknowledgement(sock: Socket) -> None:
    """Let the handshake that a connect begins end with the first bytes that are sent, for a packet less.

    `acknowledge` is to follow when they were sent, or where there are none. TCP_DEFER_ACCEPT means this where
    a socket connects: tcp_rcv_synsent_state_process in net/ipv4/tcp_input.c.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 1)


def acknowledge(sock: Socket) -> None:
    """Send the acknowledgement that is due, if there is one, and do so soon after what comes next.

    Without it, after `defer_acknowledgement`, a peer that is to speak first would hear of us in 200 ms, and
    one with Nagle's algorithm on whose first answer comes in two pieces would hold the second back for 40 ms.
    TCP_QUICKACK in tcp(7).
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def keep_alive(sock: Socket, keepalive: Keepalive | None) -> None:
    """Have the kernel ask the peer of an idle connection; None: it does not."""
    if keepalive is None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 0)
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, keepalive.idle_seconds)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, keepalive.interval_seconds)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, keepalive.count)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def limit_unacknowledged(sock: Socket, seconds: float) -> None:
    """TCP_USER_TIMEOUT: how long bytes may wait to be acknowledged; 0: as long as the kernel likes."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))


def read_silence(sock: Socket) -> tuple[int, int, float]:
    """How often the kernel has sent the same bytes in vain, how often it has asked in vain whether the window
    is open, and how many seconds ago the peer was last heard.
    """
    retransmits, probes, milliseconds = _TCP_INFO.unpack(
        sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    )
    return retransmits, probes, milliseconds / 1000


def read_progress(accepted: Socket) -> tuple[int, int]:
    """How many bytes the peer of an accepted socket has sent, and how many it has acknowledged.

    The kernel counts the end of either stream as a byte, which is taken off again.
    """
    state, acknowledged, received = _TCP_INFO_OF_BYTES.unpack(
        accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_OF_BYTES.size)
    )
    return received - (state in _PEER_HAS_FINISHED), acknowledged - (state == _OWN_END_ACKNOWLEDGED)


def count_waiting(listener: socket.socket) -> int:
    """How many wait to be accepted."""
    info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_OF_LISTENER.size)
    (waiting,) = _TCP_INFO_OF_LISTENER.unpack(info)
    return int(waiting)
