"""The endpoints that an operator has taken out, followed through changes, restarts and replaced workers.

Who remembers: this agent, and each worker as part of what it is told of a Service port. So a worker that
takes another's place is told, and an agent that takes over finds it in the workers of the one before. A node
that starts anew has forgotten it.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from time import monotonic

from userspace_proxy.core.cluster_state import ClusterState
from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.endpoint_selection import candidates_of
from userspace_proxy.core.manual_ejections import ManualEjections
from userspace_proxy.core.service_port import Port, ServiceName, ServicePortName
from userspace_proxy.dataplane.messages import ServicePortConfig, TakenOut

logger = logging.getLogger(__name__)


class OperatorEjections:
    """`known` are those that are remembered."""

    def __init__(self) -> None:
        self.known = ManualEjections()

    def inherit(self, service_ports: Iterable[ServicePortConfig]) -> None:
        """Workers of an earlier agent have been told this."""
        for config in service_ports:
            try:
                name = ServicePortName.from_key(config.key)
            except ValueError:
                continue  # a version that serves what we do not know
            for each in config.taken_out:
                self.known.take_out(name, Endpoint(each.address, Port(each.port)), each.until)

    def told(self, name: ServicePortName) -> tuple[TakenOut, ...]:
        """What workers are to know of a Service port."""
        return tuple(
            TakenOut(endpoint.address, endpoint.port, until)
            for endpoint, until in sorted(self.known.of(name, monotonic()).items())
        )

    def follow(self, changed: Collection[ServiceName] | None, state: ClusterState) -> None:
        """These Services have changed (None: any may have): forget endpoints that they list no more."""
        for name in self.known:
            if changed is not None and name.service not in changed:
                continue
            is_there = any(port.name == name for port in state.service_ports(name.service))
            candidates = candidates_of(name, state.slices_of(name.service)) if is_there else ()
            for endpoint in self.known.keep(name, {candidate.endpoint for candidate in candidates}):
                logger.info(
                    "Endpoint that an operator took out is listed no more: service_port=%s endpoint=%s",
                    name,
                    endpoint,
                )
