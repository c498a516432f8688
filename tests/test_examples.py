"""The manifests in examples/ are right: nothing in them is complained about, and they lead where they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from userspace_proxy.core.cluster_state import ClusterState
from userspace_proxy.core.objects import Upserted
from userspace_proxy.core.problem import Problem
from userspace_proxy.core.proxy_plan import HealthCheck, PlannedDestination, ProxyPlan
from userspace_proxy.core.service_port import IPFamily
from userspace_proxy.sources.manifest_file import parse_manifest

EXAMPLES = Path(__file__).parents[1] / "examples"

MANIFESTS = {
    "10.96.0.10:80/TCP": "web Cluster: 3",
    "10.96.0.20:80/TCP": "sticky Cluster: 3",
    "10.96.0.53:53/UDP": "names Cluster: 3",
}
NODE_PORT = {"10.96.1.10:80/TCP": "shop Cluster: 2", "0.0.0.0:30080/TCP": "shop Cluster: 2"}
FROM_OUTSIDE = "store Local: 1, inside Cluster: 2"
LOAD_BALANCER = {
    "10.96.1.20:443/TCP": "store Cluster: 2",
    "0.0.0.0:30443/TCP": FROM_OUTSIDE,
    "203.0.113.80:443/TCP": f"{FROM_OUTSIDE}, for 198.51.100.0/24 10.244.0.0/16",
}
DUAL_STACK = {
    f"{address}:53/{protocol}": "resolver Cluster: 2"
    for address in ("10.96.1.53", "[fd00:10:96::1:53]")
    for protocol in ("UDP", "TCP")
}


def plan(files: list[Path]) -> tuple[ProxyPlan, list[Problem]]:
    """What the proxy of node-1 makes of the files, and what is wrong with them."""
    state = ClusterState("node-1")
    problems: list[Problem] = []
    for file in files:
        manifest = parse_manifest(str(file), file.read_bytes())
        problems.extend(manifest.problems)
        for item in manifest.objects:
            for found in state.apply(Upserted(item), str).values():
                problems.extend(found)
    planned = ProxyPlan(frozenset(IPFamily))
    planned.update(state, state.take_dirty())
    return planned, problems


def portals(planned: ProxyPlan) -> dict[str, str]:
    """Where each frontend leads: the Service, the policy, and how many endpoints that leaves."""

    def described(destination: PlannedDestination) -> str:
        listener = destination.listener
        selections = dict(planned.service_ports[listener.service_port].selections)
        return f"{listener.policy.value}: {len(selections[listener.policy].endpoints)}"

    found = {}
    for frontend, portal in planned.portals.items():
        text = f"{portal.owner.service.name} {described(portal.outside)}"
        if portal.inside != portal.outside:
            text += f", inside {described(portal.inside)}"
        if portal.source_ranges is not None:
            text += f", for {' '.join(portal.source_ranges)}"
        found[str(frontend)] = text
    return found


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        pytest.param("manifests/*", MANIFESTS, id="manifests"),
        pytest.param("services/node-port.yaml", NODE_PORT, id="NodePort"),
        pytest.param("services/load-balancer.yaml", LOAD_BALANCER, id="LoadBalancer"),
        pytest.param("services/dual-stack.yaml", DUAL_STACK, id="dual-stack"),
        pytest.param("*s/*", {**MANIFESTS, **NODE_PORT, **LOAD_BALANCER, **DUAL_STACK}, id="all together"),
    ],
)
def test_an_example_is_served_as_it_says(pattern: str, expected: dict[str, str]) -> None:
    planned, problems = plan(sorted(EXAMPLES.glob(pattern)))
    assert problems == []
    assert (planned.lost_claims, planned.undialled) == ({}, {})
    assert portals(planned) == expected


def test_the_load_balancer_of_the_example_finds_a_pod_here() -> None:
    planned, _ = plan([EXAMPLES / "services" / "load-balancer.yaml"])
    [check] = planned.health_checks.values()
    assert check == HealthCheck(check.port, local_endpoints=1)
    assert check.port == 32080


def test_every_example_is_among_these() -> None:
    assert {file.name for file in (EXAMPLES / "services").iterdir()} == {
        "node-port.yaml",
        "load-balancer.yaml",
        "dual-stack.yaml",
    }
