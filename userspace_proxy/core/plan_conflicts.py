"""What a plan leaves out of what Services want, and why: for reports, in values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.frontend_claims import Precedence
from userspace_proxy.core.service_port import Frontend, Port, ServicePortName


@dataclass(frozen=True, slots=True)
class LostClaim:
    """A frontend that a Service port wants and another one has, and why that one."""

    frontend: Frontend
    loser: ServicePortName
    owner: ServicePortName
    precedence: Precedence


@dataclass(frozen=True, slots=True)
class LostHealthCheck:
    """A healthCheckNodePort that no check would reach.

    It is a NodePort too, so that what is sent there goes to `owner`; or (None) it is a proxy port, where the
    guard lets in nothing but redirected traffic.
    """

    port: Port
    owner: ServicePortName | None


class WhyUndialled(Enum):
    """Why an endpoint is left out that its slice calls good."""

    OWN_FRONTEND = "own frontend"
    """It is an address that we capture: the connection would come back to us for ever."""
    PROXY_PORT = "proxy port"
    """It is on this node at a proxy port, where the guard lets in nothing but redirected traffic."""


@dataclass(frozen=True, slots=True)
class UndialledEndpoint:
    """An endpoint of a Service port that is never dialled."""

    endpoint: Endpoint
    why: WhyUndialled
