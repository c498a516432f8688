"""A pod on its node, from the first sight of its object to the last trace of it; pure.

What happened goes in as calls in the past tense, and what is to be done comes out as commands: sandbox, init
containers one after the other, containers beside each other; and back when the pod is deleted, vanishes, or
is done. Every decision is taken from what is there now, so nothing has to arrive in a certain order. Time is
an argument, in seconds of the epoch. Source: "Pod Lifecycle".
"""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, Final

from userspace_proxy.core.back_off import doubled_seconds
from userspace_proxy.demo.kubelet.commands import (
    AddSandbox,
    Command,
    DeletePod,
    ProbeKind,
    RecordEvent,
    RemoveSandbox,
    SendSignal,
    SetInbound,
)
from userspace_proxy.demo.kubelet.container_life import LEAST_GRACE_SECONDS, ContainerLife, Terminated
from userspace_proxy.demo.kubelet.pod_spec import KILL, Container, Inbound, Pod, RestartPolicy

VANISHED_GRACE_SECONDS: Final = 1
"""For a pod whose object is gone already, by a deletion by force."""

_FIRST_RETRY_SECONDS: Final = 1.0
_LONGEST_RETRY_SECONDS: Final = 30.0
_LOST: Final = 255


class Sandbox(Enum):
    """How far a pod's network namespace has come."""

    NONE = "none"
    ADDING = "adding"
    PRESENT = "present"
    REMOVING = "removing"


class Phase(Enum):
    """A Pod's status.phase."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"

    @property
    def is_final(self) -> bool:
        return self in (Phase.SUCCEEDED, Phase.FAILED)


class PodLife:
    """Tell it what happens, do what it says. `unsupported` are fields of the object that it cannot honour."""

    def __init__(self, pod: Pod, unsupported: Sequence[str], now: float) -> None:
        self.pod = pod
        self.started_at = now
        self.addresses: tuple[str, ...] = ()
        self.sandbox = Sandbox.NONE
        self._unsupported = unsupported
        self._killed = pod.metadata.annotations.get(KILL, "")
        self._inbound = Inbound.ACCEPTED
        self._sandbox_failures = 0
        self._sandbox_due_at = now
        self._has_vanished = False
        self._deletion_asked = False
        self._ends_since: float | None = None
        self._final = _final_phase(pod)
        self.was_final = self._final is not None
        """Whether it had ended before this kubelet saw it: its status is not ours to write."""
        self.is_initialized = False
        """Whether the containers may run: every init container has succeeded, or has started if it stays."""
        self.init_containers = self._lives(pod.spec.init_containers, "initContainerStatuses", now)
        self.containers = self._lives(pod.spec.containers, "containerStatuses", now)
        self._by_name = {life.spec.name: life for life in (*self.init_containers, *self.containers)}

    @property
    def is_being_deleted(self) -> bool:
        return self._has_vanished or bool(self.pod.metadata.deletion_timestamp)

    @property
    def is_over(self) -> bool:
        """Whether nothing is left of it, here and at the API server."""
        return self._has_vanished and self.sandbox is Sandbox.NONE

    @property
    def phase(self) -> Phase:
        """Where the pod is, as users see it."""
        if self._final is not None:
            return self._final
        if any(life.is_finished and not life.has_succeeded for life in self.init_containers):
            return Phase.FAILED
        if not self.is_initialized:
            return Phase.PENDING
        if all(life.is_finished for life in self.containers):
            succeeded = all(life.has_succeeded for life in self.containers)
            return Phase.SUCCEEDED if succeeded else Phase.FAILED
        if all(life.has_ever_run for life in self.containers):
            return Phase.RUNNING
        return Phase.PENDING

    @property
    def due_at(self) -> float | None:
        """When `waited` has something to do, if nothing else happens."""
        if self.sandbox is Sandbox.NONE:
            return self._sandbox_due_at if self._wants_sandbox else None
        if self.sandbox is not Sandbox.PRESENT:
            return None
        may_run = [] if self._is_ending else self._may_run()
        due = [life.due_at for life in self._by_name.values() if life.is_alive or life in may_run]
        return min((at for at in due if at is not None), default=None)

    def begin(self, now: float) -> list[Command]:
        """The object is there."""
        commands: list[Command] = []
        if self._unsupported and not self.is_being_deleted:
            fields = ", ".join(self._unsupported)
            commands.append(RecordEvent("Unsupported", f"This cluster goes on without: {fields}", True))
        return commands + self._go_on(now)

    def changed(self, pod: Pod, now: float) -> list[Command]:
        """The object is another now. Of a Pod's spec nothing that concerns us can change."""
        self.pod = pod
        kill = pod.metadata.annotations.get(KILL, "")
        commands: list[Command] = []
        if kill not in ("", self._killed):
            commands += self.kill()
        self._killed = kill
        return commands + self._go_on(now)

    def kill(self) -> list[Command]:
        """Somebody wants to see the processes die without a warning."""
        return [SendSignal(name, signal.SIGKILL) for name, life in self._by_name.items() if life.is_alive]

    def vanished(self, now: float) -> list[Command]:
        """The object is gone from the API."""
        self._has_vanished = True
        return self._go_on(now)

    def sandbox_added(self, addresses: Sequence[str], now: float) -> list[Command]:
        self.sandbox = Sandbox.PRESENT
        self.addresses = tuple(addresses)
        self._inbound = Inbound.ACCEPTED
        return self._go_on(now)

    def sandbox_failed(self, message: str, now: float) -> list[Command]:
        self.sandbox = Sandbox.NONE
        self._sandbox_failures += 1
        self._sandbox_due_at = now + doubled_seconds(
            _FIRST_RETRY_SECONDS, self._sandbox_failures, _LONGEST_RETRY_SECONDS
        )
        text = f"Failed to create pod sandbox: {message}"
        return [RecordEvent("FailedCreatePodSandBox", text, True), *self._go_on(now)]

    def sandbox_removed(self, now: float) -> list[Command]:
        self.sandbox = Sandbox.NONE
        return self._go_on(now)

    def container_started(self, name: str, now: float) -> list[Command]:
        return self._after(self._by_name[name].started(now), now)

    def container_not_started(self, name: str, message: str, now: float) -> list[Command]:
        return self._after(self._by_name[name].not_started(message, now), now)

    def container_exited(self, name: str, status: int, now: float) -> list[Command]:
        """`status` is the exit status, -n for signal n."""
        self._by_name[name].exited(status, now)
        return self._go_on(now)

    def probed(
        self, name: str, attempt: int, kind: ProbeKind, failure: str | None, now: float
    ) -> list[Command]:
        """A probe has an outcome: None, or why it failed."""
        return self._after(self._by_name[name].probed(attempt, kind, failure, now), now)

    def pre_stop_ended(self, name: str, failure: str | None, now: float) -> list[Command]:
        """A container's hook is done: None, or why it failed."""
        return self._after(self._by_name[name].pre_stop_ended(failure, now), now)

    def waited(self, now: float) -> list[Command]:
        """Time has passed."""
        return self._go_on(now)

    @property
    def _is_ending(self) -> bool:
        return self.is_being_deleted or self.phase.is_final

    @property
    def _wants_sandbox(self) -> bool:
        return self.sandbox is Sandbox.NONE and not self._is_ending

    def _after(self, commands: Iterable[Command], now: float) -> list[Command]:
        return [*commands, *self._go_on(now)]

    def _go_on(self, now: float) -> list[Command]:
        """Do what is to be done, given all that is known."""
        self.is_initialized |= all(life.is_through for life in self.init_containers)
        return list(self._end(now) if self._is_ending else self._run(now))

    def _run(self, now: float) -> Iterator[Command]:
        if self.sandbox is Sandbox.NONE and now >= self._sandbox_due_at:
            self.sandbox = Sandbox.ADDING
            yield AddSandbox()
        if self.sandbox is not Sandbox.PRESENT:
            return
        if self._inbound is not self.pod.inbound:
            yield SetInbound(self._inbound, self.pod.inbound)
            self._inbound = self.pod.inbound
        for life in self._by_name.values():
            yield from life.waited(now)
        for life in self._may_run():
            yield from life.start(now)

    def _may_run(self) -> Sequence[ContainerLife]:
        """The containers whose turn it is."""
        if self.is_initialized:
            return [*(life for life in self.init_containers if life.spec.is_sidecar), *self.containers]
        through = list(itertools.takewhile(lambda life: life.is_through, self.init_containers))
        sidecars = [life for life in through if life.spec.is_sidecar]
        return [*sidecars, self.init_containers[len(through)]]

    def _end(self, now: float) -> Iterator[Command]:
        """Containers first; then, in the time that is left, those that began before and stayed for them."""
        if self._ends_since is None:
            self._ends_since = now
        grace = self._grace_seconds
        alive = [life for life in self.containers if life.is_alive]
        if not alive:
            alive = [life for life in self.init_containers if life.is_alive]
            grace = max(min(grace, LEAST_GRACE_SECONDS), grace - (now - self._ends_since))
        for life in alive:
            yield from life.stop(grace, now, f"Stopping container {life.spec.name}")
        if alive:
            return
        if self.sandbox is Sandbox.PRESENT:
            self.sandbox = Sandbox.REMOVING
            yield RemoveSandbox()
        elif (
            self.sandbox is Sandbox.NONE
            and self.is_being_deleted
            and not (self._has_vanished or self._deletion_asked)
        ):
            self._deletion_asked = True
            yield DeletePod()

    @property
    def _grace_seconds(self) -> float:
        if self._has_vanished:
            return VANISHED_GRACE_SECONDS
        asked = self.pod.metadata.deletion_grace_period_seconds
        return self.pod.spec.termination_grace_period_seconds if asked is None else asked

    def _lives(self, containers: Sequence[Container], statuses: str, now: float) -> list[ContainerLife]:
        """The containers, and what an earlier run of the cluster has left of them in the pod's status."""
        grace = self.pod.spec.termination_grace_period_seconds
        earlier = {status.get("name"): status for status in self.pod.status.get(statuses, ())}
        lives = []
        for container in containers:
            status: Mapping[str, Any] = earlier.get(container.name, {})
            restarts = status.get("restartCount", 0)
            has_run = "waiting" not in status.get("state", {"waiting": {}}) or "terminated" in status.get(
                "lastState", {}
            )
            lost = Terminated(_LOST, "Unknown", restarts, now, now, "the cluster ended") if has_run else None
            policy = self._policy(container, is_init=statuses.startswith("init"))
            lives.append(ContainerLife(container, policy, grace, restarts=restarts, last_state=lost))
        return lives

    def _policy(self, container: Container, *, is_init: bool) -> RestartPolicy:
        policy = self.pod.spec.restart_policy
        if not is_init:
            return policy
        if container.is_sidecar:
            return RestartPolicy.ALWAYS
        return RestartPolicy.NEVER if policy is RestartPolicy.NEVER else RestartPolicy.ON_FAILURE


def _final_phase(pod: Pod) -> Phase | None:
    phase = pod.status.get("phase")
    return next((final for final in Phase if final.is_final and final.value == phase), None)
