"""An endpoint as the proxy uses it, and how an EndpointSlice becomes some of them.

Source: the discovery.k8s.io/v1 EndpointSlice reference.
"""

from __future__ import annotations

from dataclasses import dataclass

from userspace_proxy.core.service_port import Port


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """Where a connection can go. `address` is an IP in its canonical spelling."""

    address: str
    port: Port

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"
