"""A Kubernetes Service proxy in user space.

An *agent* watches Services and EndpointSlices, opens a listener for every Service port and captures what is
sent to the Service's addresses with iptables. *Workers* accept those connections, connect to an endpoint in
turn - to another one when that fails - and let the kernel move the bytes.

    from userspace_proxy import StaticService

is a Service without a cluster, for programs of your own; `userspace_proxy.library` has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from userspace_proxy.library import Address, Balancing, ServicePortCounters, StaticService

__all__ = ["Address", "Balancing", "ServicePortCounters", "StaticService"]


def __getattr__(name: str) -> Any:
    """The library, when somebody asks: the agent and its workers start without it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from userspace_proxy import library

    return getattr(library, name)
