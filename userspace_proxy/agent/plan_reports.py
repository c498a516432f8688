"""Says what people must know of a plan: who lost an address to whom, which endpoints loop, what is shared."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping

from userspace_proxy.core.cluster_state import ObjectId, OriginOf
from userspace_proxy.core.objects import Kind
from userspace_proxy.core.problem import Problem
from userspace_proxy.core.proxy_plan import ProxyPlan
from userspace_proxy.core.service_port import EVERY_LOCAL_ADDRESS, Frontend, Protocol, ServicePortName
from userspace_proxy.iptables.portal_rules import Portal
from userspace_proxy.observability.problem_ledger import ProblemLedger

logger = logging.getLogger(__name__)


class PlanReports:
    """`origin_of` says where an object came from, `listening_ports` (in a thread) where processes listen."""

    def __init__(
        self,
        plan: ProxyPlan,
        ledger: ProblemLedger,
        origin_of: OriginOf,
        listening_ports: Callable[[], Collection[tuple[Protocol, int]]],
    ) -> None:
        self._plan = plan
        self._ledger = ledger
        self._origin_of = origin_of
        self._listening_ports = listening_ports
        self._looked_at: set[Frontend] = set()

    def name_conflicts(self, names: Iterable[ServicePortName]) -> None:
        """Name what the plan left out of these Service ports because of what others claim."""
        for name in names:
            service = name.service
            origin = self._origin_of(ObjectId(Kind.SERVICE, service.namespace, service.name))
            reasons = [
                f"{lost.frontend} belongs to {lost.owner}, which is older"
                for lost in self._plan.lost_claims.get(name, ())
            ]
            reasons += [
                f"endpoint {loop.endpoint} is the address of a Service: a loop"
                for loop in self._plan.loops.get(name, ())
            ]
            self._ledger.report(
                f"Service port {name.key}",
                [Problem(origin, "Service", service.namespace, service.name, "", text) for text in reasons],
            )

    async def name_shared_ports(
        self, portals: Mapping[Frontend, Portal], node_addresses: Collection[str]
    ) -> None:
        """Warn, once each, of addresses of the node on which a process of its own listens too."""
        here = {
            frontend
            for frontend in portals
            if frontend.address in EVERY_LOCAL_ADDRESS.values() or frontend.address in node_addresses
        }
        new, self._looked_at = here - self._looked_at, here
        if not new:
            return
        listening = await asyncio.to_thread(self._listening_ports)
        for frontend in sorted(new, key=str):
            if (frontend.protocol, frontend.port) in listening:
                logger.warning(
                    "A process of this node listens where a Service is reached; the Service gets what is "
                    "sent there: frontend=%s service_port=%s",
                    frontend,
                    portals[frontend].comment,
                )
