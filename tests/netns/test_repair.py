"""What strangers do to our rules is noticed and undone, long before all rules are read back anyway."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clients import expect_everybody
from tests.support.service_node import ServiceNode
from tests.support.waiting import wait_until

BEFORE_VERIFICATION_SECONDS = 10.0
TOOLS = {"nft": "iptables-nft", "legacy": "iptables-legacy", "python-iptables": "iptables-legacy"}

DEEDS: dict[str, list[tuple[str, ...]]] = {
    "nat flushed": [("-t", "nat", "-F")],
    "filter flushed": [("-t", "filter", "-F")],
    "everything deleted": [("-t", table, verb) for table in ("nat", "filter") for verb in ("-F", "-X")],
    "one jump deleted": [("-t", "nat", "-D", "PREROUTING", "1")],
}


@pytest.fixture(scope="module", params=list(TOOLS))
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ServiceNode, str]]:
    folder: Path = tmp_path_factory.mktemp("node")
    with ServiceNode(folder, "--iptables-backend", request.param) as node:
        node.agent.start()
        yield node, TOOLS[request.param]


@pytest.mark.parametrize("deed", DEEDS)
def test_it_is_undone_at_once(served: tuple[ServiceNode, str], deed: str) -> None:
    node, tool = served
    service = node.serve("greet", "name")
    rules = node.rules()
    for arguments in DEEDS[deed]:
        node.node.run(tool, *arguments)
    assert node.rules() != rules
    wait_until(lambda: node.rules() == rules, BEFORE_VERIFICATION_SECONDS)
    expect_everybody(node.client, service["greet"], service["name"], ("web-1", "web-2", "web-3"))
