"""What `services` and `endpoints` answer: the plan, and what workers and sockets know of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Final

from userspace_proxy.admin.protocol import AdminError, ErrorCode
from userspace_proxy.admin.server import Method
from userspace_proxy.agent.live_traffic import LiveTraffic
from userspace_proxy.agent.plan_reports import scope_of_health_check, scope_of_port
from userspace_proxy.core.answers.endpoints import EndpointAnswer, EndpointsQuestion, describe_endpoints
from userspace_proxy.core.answers.services import (
    NamesQuestion,
    ServicePortAnswer,
    ServicesQuestion,
    ServingWorker,
    describe_service_port,
    named_services,
    services_beginning,
)
from userspace_proxy.core.cluster_state import ClusterState, ObjectId
from userspace_proxy.core.endpoint_selection import candidates_of
from userspace_proxy.core.live_traffic import NOT_LIVE, LiveServicePort
from userspace_proxy.core.objects import Kind
from userspace_proxy.core.proxy_plan import PlannedServicePort, ProxyPlan
from userspace_proxy.core.service_port import ServicePortName
from userspace_proxy.core.traffic_counters import ServicePortCounters, summed
from userspace_proxy.core.traffic_totals import Reading
from userspace_proxy.dataplane.listening_sockets import ListeningSockets
from userspace_proxy.dataplane.worker_pool import WorkerPool
from userspace_proxy.observability.problem_ledger import ProblemLedger

_ASKED_AT_ONCE: Final = 20
"""So many Service ports that what workers say of them takes the loop a few milliseconds."""


class ServedAnswers:
    """Each Service port is described as it is at that moment; one that has gone meanwhile is left out."""

    def __init__(
        self,
        state: ClusterState,
        plan: ProxyPlan,
        sockets: ListeningSockets,
        workers: WorkerPool,
        ledger: ProblemLedger,
        live: LiveTraffic,
    ) -> None:
        self._state = state
        self._plan = plan
        self._sockets = sockets
        self._workers = workers
        self._ledger = ledger
        self._live = live

    def methods(self) -> dict[str, Method]:
        return {
            "names": Method(self._names, NamesQuestion),
            "services": Method(self._services, ServicesQuestion),
            "endpoints": Method(self._endpoints, EndpointsQuestion),
        }

    def named(self, text: str) -> list[ServicePortName]:
        """The Service ports that `text` names. Raises `AdminError` if it names none."""
        found = named_services(text, self._plan.service_ports.values())
        if text and not found:
            raise AdminError(ErrorCode.NOT_FOUND, self._why_unknown(text))
        return found

    def workers_of(self, name: ServicePortName) -> tuple[ServingWorker, ...]:
        """Who serves a Service port; none while that changes hands."""
        return tuple(
            ServingWorker(number=seat.number, pid=seat.process.pid)
            for seat in self._workers.seats_of(name.key)
            if seat.process is not None
        )

    async def _names(self, question: NamesQuestion) -> AsyncGenerator[str, None]:
        for name in services_beginning(question.prefix, self._plan.service_ports):
            yield name

    async def _services(self, question: ServicesQuestion) -> AsyncGenerator[ServicePortAnswer, None]:
        names = self.named(question.name)
        readings = await self._workers.read_counters()
        live = (await self._live.state_of(names)).service_ports if question.name else {}
        for name in names:
            if (planned := self._plan.service_ports.get(name)) is not None:
                yield self._describe(
                    planned, _carried(readings, name), live.get(name), has_endpoints=bool(question.name)
                )

    async def _endpoints(self, question: EndpointsQuestion) -> AsyncGenerator[EndpointAnswer, None]:
        names = self.named(question.service)
        readings = await self._workers.read_counters()
        for first in range(0, len(names), _ASKED_AT_ONCE):
            portion = names[first : first + _ASKED_AT_ONCE]
            live = (await self._live.state_of(portion)).service_ports
            for name in portion:
                if (planned := self._plan.service_ports.get(name)) is not None:
                    for answer in self._describe_endpoints(planned, _carried(readings, name), live.get(name)):
                        yield answer

    def _describe(
        self,
        planned: PlannedServicePort,
        counters: ServicePortCounters,
        live: LiveServicePort | None,
        *,
        has_endpoints: bool,
    ) -> ServicePortAnswer:
        name = planned.name
        candidates = candidates_of(name, self._state.slices_of(name.service))
        return describe_service_port(
            planned,
            lost=self._plan.lost_claims.get(name, ()),
            proxy_ports={
                listener.policy: self._sockets.port_of(listener)
                for listener in self._sockets.listeners_of(name)
            },
            workers=self.workers_of(name),
            counters=counters,
            ready_endpoints=sum(candidate.host.ready for candidate in candidates),
            listed_endpoints=len(candidates),
            problems=self._problems(name),
            endpoints=self._describe_endpoints(planned, counters, live) if has_endpoints else None,
            live=live,
            taken_out_endpoints=self._live.taken_out(name),
        )

    def _describe_endpoints(
        self, planned: PlannedServicePort, counters: ServicePortCounters, live: LiveServicePort | None
    ) -> Iterator[EndpointAnswer]:
        return describe_endpoints(
            planned,
            self._state.slices_by_name(planned.name.service),
            self._plan.undialled.get(planned.name, ()),
            self._state.node,
            counters.endpoints,
            live or NOT_LIVE,
        )

    def _problems(self, name: ServicePortName) -> Iterator[str]:
        """What is wrong with the objects that a Service port is made of."""
        service = name.service
        objects = [
            ObjectId(Kind.SERVICE, service.namespace, service.name),
            *(
                ObjectId(Kind.ENDPOINT_SLICE, service.namespace, slice_name)
                for slice_name in self._state.slices_by_name(service)
            ),
        ]
        for scope in (*map(str, objects), scope_of_port(name), scope_of_health_check(service)):
            yield from map(str, self._ledger.of(scope))

    def _why_unknown(self, text: str) -> str:
        namespace, slash, name = text.partition(":")[0].rpartition("/")
        said = f"no Service port {text} is served here"
        if not slash:
            return f"{said}, in any namespace"
        problems = self._ledger.of(str(ObjectId(Kind.SERVICE, namespace, name)))
        if problems:
            return f"{said}: {'; '.join(map(str, problems))}"
        return f"{said}: there is no such Service, or it is headless, ExternalName, or another proxy's"


def _carried(readings: Mapping[int, Reading], name: ServicePortName) -> ServicePortCounters:
    return summed(reading[name.key] for reading in readings.values() if name.key in reading)
