"""What the nodes' agents answer over their admin sockets, asked from the cluster's own process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from userspace_proxy.admin.client import ask
from userspace_proxy.admin.protocol import AdminError
from userspace_proxy.core.answers.endpoints import EndpointAnswer
from userspace_proxy.core.answers.rules import RuleAnswer, RulesQuestion
from userspace_proxy.core.answers.services import ServicePortAnswer, ServicesQuestion
from userspace_proxy.demo.web.view import AgentReading
from userspace_proxy.errors import NoAgentError

_FOLDERS: Final = Path("/run/userspace-proxy")
_ANSWER_SECONDS: Final = 3.0

_T = TypeVar("_T")


class AgentAnswers:
    """Asks the agents of these nodes, whose network namespaces are named by files."""

    def __init__(self, namespaces: dict[str, Path]) -> None:
        self._sockets = {
            node: _FOLDERS / str(path.stat().st_ino) / "admin.sock" for node, path in namespaces.items()
        }

    async def read_all(self) -> dict[str, AgentReading]:
        """What each says of its Services and endpoints now; who does not answer is left out."""
        return await self._of_each(self._sockets, self._reading)

    async def rules(self, service: str) -> dict[str, list[RuleAnswer]]:
        """Each node's rules for a Service, with their counters."""
        return await self._of_each(
            self._sockets,
            lambda path: list(
                ask(path, "rules", RuleAnswer, RulesQuestion(service), timeout_seconds=_ANSWER_SECONDS)
            ),
        )

    async def service_ports(self, service: str) -> dict[str, list[ServicePortAnswer]]:
        """What each node's agent says of a Service, with its endpoints."""
        return await self._of_each(
            self._sockets,
            lambda path: list(
                ask(
                    path,
                    "services",
                    ServicePortAnswer,
                    ServicesQuestion(service),
                    timeout_seconds=_ANSWER_SECONDS,
                )
            ),
        )

    @staticmethod
    def _reading(path: Path) -> AgentReading:
        return AgentReading(
            tuple(ask(path, "services", ServicePortAnswer, timeout_seconds=_ANSWER_SECONDS)),
            tuple(ask(path, "endpoints", EndpointAnswer, timeout_seconds=_ANSWER_SECONDS)),
        )

    @staticmethod
    async def _of_each(sockets: dict[str, Path], read: Callable[[Path], _T]) -> dict[str, _T]:
        async def one(path: Path) -> _T | None:
            try:
                return await asyncio.to_thread(read, path)
            except (NoAgentError, AdminError, msgspec.DecodeError):
                return None

        answers = await asyncio.gather(*map(one, sockets.values()))
        return {node: answer for node, answer in zip(sockets, answers, strict=True) if answer is not None}
