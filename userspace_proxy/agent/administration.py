"""What a live agent answers over its admin socket: composed here, served by `admin`."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncGenerator, Coroutine, Mapping
from pathlib import Path
from typing import Any

from userspace_proxy.admin.protocol import NoParameters
from userspace_proxy.admin.server import AdminServer, Method
from userspace_proxy.admin.socket_file import SocketFile
from userspace_proxy.agent.status import StatusOf
from userspace_proxy.core.answers.status import Status
from userspace_proxy.dataplane.peer_credentials import peer_of


class Administration:
    """`jobs` open the socket in `folder` and serve, `close` closes it.

    Beside `status` it answers with `methods`, which whoever knows of their matter makes.
    """

    def __init__(self, folder: Path, status: StatusOf, *methods: Mapping[str, Method]) -> None:
        self._status = status
        self._server = AdminServer(
            SocketFile(folder),
            {
                "status": Method(self._answer_status),
                **{name: method for each in methods for name, method in each.items()},
            },
            _is_ours,
        )

    def jobs(self) -> dict[str, Coroutine[Any, Any, object]]:
        """What is to run for as long as the agent does, by name."""
        return {"admin socket": self._server.run()}

    async def close(self) -> None:
        """Close the socket. The jobs have ended."""
        await self._server.close()

    async def _answer_status(self, _: NoParameters) -> AsyncGenerator[Status, None]:
        yield await self._status()


def _is_ours(client: socket.socket) -> bool:
    """Whether the client is root, or this agent's own user where that is another."""
    return peer_of(client)[1] in (0, os.geteuid())
