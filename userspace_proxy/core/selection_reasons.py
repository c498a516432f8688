"""Why a class of traffic uses an endpoint, or does not: `endpoint_selection`'s verdicts in sentences.

What is used is asked of `select_endpoints` itself, so a reason can be unhelpful but its verdict never wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never

from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.endpoint_selection import Candidate, NodeIdentity, select_endpoints
from userspace_proxy.core.plan_conflicts import WhyUndialled
from userspace_proxy.core.service_port import TrafficPolicy


@dataclass(frozen=True, slots=True)
class Use:
    """Whether an endpoint is used, and why, as a clause about it."""

    is_used: bool
    reason: str


def explain_selection(
    candidates: Sequence[Candidate],
    undialled: Mapping[Endpoint, WhyUndialled],
    policy: TrafficPolicy,
    node: NodeIdentity,
) -> dict[Endpoint, Use]:
    """What becomes of each candidate for traffic under `policy` on `node`."""
    dialled = [candidate for candidate in candidates if candidate.endpoint not in undialled]
    used = frozenset(select_endpoints(dialled, policy, node).endpoints)
    explained = {}
    for candidate in candidates:
        endpoint = candidate.endpoint
        if endpoint in undialled:
            explained[endpoint] = Use(False, _why_undialled(undialled[endpoint]))
        elif endpoint in used:
            explained[endpoint] = Use(True, _why_used(candidate, policy, node, len(used) < len(dialled)))
        else:
            explained[endpoint] = Use(False, _why_not(candidate, policy, node))
    return explained


def _why_used(candidate: Candidate, policy: TrafficPolicy, node: NodeIdentity, is_choice: bool) -> str:
    host = candidate.host
    if not host.ready:
        return f"terminating, and none {'on this node ' if policy is TrafficPolicy.LOCAL else ''}is ready"
    if policy is TrafficPolicy.LOCAL:
        return "ready, and on this node"
    if is_choice and node.name in host.hint_nodes:
        return "ready, and hinted for this node"
    if is_choice and node.zone in host.hint_zones:
        return f"ready, and hinted for this node's zone {node.zone}"
    return "ready"


def _why_not(candidate: Candidate, policy: TrafficPolicy, node: NodeIdentity) -> str:
    host = candidate.host
    if not host.ready and not host.terminating:
        return "not ready"
    if not host.ready and not host.serving:
        return "terminating, and serves no more"
    if policy is TrafficPolicy.LOCAL and host.node_name != node.name:
        where = host.node_name or "no node that is known"
        return f"on {where}, and traffic policy Local takes those of this node"
    if not host.ready:
        return "terminating, and others are ready"
    hints = (
        *sorted(host.hint_nodes),
        *(f"zone {zone}" for zone in sorted(host.hint_zones)),
    )
    here = node.name + (f" in zone {node.zone}" if node.zone is not None else "")
    return f"hinted for {', '.join(hints)}, and this is {here}"


def _why_undialled(why: WhyUndialled) -> str:
    match why:
        case WhyUndialled.OWN_FRONTEND:
            return "the address of a Service, and so a loop"
        case WhyUndialled.PROXY_PORT:
            return "at a proxy port of this node, where only redirected traffic is let in"
        case _:
            assert_never(why)
