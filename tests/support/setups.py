"""In how many ways the main job is tried: sources of objects, and ways of writing rules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.api_servers import API_SERVERS, running_api_server
from tests.support.cluster_objects import ApiServerObjects
from tests.support.service_node import ServiceNode


@dataclass(frozen=True, slots=True)
class Setup:
    """Where objects come from ("" for manifests, else one of API_SERVERS), and `--iptables-backend`."""

    api_server: str
    backend: str


WITH_MANIFESTS = [
    pytest.param(Setup("", backend), id=f"manifests-{backend}")
    for backend in ("nft", "legacy", "python-iptables")
]
WITH_API_SERVERS = [
    pytest.param(Setup(str(server.values[0]), "nft"), id=f"{server.id}-nft", marks=server.marks)
    for server in API_SERVERS
]


@contextmanager
def serving_node(setup: Setup, folder: Path) -> Iterator[ServiceNode]:
    """A node with its agent started."""
    with ExitStack() as stack:
        cluster = None
        if setup.api_server:
            cluster = ApiServerObjects(stack.enter_context(running_api_server(setup.api_server, folder)))
        flags = ("--iptables-backend", setup.backend)
        node = stack.enter_context(ServiceNode(folder, *flags, cluster=cluster))
        if cluster is not None:
            stack.enter_context(cluster.reachable_inside(node.node))
        node.agent.start()
        yield node
