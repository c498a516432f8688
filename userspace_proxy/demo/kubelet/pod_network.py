"""What the kubelet needs of the network it runs pods in; whoever builds the cluster implements it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol


class PodSandbox(Protocol):
    """A pod's network namespace, with addresses and routes, ready for its processes."""

    @property
    def addresses(self) -> Sequence[str]:
        """The pod's addresses, one of each family, in the order of status.podIPs."""

    @property
    def namespace_path(self) -> Path:
        """The file that names the network namespace; setns(2)."""

    def entering(self, argv: Sequence[str]) -> Sequence[str]:
        """The command that enters the sandbox and then becomes `argv`, under the same process id.

        Inside, `/etc/resolv.conf` and `/etc/hosts` are the pod's own; `ip netns exec NAME` does that.
        """


class PodNetwork(Protocol):
    """One node's part of the network. `key` is `namespace/name` of a Pod."""

    @property
    def node_namespace_path(self) -> Path:
        """The file that names the node's network namespace, from where pods are probed."""

    async def add_pod(self, key: str) -> PodSandbox:
        """Make a pod's sandbox, with the next free address of each of the node's pod CIDRs.

        Raises OSError, or UserspaceProxyError, where that fails; nothing is left behind then.
        """

    async def remove_pod(self, key: str) -> None:
        """Kill what is left in the sandbox, delete it, give its addresses back. Safe to repeat."""
