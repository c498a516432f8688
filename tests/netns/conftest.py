"""Tests against the real kernel: skipped with the reason where it refuses namespaces, failed there in CI."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.conftest import ISOLATION_REFUSAL
from userspace_proxy.demo.node_network import NodeNetwork


@pytest.fixture(autouse=True, scope="session")
def require_namespaces(pytestconfig: pytest.Config) -> None:
    """Skip, or in CI fail, every test of this folder where this run is not isolated."""
    refusal = pytestconfig.stash[ISOLATION_REFUSAL]
    if refusal is not None:
        if os.environ.get("CI"):
            pytest.fail(f"CI must run the tests in namespaces, but {refusal}")
        pytest.skip(refusal)


@pytest.fixture
def node_network() -> Iterator[NodeNetwork]:
    """A fresh node with a pod bridge and no pods yet."""
    with NodeNetwork() as network:
        yield network
