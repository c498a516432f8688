"""Which ports the node's own processes listen on. Source: proc_pid_net(5), tcp_states in the kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from userspace_proxy.core.service_port import Protocol

_NET: Final = Path("/proc/thread-self/net")
_LISTENING: Final = {Protocol.TCP: "0A", Protocol.UDP: "07"}
"""TCP_LISTEN, and the TCP_CLOSE that an unconnected UDP socket is shown with."""


def listening_ports() -> frozenset[tuple[Protocol, int]]:
    """All ports of either family, in the network namespace of the calling thread. Blocks; for a thread.

    A family that the kernel does not have has none.
    """
    found: set[tuple[Protocol, int]] = set()
    for protocol, state in _LISTENING.items():
        for table in (protocol.value.lower(), f"{protocol.value.lower()}6"):
            try:
                lines = (_NET / table).read_text().splitlines()[1:]
            except OSError:
                continue
            for line in lines:
                fields = line.split(maxsplit=4)
                if fields[3] == state:
                    found.add((protocol, int(fields[1].rpartition(":")[2], 16)))
    return frozenset(found)
