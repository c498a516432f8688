"""Clients that close first, and more of them than there are ports towards the endpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.clients import connect, greeting
from tests.support.service_node import ServiceNode

TCP_TW_REUSE = Path("/proc/sys/net/ipv4/tcp_tw_reuse")
PORTS = 100
CONNECTIONS = 3 * PORTS


@pytest.mark.parametrize("flags", [(), ("--no-tcp-tw-reuse",)], ids=["reused", "kept"])
def test_a_port_is_free_again_after_a_second(tmp_path: Path, flags: tuple[str, ...]) -> None:
    with ServiceNode(tmp_path, *flags, endpoints=1) as node:
        before = node.node.call(TCP_TW_REUSE.read_text)
        node.agent.start()
        after = node.node.call(TCP_TW_REUSE.read_text)
        if flags:
            assert after == before
            return
        assert after == "1\n"
        service = node.serve("greet")
        node.node.sysctl("net.ipv4.ip_local_port_range", f"40000 {40000 + PORTS - 1}")
        for _ in range(CONNECTIONS):
            with connect(node.client, service["greet"]) as client:
                assert greeting(client)
