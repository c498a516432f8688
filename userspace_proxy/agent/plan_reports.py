"""Says what people must know of a plan: who lost what to whom, and what is left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import assert_never

from userspace_proxy.core.cluster_state import ObjectId, OriginOf
from userspace_proxy.core.event_reasons import (
    ENDPOINT_LEFT_OUT,
    FRONTEND_CONFLICT,
    HEALTH_CHECK_NOT_SERVED,
    Reason,
)
from userspace_proxy.core.objects import Kind
from userspace_proxy.core.plan_conflicts import UndialledEndpoint, WhyUndialled
from userspace_proxy.core.problem import Problem
from userspace_proxy.core.proxy_plan import ProxyPlan
from userspace_proxy.core.service_port import ServiceName, ServicePortName
from userspace_proxy.observability.problem_ledger import ProblemLedger


def scope_of_port(name: ServicePortName) -> str:
    """Where the ledger has what a Service port lost to others."""
    return f"Service port {name.key}"


def scope_of_health_check(name: ServiceName) -> str:
    """Where it has what is wrong with a Service's health check port."""
    return f"Health check of Service {name}"


class PlanReports:
    """`origin_of` says where an object came from."""

    def __init__(self, plan: ProxyPlan, ledger: ProblemLedger, origin_of: OriginOf) -> None:
        self._plan = plan
        self._ledger = ledger
        self._origin_of = origin_of

    def name_conflicts(self, names: Iterable[ServicePortName | ServiceName]) -> None:
        """Name what the plan left out of these because of what others claim, or where this node listens."""
        for name in names:
            found: list[tuple[Reason, str]]
            match name:
                case ServicePortName(service=service):
                    scope, field, found = scope_of_port(name), "", list(self._of_port(name))
                case ServiceName():
                    service, scope, field = (
                        name,
                        scope_of_health_check(name),
                        "spec.healthCheckNodePort",
                    )
                    found = [(HEALTH_CHECK_NOT_SERVED, text) for text in self._health_check_reasons(name)]
                case _:
                    assert_never(name)
            origin = self._origin_of(ObjectId(Kind.SERVICE, service.namespace, service.name))
            self._ledger.report(
                scope,
                [
                    Problem(origin, "Service", service.namespace, service.name, field, text, event)
                    for event, text in found
                ],
            )

    def _of_port(self, name: ServicePortName) -> Iterator[tuple[Reason, str]]:
        for lost in self._plan.lost_claims.get(name, ()):
            yield (
                FRONTEND_CONFLICT,
                f"{lost.frontend} belongs to {lost.owner}, {lost.precedence.value}",
            )
        for undialled in self._plan.undialled.get(name, ()):
            yield ENDPOINT_LEFT_OUT, _why_left_out(undialled)

    def _health_check_reasons(self, name: ServiceName) -> Iterator[str]:
        lost = self._plan.lost_health_checks.get(name)
        if lost is not None and lost.owner is None:
            yield (
                f"{lost.port} is a proxy port, where only redirected traffic is let in: "
                "health checks are not answered; give the Service another port, "
                "or give the proxy another --proxy-port-range"
            )
        elif lost is not None:
            yield (
                f"{lost.port} is the nodePort of {lost.owner}, which gets what is sent there: "
                "health checks are not answered; give one of them another port"
            )


def _why_left_out(undialled: UndialledEndpoint) -> str:
    match undialled.why:
        case WhyUndialled.OWN_FRONTEND:
            return (
                f"endpoint {undialled.endpoint} is left out, because it is the address of a Service, "
                "and so a loop: let it listen on another port"
            )
        case WhyUndialled.PROXY_PORT:
            return (
                f"endpoint {undialled.endpoint} is left out, because it is on this node at a proxy port, "
                "where only redirected traffic is let in: let it listen on another port, "
                "or give the proxy another --proxy-port-range"
            )
        case _:
            assert_never(undialled.why)
