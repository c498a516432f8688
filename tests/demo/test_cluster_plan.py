"""What a file of a cluster may say, and how it is told what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from userspace_proxy.core.service_port import IPFamily
from userspace_proxy.demo.cluster_node import NodeAddresses
from userspace_proxy.demo.cluster_plan import (
    DEFAULT_MANIFESTS,
    ClusterPlan,
    NodePlan,
    manifest_files,
    plan_of,
    read_plan,
)
from userspace_proxy.demo.daemon import fit_to_machine
from userspace_proxy.errors import UsageError


def read(folder: Path, text: str) -> ClusterPlan:
    file = folder / "cluster.yaml"
    file.write_text(text)
    return read_plan(file)


def test_nodes_are_numbered_and_spread_over_zones() -> None:
    assert plan_of(4).nodes == (
        NodePlan("node-1", "zone-a"),
        NodePlan("node-2", "zone-b"),
        NodePlan("node-3", "zone-c"),
        NodePlan("node-4", "zone-a"),
    )


def test_an_empty_file_is_the_default(tmp_path: Path) -> None:
    assert read(tmp_path, "") == read(tmp_path, "nodes: 3") == plan_of(3)


def test_a_file_says_everything(tmp_path: Path) -> None:
    plan = read(
        tmp_path,
        "nodes: [{name: left, zone: z}, {name: right}]\n"
        "ipFamilies: [IPv4]\n"
        "manifests: [web.yaml]\n"
        "proxyFlags: [-v=4]\n",
    )
    assert plan == ClusterPlan(
        nodes=(NodePlan("left", "z"), NodePlan("right")),
        ip_families=(IPFamily.IPV4,),
        manifests=(str(tmp_path / "web.yaml"),),
        proxy_flags=("-v=4",),
    )
    assert not plan.ipv6


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nodes: 0", "`nodes`: a cluster has 1 to 99 nodes, not 0"),
        ("nodes: []", "`nodes`: a cluster has 1 to 99 nodes, not 0"),
        ("nodes: many", "Expected `int | array`, got `str` - at `$.nodes`"),
        ("nodes: [{name: a}, {name: a}]", "2 nodes are called 'a'"),
        ("nodes: [{name: Node_1}]", "'Node_1' cannot be a node's name"),
        ("nodes: [{name: outside}]", "'outside' is the name of something else"),
        ("nodes: [{name: a, colour: red}]", "unknown field `colour` - at `$.nodes[0]`"),
        ("ipFamilies: [IPv6]", "`ipFamilies` must have IPv4"),
        ("ipFamilies: [IPv5]", "Invalid enum value 'IPv5' - at `$.ipFamilies[0]`"),
        ("nodes: [", "while parsing a flow node"),
        ("- 1", "Expected `object`, got `array`"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UsageError) as raised:
        read(tmp_path, text)
    assert says in str(raised.value)
    assert str(raised.value).startswith(f"--file: {tmp_path}/cluster.yaml: ")


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.yaml cannot be read: No such file"):
        read_plan(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff")
    with pytest.raises(UsageError, match="is no text"):
        read_plan(tmp_path / "bytes.yaml")


def test_manifests_are_files_and_those_of_folders(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    for name in ("one.yaml", "more/b.yaml", "more/a.json", "more/README.md"):
        (tmp_path / name).write_text("")
    plan = read(tmp_path, "manifests: [one.yaml, more]")
    assert [file.name for file in manifest_files(plan)] == ["one.yaml", "a.json", "b.yaml"]
    assert manifest_files(read(tmp_path, "manifests: []")) == []
    with pytest.raises(UsageError, match=r"two\.yaml is neither a file nor a folder"):
        manifest_files(read(tmp_path, "manifests: [two.yaml]"))


def test_there_are_manifests_by_default() -> None:
    assert {file.parent for file in manifest_files(plan_of(1))} == {DEFAULT_MANIFESTS}


def test_without_ipv6_it_is_a_cluster_of_ipv4() -> None:
    plan, problems = fit_to_machine(plan_of(1), ipv6=False)
    assert plan.ip_families == (IPFamily.IPV4,)
    assert problems == ("this kernel has no IPv6: everything works over IPv4 alone",)
    assert fit_to_machine(plan, ipv6=False) == (plan, ())
    assert fit_to_machine(plan_of(1), ipv6=True) == (plan_of(1), ())


def test_addresses_of_a_node_look_alike_in_both_families() -> None:
    node = NodeAddresses(12, ipv6=True)
    assert node.addresses == ("192.0.2.22", "2001:db8::22")
    assert node.pod_cidrs == ("10.244.12.0/24", "fd00:10:244:12::/64")
    assert node.pod_addresses(30) == ("10.244.12.30", "fd00:10:244:12::30")
    assert NodeAddresses(99, ipv6=False).addresses == ("192.0.2.109",)
