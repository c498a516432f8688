"""These tests read and write the real kernel, in namespaces."""

from tests.netns.conftest import node_network, require_namespaces

__all__ = ["node_network", "require_namespaces"]
