"""Every Kubernetes Event that the agent writes, by its reason. docs/events.md is made of this.

Reasons that kube-proxy has too are called as there, so that alerts on them go on. Source: the reference of
Event, events.k8s.io/v1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

from userspace_proxy.core.objects import Kind


class EventType(Enum):
    """As the API spells it."""

    NORMAL = "Normal"
    WARNING = "Warning"


@dataclass(frozen=True, slots=True)
class Reason:
    """What one kind of Event says. `action` is what the agent was about.

    It is about this node, or an object of `kind`. What is found in objects alone `is_everywhere` the same, so
    that the first node to say it says it for all.
    """

    name: str
    kind: Kind
    action: str
    help: str
    type: EventType = EventType.WARNING
    is_everywhere: bool = False


def _on_node(name: str, action: str, help: str) -> Reason:
    return Reason(name, Kind.NODE, action, help)


def _on_service(name: str, action: str, help: str, *, is_everywhere: bool = False) -> Reason:
    return Reason(name, Kind.SERVICE, action, help, is_everywhere=is_everywhere)


STARTING: Final = Reason(
    "Starting", Kind.NODE, "StartKubeProxy", "An agent begins to serve.", EventType.NORMAL
)
RULES_NOT_WRITTEN: Final = _on_node(
    "FailedToWriteRules",
    "SyncRules",
    "Rules cannot be read or installed; it is tried until they can. Changes do not reach clients meanwhile.",
)
RULES_REPAIRED: Final = _on_node(
    "RulesRepaired", "SyncRules", "Somebody deleted or changed rules of ours, and they have been repaired."
)
FAMILY_NOT_SERVED: Final = _on_node(
    "FamilyNotServed", "StartKubeProxy", "Services are served in IPv4 alone, until the agent starts again."
)
CONFIGURATION_INVALID: Final = _on_node(
    "InvalidConfiguration",
    "ReloadConfiguration",
    "A changed configuration file or kubeconfig is wrong; what was in force stays so.",
)
RESTART_NEEDED: Final = _on_node(
    "RestartNeeded",
    "ReloadConfiguration",
    "The configuration file has changed in what takes effect at the next start.",
)
HEALTHZ_NOT_SERVED: Final = _on_node(
    "FailedToStartProxierHealthcheck", "StartKubeProxy", "The address of /healthz is taken, or not to be had."
)
METRICS_NOT_SERVED: Final = _on_node(
    "FailedToStartMetrics", "StartKubeProxy", "The address of /metrics is taken, or not to be had."
)
CONNTRACK_NEARLY_FULL: Final = _on_node(
    "ConntrackNearlyFull", "Watch", "Beyond the limit of tracked connections the kernel drops new ones."
)
OUT_OF_DESCRIPTORS: Final = _on_node(
    "OutOfDescriptors", "Proxy", "A worker has no descriptor, or no socket memory, for new connections."
)
WORKER_LOST: Final = _on_node(
    "WorkerLost", "Proxy", "A worker ended, and its connections with it; a spare serves in its place."
)
INVALID_FIELD: Final = _on_service(
    "InvalidField", "Serve", "A field cannot be served; what depends on it is left out.", is_everywhere=True
)
INVALID_ANNOTATION: Final = _on_service(
    "InvalidAnnotation",
    "Serve",
    "An annotation of ours is unknown, or its value is none that it may have; the default is used.",
    is_everywhere=True,
)
PROTOCOL_NOT_CARRIED: Final = _on_service(
    "ProtocolNotCarried",
    "Serve",
    "A port is neither TCP nor UDP (SCTP most likely), and left alone; the others are served.",
    is_everywhere=True,
)
INVALID_ENDPOINT: Final = _on_service(
    "InvalidEndpoint",
    "Serve",
    "An EndpointSlice names what is no endpoint, such as a loopback address; the others are used.",
    is_everywhere=True,
)
FRONTEND_CONFLICT: Final = _on_service(
    "FrontendConflict",
    "Serve",
    "Another Service has the NodePort, external IP or other address that this one wants.",
    is_everywhere=True,
)
ENDPOINT_LEFT_OUT: Final = _on_service(
    "EndpointLeftOut",
    "Serve",
    "An endpoint is the address of a Service, which would be a loop, or is at a proxy port of its node.",
)
LISTENER_NOT_OPENED: Final = _on_service(
    "FailedToOpenListener", "Listen", "No proxy port, or no descriptor, is left; clients are refused."
)
PORT_SHARED: Final = _on_service(
    "PortShared",
    "Listen",
    "A process of the node listens where the Service is reached; the Service gets what is sent there.",
)
HEALTH_CHECK_NOT_SERVED: Final = _on_service(
    "FailedToStartServiceHealthcheck", "Listen", "The healthCheckNodePort cannot be opened, or is another's."
)


def _all() -> Iterator[Reason]:
    yield from (value for value in globals().values() if isinstance(value, Reason))


REASONS: Final = tuple(_all())
