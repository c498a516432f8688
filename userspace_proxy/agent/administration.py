"""What a live agent answers over its admin socket: composed here, served by `admin`."""

from __future__ import annotations

import os
import socket
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from userspace_proxy.admin.server import AdminServer
from userspace_proxy.admin.socket_file import SocketFile
from userspace_proxy.agent.ejecting import Ejecting
from userspace_proxy.agent.fitted_captures import FittedCaptures, KernelThread
from userspace_proxy.agent.installed_rules import RulesAnswers
from userspace_proxy.agent.live_answers import LiveAnswers
from userspace_proxy.agent.live_traffic import LiveTraffic
from userspace_proxy.agent.observation import Observation
from userspace_proxy.agent.operator_ejections import OperatorEjections
from userspace_proxy.agent.proxier import Proxier
from userspace_proxy.agent.served import ServedAnswers
from userspace_proxy.agent.status import StatusAnswers
from userspace_proxy.agent.tracing import Tracing
from userspace_proxy.agent.verbosity import Verbosity
from userspace_proxy.core.cluster_state import ClusterState
from userspace_proxy.dataplane.listening_sockets import ListeningSockets
from userspace_proxy.dataplane.peer_credentials import peer_of
from userspace_proxy.dataplane.worker_pool import WorkerPool
from userspace_proxy.logs.log import Log
from userspace_proxy.sources import Source


class Administration:
    """`jobs` open the socket in `folder` and serve, `close` closes it. Each matter has its own `methods`."""

    def __init__(
        self,
        folder: Path,
        *,
        state: ClusterState,
        source: Source,
        proxier: Proxier,
        captures: FittedCaptures,
        netlink_thread: KernelThread,
        sockets: ListeningSockets,
        workers: WorkerPool,
        ejections: OperatorEjections,
        observation: Observation,
        log: Log,
        verbosity: Verbosity,
        max_descriptors: int,
    ) -> None:
        live = LiveTraffic(workers, ejections.known)
        served = ServedAnswers(state, proxier.plan, sockets, workers, proxier.ledger, live)
        status = StatusAnswers(
            state=state,
            source=source,
            proxier=proxier,
            captures=list(captures),
            sockets=sockets,
            workers=workers,
            live=live,
            observation=observation,
            log=log,
            max_descriptors=max_descriptors,
        )
        self._server = AdminServer(
            SocketFile(folder),
            {
                **status.methods(),
                **served.methods(),
                **RulesAnswers(list(captures), served.named).methods(),
                **Tracing(state, proxier.plan, captures, netlink_thread, served, live).methods(),
                **LiveAnswers(live, workers, proxier.plan, served.named).methods(),
                **Ejecting(ejections, proxier, served.named).methods(),
                **verbosity.methods(),
            },
            _is_ours,
        )

    def jobs(self) -> dict[str, Coroutine[Any, Any, object]]:
        """What is to run for as long as the agent does, by name."""
        return {"admin socket": self._server.run()}

    async def close(self) -> None:
        """Close the socket. The jobs have ended."""
        await self._server.close()


def _is_ours(client: socket.socket) -> bool:
    """Whether the client is root, or this agent's own user where that is another."""
    return peer_of(client)[1] in (0, os.geteuid())
