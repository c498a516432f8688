"""What the guard in filter lets in: what was redirected, past everybody's own rules, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.clients import SILENT
from tests.support.exposed_service import (
    EVERYBODY,
    FAMILIES,
    PROTOCOLS,
    ExposedService,
    expect,
    meet,
    place_of,
    wire_external_addresses,
)
from tests.support.service_node import ENDPOINT_PORTS, PROXY_PORTS, ServiceNode
from tests.support.waiting import wait_until

SERVING, EMPTY, ELSEWHERE = ExposedService("serving", 1), ExposedService("empty", 2), ExposedService("far", 3)
VARIANTS = {"nft": "nft", "python-iptables": "legacy"}


@pytest.fixture(scope="module", params=VARIANTS)
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceNode]:
    """A node whose administrator lets nothing in but answers, pings and what IPv6 cannot do without."""
    folder = tmp_path_factory.mktemp("node")
    flags = ("--iptables-backend", request.param, "--cluster-cidr", "10.244.0.0/16,fd00:10:244::/48")
    with ServiceNode(folder, *flags, ipv6=True, second_node_address=True) as node:
        wire_external_addresses(node)
        for tool in ("iptables", "ip6tables"):
            program = f"{tool}-{VARIANTS[request.param]}"
            node.node.run(
                program,
                *["-A", "INPUT", "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT"],
            )
            icmp = "icmp" if tool == "iptables" else "ipv6-icmp"
            node.node.run(program, "-A", "INPUT", "-p", icmp, "-j", "ACCEPT")
            node.node.run(program, "-P", "INPUT", "DROP")
        node.start_servers(node.node)
        node.objects.apply(
            SERVING.manifest(), EMPTY.manifest(), ELSEWHERE.manifest(external_traffic_policy="Local")
        )
        node.apply_endpoints("serving", *map(node.endpoint_on, node.endpoints))
        node.apply_endpoints("far", node.endpoint_on(node.endpoints[0], "node-2"))
        node.agent.start()
        wait_until(lambda: meet(node.node, SERVING.frontends(node, "loopback")) == [EVERYBODY] * 4)
        wait_until(lambda: meet(node.client, ELSEWHERE.frontends(node, "own")) == [{"web-1"}] * 4)
        yield node


@pytest.mark.parametrize("place", ["pod", "node", "outside", "endpoint"])
def test_services_are_served_where_all_else_is_dropped(node: ServiceNode, place: str) -> None:
    where = place_of(node, place)
    for kind in ("clusterIP", "own", "second", "ingress", "externalIP"):
        expect(where, SERVING.frontends(node, kind), EVERYBODY)
    if place in ("pod", "outside"):
        host = [("TCP", (node.node.address, ENDPOINT_PORTS["greet"]))]
        host += [("UDP", (node.node.address_v6, ENDPOINT_PORTS["name"]))]
        expect(where, host, {SILENT})


@pytest.mark.parametrize("place", ["pod", "node", "outside"])
def test_no_proxy_port_answers_who_sends_there_directly(node: ServiceNode, place: str) -> None:
    """Those of workers, the one that refuses and the one that is silent; to each address of the node."""
    proxy_ports = {
        int(rule.replace(":", " ").split()[-1])
        for family in FAMILIES
        for rule in node.rules(family=family)
        if '"default/' in rule and "-A KUBE-PORTALS-GUARD" not in rule
    }
    assert len(proxy_ports) > 4
    assert proxy_ports <= {*PROXY_PORTS}
    addresses = [node.node.address, node.node.address_v6, *(["127.0.0.1", "::1"] if place == "node" else [])]
    direct = [
        (protocol, (address, port))
        for protocol in PROTOCOLS
        for address in addresses
        for port in sorted(proxy_ports)
    ]
    expect(place_of(node, place), direct, {SILENT})


def test_under_a_local_policy_with_endpoints_elsewhere_outsiders_hear_nothing(node: ServiceNode) -> None:
    for kind in ("own", "ingress"):
        expect(node.network.outside, ELSEWHERE.frontends(node, kind), {SILENT})
