"""The agents of all nodes, as the demo cluster sees them; `agent_parent` is where they come from."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from userspace_proxy.demo.agent_parent import AgentOrder, Order, Told
from userspace_proxy.demo.cluster_node import POD_NETWORKS, POD_NETWORKS_V6, Node
from userspace_proxy.demo.process_title import TITLE_ROOM
from userspace_proxy.errors import UserspaceProxyError

_COMMAND: Final = (sys.executable, "-I", "-m", "userspace_proxy.demo.agent_parent", TITLE_ROOM)
_END_SECONDS: Final = 20.0
_HEALTHZ_SECONDS: Final = 2.0
_HEALTHZ_PORT: Final = 10256


class AgentParentEndedError(UserspaceProxyError):
    """The process that all agents come from has ended, and they with it."""


@dataclass(slots=True)
class AgentState:
    """An agent: its process (None: between two), and how often it was started again."""

    pid: int | None = None
    restarts: int = 0


class Agents:
    """Starts the parent at once, so that it imports while other things are made; it waits for `start`."""

    def __init__(self) -> None:
        self.states: dict[str, AgentState] = {}
        self._parent = subprocess.Popen(
            _COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )

    def start(self, socket_path: Path, agents: Sequence[AgentOrder]) -> None:
        """Have these run from now on."""
        self.states = {agent.node: AgentState() for agent in agents}
        assert self._parent.stdin is not None
        self._parent.stdin.write(msgspec.json.encode(Order(str(socket_path), tuple(agents))) + b"\n")
        self._parent.stdin.flush()

    async def follow(self) -> None:
        """Know how they are, until cancelled. Raises `AgentParentEndedError`."""
        lines = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(lines), self._parent.stdout
        )
        try:
            while line := await lines.readline():
                self._observe(msgspec.json.decode(line, type=Told))
        finally:
            transport.close()
        raise AgentParentEndedError("the process that all agents come from has ended")

    def _observe(self, told: Told) -> None:
        state = self.states[told.node]
        if told.pid is None:
            state.restarts += 1
        state.pid = told.pid

    async def close(self) -> None:
        """End all of them."""
        assert self._parent.stdin is not None and self._parent.stdout is not None
        self._parent.stdin.close()
        try:
            await asyncio.to_thread(self._parent.wait, _END_SECONDS)
        except subprocess.TimeoutExpired:
            self._parent.kill()
            await asyncio.to_thread(self._parent.wait)
        self._parent.stdout.close()


def agent_arguments(node: str, kubeconfig: Path, flags: Sequence[str], *, ipv6: bool) -> tuple[str, ...]:
    """How the agent of the node so called is started; flags of the user's come last and count."""
    pod_networks = (POD_NETWORKS, POD_NETWORKS_V6) if ipv6 else (POD_NETWORKS,)
    return (
        "run",
        f"--kubeconfig={kubeconfig}",
        f"--hostname-override={node}",
        f"--cluster-cidr={','.join(map(str, pod_networks))}",
        "--workers=1",
        "--oom-score-adj=0",
        *flags,
    )


async def is_serving(node: Node) -> bool:
    """Whether the node's agent says so at /healthz."""

    async def ask() -> bytes:
        connection = await asyncio.to_thread(
            node.sandbox.connect, "127.0.0.1", _HEALTHZ_PORT, _HEALTHZ_SECONDS
        )
        reader, writer = await asyncio.open_connection(sock=connection)
        try:
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return await reader.readline()
        finally:
            writer.close()

    try:
        async with asyncio.timeout(_HEALTHZ_SECONDS):
            return b" 200 " in await ask()
    except (OSError, TimeoutError):
        return False
