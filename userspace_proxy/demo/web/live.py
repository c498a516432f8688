"""Follows the cluster while somebody looks, and tells all who do what is new.

Objects come by watches, so that a pod that was killed is seen at once; the agents' counters are asked for a
few times a second. Without anybody who looks nothing is followed, asked or sent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Final, NoReturn

from userspace_proxy.demo.api_client import ApiClient
from userspace_proxy.demo.api_resources import DEPLOYMENTS, NODES, PODS, SERVICES
from userspace_proxy.demo.mirror import Mirror
from userspace_proxy.demo.web.agent_answers import AgentAnswers
from userspace_proxy.demo.web.audience import Audience, Viewer, encoded
from userspace_proxy.demo.web.load import Load
from userspace_proxy.demo.web.news import news
from userspace_proxy.demo.web.traffic import tick
from userspace_proxy.demo.web.view import AgentReading, Objects, View, changes, pod_keys, view_of

TICK_SECONDS: Final = 0.4
_SETTLE_SECONDS: Final = 0.03
"""So long changes are gathered: one that makes ten is drawn once."""
_AGAIN_SECONDS: Final = 5.0

_log = logging.getLogger(__name__)


class Live:
    """One picture for all who look. `load` runs along, and is over when nobody looks."""

    def __init__(self, client: ApiClient, agents: AgentAnswers, load: Load) -> None:
        self.audience = Audience()
        self._client = client
        self._agents = agents
        self._load = load
        self._view: View | None = None
        self._readings: Mapping[str, AgentReading] = {}
        self._changed = asyncio.Event()

    def welcome(self, viewer: Viewer) -> None:
        """Show this one all there is, and then what changes."""
        self.audience.join(viewer)
        if self._view is not None:
            viewer.tell(encoded("snapshot", self._view))

    async def run(self) -> NoReturn:
        """Until cancelled."""
        while True:
            await self.audience.came.wait()
            following = asyncio.create_task(self._follow())
            leaving = asyncio.create_task(self.audience.left.wait())
            try:
                await asyncio.wait((following, leaving), return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._view = None  # who comes meanwhile waits for the next one
                for task in (following, leaving):
                    task.cancel()
                results = await asyncio.gather(following, leaving, return_exceptions=True)
            if isinstance(results[0], Exception):  # of no picture; the cluster does without one
                _log.error("The page cannot follow the cluster", exc_info=results[0])
                self.audience.tell("news", "this page cannot follow the cluster, and tries again")
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _follow(self) -> None:
        self._nodes = Mirror(self._client, NODES)
        self._pods = Mirror(self._client, PODS)
        self._services = Mirror(self._client, SERVICES)
        self._deployments = Mirror(self._client, DEPLOYMENTS)
        mirrors = (self._nodes, self._pods, self._services, self._deployments)
        async with asyncio.TaskGroup() as tasks:
            for mirror in mirrors:
                mirror.subscribe(self._changed.set)
                tasks.create_task(mirror.run())
            await asyncio.gather(*(mirror.synced() for mirror in mirrors))
            self._readings = await self._agents.read_all()
            tasks.create_task(self._load.run())
            tasks.create_task(self._count())
            while True:
                self._draw()
                await self._changed.wait()
                await asyncio.sleep(_SETTLE_SECONDS)
                self._changed.clear()

    async def _count(self) -> NoReturn:
        """Read the agents' counters, and tell what travelled meanwhile."""
        loop = asyncio.get_running_loop()
        read_at = loop.time()
        while True:
            await asyncio.sleep(TICK_SECONDS)
            readings = await self._agents.read_all()
            now = loop.time()
            what = tick(self._readings, readings, pod_keys(self._pods.objects.values()), now - read_at)
            read_at, self._readings = now, readings
            self.audience.tell("tick", what)
            self._changed.set()

    def _draw(self) -> None:
        objects = Objects(
            self._nodes.objects.values(),
            self._pods.objects.values(),
            self._services.objects.values(),
            self._deployments.objects.values(),
        )
        before, self._view = self._view, view_of(objects, self._readings, self._load.state())
        if before is None:
            self.audience.tell("snapshot", self._view)
            return
        if other := changes(before, self._view):
            self.audience.tell("changes", other)
        for sentence in news(before, self._view):
            self.audience.tell("news", sentence)
