"""What the life of a pod asks of the world; each is carried out once, and its outcome told to the life."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from userspace_proxy.demo.kubelet.pod_spec import Inbound, LifecycleHandler, Probe


class ProbeKind(Enum):
    """What a probe is asked for. The value begins Kubernetes' messages about it."""

    STARTUP = "Startup"
    LIVENESS = "Liveness"
    READINESS = "Readiness"


@dataclass(frozen=True, slots=True)
class AddSandbox:
    """Make the pod's network namespace."""


@dataclass(frozen=True, slots=True)
class RemoveSandbox:
    """Delete the pod's network namespace, with whatever still runs there."""


@dataclass(frozen=True, slots=True)
class SetInbound:
    """Have packets from outside to the pod be treated otherwise than before."""

    before: Inbound
    after: Inbound


@dataclass(frozen=True, slots=True)
class StartContainer:
    """Start a container's process; `attempt` counts its starts, from 0."""

    name: str
    attempt: int


@dataclass(frozen=True, slots=True)
class SendSignal:
    """Send a container's process a signal."""

    name: str
    number: int


@dataclass(frozen=True, slots=True)
class RunPreStop:
    """Run a container's hook, for at most `seconds`."""

    name: str
    hook: LifecycleHandler
    seconds: float


@dataclass(frozen=True, slots=True)
class RunProbe:
    """Probe a container once."""

    name: str
    attempt: int
    kind: ProbeKind
    probe: Probe


@dataclass(frozen=True, slots=True)
class RecordEvent:
    """Make an Event about the pod."""

    reason: str
    message: str
    is_warning: bool = False


@dataclass(frozen=True, slots=True)
class DeletePod:
    """Tell the API server that nothing of the pod is left."""


Command: TypeAlias = (
    AddSandbox
    | RemoveSandbox
    | SetInbound
    | StartContainer
    | SendSignal
    | RunPreStop
    | RunProbe
    | RecordEvent
    | DeletePod
)
