"""An endpoint of a Service port: what is known of it, what uses it or why not, what it has carried."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from userspace_proxy.core.answers.shape import Parameters, Shape
from userspace_proxy.core.endpoint import CheckedSlice, Endpoint
from userspace_proxy.core.endpoint_selection import NodeIdentity, candidates_of
from userspace_proxy.core.live_traffic import NOT_LIVE, LiveServicePort
from userspace_proxy.core.plan_conflicts import UndialledEndpoint
from userspace_proxy.core.proxy_plan import PlannedServicePort
from userspace_proxy.core.selection_reasons import explain_selection
from userspace_proxy.core.service_port import ServicePortName
from userspace_proxy.core.traffic_counters import EndpointCounters, EndpointKey


class EndpointsQuestion(Parameters, frozen=True):
    """Of every Service port, or of those that `service` names (see `named_services`)."""

    service: str = ""


class EndpointUse(Shape, frozen=True):
    """Whether traffic under a policy uses it, and why: `reason` is a clause about the endpoint."""

    policy: str
    is_used: bool
    reason: str


class EndpointHealth(Shape, frozen=True):
    """How the workers that serve it find it now, and whether an operator has taken it out.

    `failures` connects have failed one after the other. `ejected_seconds` is None unless it is ejected for
    that, else how long it is until one connection tries it; 0: the next one whose turn it is. `probed`: one
    does. `taken_out_seconds` is None if that is until `uneject`. `left_out_of` are the traffic policies whose
    new connections go elsewhere now; of those that are ejected some are used all the same, so that there are
    enough.
    """

    failures: int = 0
    ejected_seconds: float | None = None
    probed: bool = False
    taken_out: bool = False
    taken_out_seconds: float | None = None
    left_out_of: tuple[str, ...] = ()


class EndpointAnswer(Shape, frozen=True):
    """`uses` are those of the traffic policies under which the Service port has traffic.

    Counters are those of the worker processes that serve it now; bytes are as clients see them.
    """

    service_port: str
    protocol: str
    family: str
    endpoint: str
    ready: bool
    serving: bool
    terminating: bool
    node: str | None
    hint_nodes: tuple[str, ...]
    hint_zones: tuple[str, ...]
    slices: tuple[str, ...]
    uses: tuple[EndpointUse, ...]
    opened: int
    active: int
    failed: int
    bytes_in: int
    bytes_out: int
    ejections: int
    health: EndpointHealth = EndpointHealth()

    @property
    def is_used(self) -> bool:
        return any(use.is_used for use in self.uses)


def describe_endpoints(
    planned: PlannedServicePort,
    slices: Mapping[str, CheckedSlice],
    undialled: Sequence[UndialledEndpoint],
    node: NodeIdentity,
    counters: Mapping[EndpointKey, EndpointCounters],
    live: LiveServicePort = NOT_LIVE,
) -> Iterator[EndpointAnswer]:
    """Every endpoint that is listed in the `slices` (by their names) of a Service port."""
    name = planned.name
    candidates = candidates_of(name, slices.values())
    left_out = {each.endpoint: each.why for each in undialled}
    uses = [
        (policy.value, explain_selection(candidates, left_out, policy, node))
        for policy, _ in planned.selections
    ]
    listed = _slices_of_endpoints(name, slices)
    nothing = EndpointCounters()
    for candidate in candidates:
        endpoint, host = candidate.endpoint, candidate.host
        carried = counters.get((endpoint.address, endpoint.port), nothing)
        yield EndpointAnswer(
            service_port=str(name),
            protocol=name.protocol.value,
            family=name.family.value,
            endpoint=str(endpoint),
            ready=host.ready,
            serving=host.serving,
            terminating=host.terminating,
            node=host.node_name,
            hint_nodes=tuple(sorted(host.hint_nodes)),
            hint_zones=tuple(sorted(host.hint_zones)),
            slices=tuple(listed[endpoint]),
            uses=tuple(
                EndpointUse(policy=policy, is_used=each[endpoint].is_used, reason=each[endpoint].reason)
                for policy, each in uses
            ),
            opened=carried.opened,
            active=carried.active,
            failed=carried.failed,
            bytes_in=carried.bytes_in,
            bytes_out=carried.bytes_out,
            ejections=carried.ejections,
            health=health_of(endpoint, live),
        )


def health_of(endpoint: Endpoint, live: LiveServicePort) -> EndpointHealth:
    """How workers find an endpoint of a Service port."""
    found = live.endpoints.get(endpoint)
    if found is None:
        return EndpointHealth()
    return EndpointHealth(
        failures=found.failures,
        ejected_seconds=_rounded(found.ejected_seconds),
        probed=found.is_probed,
        taken_out=found.is_taken_out,
        taken_out_seconds=_rounded(found.taken_out_seconds),
        left_out_of=tuple(
            policy.value for policy, traffic in live.classes.items() if endpoint in traffic.left_out
        ),
    )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _slices_of_endpoints(
    name: ServicePortName, slices: Mapping[str, CheckedSlice]
) -> dict[Endpoint, list[str]]:
    """The names of the slices that list each endpoint."""
    listed: dict[Endpoint, list[str]] = {}
    for slice_name, checked in slices.items():
        for candidate in candidates_of(name, [checked]):
            listed.setdefault(candidate.endpoint, []).append(slice_name)
    return listed
