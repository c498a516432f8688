"""Which of a Service port's endpoints a class of traffic may use on this node.

Source: https://kubernetes.io/docs/reference/networking/virtual-ips/ (traffic policies, terminating endpoints)
and https://kubernetes.io/docs/concepts/services-networking/topology-aware-routing/ (hints).

- Usable endpoints are the ready ones; if there are none, those that still serve while they terminate.
- Policy Local takes those on this node, by the same rule, and never another's.
- Hints narrow policy Cluster only, and only if every ready endpoint carries one: first by node, then by zone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

import msgspec

from userspace_proxy.core.endpoint import CheckedSlice, Endpoint, EndpointHost
from userspace_proxy.core.service_port import IPFamily, ServicePortName, TrafficPolicy


class Outcome(Enum):
    """What happens to a new connection."""

    SERVE = "serve"
    REFUSE = "refuse"
    """No endpoint is usable anywhere: the client is told at once."""
    DROP = "drop"
    """Policy Local has none here but others do: silence, so that a load balancer tries the next node."""


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """An endpoint of a Service port, before any choice."""

    endpoint: Endpoint
    host: EndpointHost


@dataclass(frozen=True, slots=True)
class Selection:
    endpoints: tuple[Endpoint, ...]
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """What of this node decides about endpoints."""

    name: str
    zone: str | None = None


def candidates_of(name: ServicePortName, slices: Iterable[CheckedSlice]) -> tuple[Candidate, ...]:
    """The union of all slices, sorted; of an endpoint listed twice the entry that is not terminating wins.

    A slice's port belongs to the Service port of the same name; its number may differ from slice to slice.
    """
    found: dict[Endpoint, EndpointHost] = {}
    for checked in slices:
        if checked.family is not name.family:
            continue
        for port in checked.ports:
            if port.name != name.port_name or port.protocol is not name.protocol:
                continue
            for host in checked.hosts:
                endpoint = Endpoint(host.address, port.number)
                known = found.get(endpoint)
                if known is None or (known.terminating and not host.terminating):
                    found[endpoint] = host
    return tuple(Candidate(endpoint, found[endpoint]) for endpoint in sorted(found))


def select_endpoints(candidates: Sequence[Candidate], policy: TrafficPolicy, node: NodeIdentity) -> Selection:
    """What traffic under `policy` may use on `node`, and what becomes of it if that is nothing."""
    everywhere = _usable(candidates)
    if not everywhere:
        return Selection((), Outcome.REFUSE)
    if policy is TrafficPolicy.LOCAL:
        here = _usable([candidate for candidate in candidates if candidate.host.node_name == node.name])
        if not here:
            return Selection((), Outcome.DROP)
        return Selection(_endpoints(here), Outcome.SERVE)
    return Selection(_endpoints(_narrowed_by_hints(everywhere, node)), Outcome.SERVE)


def ready_addresses(slices: Iterable[CheckedSlice], family: IPFamily, node_name: str) -> set[str]:
    """The addresses at which a Service has a ready endpoint on a node, whatever its ports."""
    return {
        host.address
        for checked in slices
        if checked.family is family and checked.ports
        for host in checked.hosts
        if host.ready and host.node_name == node_name
    }


def _usable(candidates: Sequence[Candidate]) -> Sequence[Candidate]:
    ready = [candidate for candidate in candidates if candidate.host.ready]
    if ready:
        return ready
    return [candidate for candidate in candidates if candidate.host.serving and candidate.host.terminating]


def _narrowed_by_hints(usable: Sequence[Candidate], node: NodeIdentity) -> Sequence[Candidate]:
    if not all(candidate.host.ready for candidate in usable):
        return usable  # the terminating fallback: better any than few
    by_node = _narrowed(usable, lambda host: host.hint_nodes, node.name)
    if by_node:
        return by_node
    by_zone = _narrowed(usable, lambda host: host.hint_zones, node.zone) if node.zone is not None else ()
    return by_zone or usable


def _narrowed(
    usable: Sequence[Candidate], hints: Callable[[EndpointHost], frozenset[str]], here: str
) -> Sequence[Candidate]:
    if not all(hints(candidate.host) for candidate in usable):
        return ()
    return [candidate for candidate in usable if here in hints(candidate.host)]


def _endpoints(candidates: Sequence[Candidate]) -> tuple[Endpoint, ...]:
    return tuple(candidate.endpoint for candidate in candidates)
