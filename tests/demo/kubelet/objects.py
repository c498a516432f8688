"""Pods, as the API server would tell of them, and a player that carries commands out in its own time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from userspace_proxy.demo.kubelet.commands import (
    AddSandbox,
    Command,
    ProbeKind,
    RecordEvent,
    RemoveSandbox,
    RunPreStop,
    RunProbe,
    SendSignal,
    StartContainer,
)
from userspace_proxy.demo.kubelet.pod_life import PodLife
from userspace_proxy.demo.kubelet.pod_spec import Pod, read_pod, unsupported_fields
from userspace_proxy.demo.kubelet.pod_status import pod_status

ADDRESSES = ("10.244.1.2", "fd00:10:244:1::2")
START = 1_800_000_000.0


def pod_json(
    *containers: dict[str, Any], metadata: dict[str, Any] | None = None, **spec: Any
) -> dict[str, Any]:
    """A Pod of the name `web`, of one container `web` unless others are given."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": "default", "name": "web", "uid": "u-1", **(metadata or {})},
        "spec": {"nodeName": "node-1", "containers": list(containers) or [{"name": "web"}], **spec},
    }


def a_pod(*containers: dict[str, Any], metadata: dict[str, Any] | None = None, **spec: Any) -> Pod:
    return read_pod(pod_json(*containers, metadata=metadata, **spec))


class Player:
    """Does what a life says, at once: sandboxes come and go, containers start, hooks and probes succeed.

    SIGTERM and SIGKILL end a container, unless it is `stubborn`; then only SIGKILL does. `failing` are kinds
    of probes that fail. What was done is in `done`, as words, and what was said in `events`.
    """

    def __init__(
        self, json: dict[str, Any], *, stubborn: bool = False, failing: Iterable[ProbeKind] = ()
    ) -> None:
        self.now = START
        self.stubborn = stubborn
        self.failing = set(failing)
        self.holds_hooks = False
        self.done: list[str] = []
        self.events: list[str] = []
        self.life = PodLife(read_pod(json), unsupported_fields(json), self.now)
        self.carry_out(self.life.begin(self.now))

    def carry_out(self, commands: Iterable[Command]) -> None:
        for command in commands:
            self.carry_out(self._outcome(command))

    def exit(self, name: str, status: int) -> None:
        """The process of a container, if it has one, ends by itself."""
        if self.is_running(name):
            self.carry_out(self.life.container_exited(name, status, self.now))

    def is_running(self, name: str) -> bool:
        lives = (*self.life.init_containers, *self.life.containers)
        return any(life.spec.name == name and life.is_alive for life in lives)

    def change(self, json: dict[str, Any]) -> None:
        self.carry_out(self.life.changed(read_pod(json), self.now))

    def wait(self, seconds: float) -> None:
        """Let time pass, and what is due in it happen when it is."""
        end = self.now + seconds
        while (due_at := self.life.due_at) is not None and due_at <= end:
            self.now = max(self.now, due_at)
            commands = self.life.waited(self.now)
            assert commands, "something was due"
            self.carry_out(commands)
        self.now = end

    @property
    def status(self) -> dict[str, Any]:
        return pod_status(self.life, ["192.0.2.11"], self.life.pod.status, self.now)

    @property
    def conditions(self) -> dict[str, str]:
        return {condition["type"]: condition["status"] for condition in self.status["conditions"]}

    def container(self, index: int = 0) -> dict[str, Any]:
        """The status of a container."""
        status: dict[str, Any] = self.status["containerStatuses"][index]
        return status

    def _outcome(self, command: Command) -> list[Command]:
        life, now = self.life, self.now
        match command:
            case RecordEvent(reason, message):
                self.events.append(f"{reason}: {message}")
                return []
            case AddSandbox():
                self.done.append("add sandbox")
                return life.sandbox_added(ADDRESSES, now)
            case RemoveSandbox():
                self.done.append("remove sandbox")
                return life.sandbox_removed(now)
            case StartContainer(name, attempt):
                self.done.append(f"start {name} {attempt}")
                return life.container_started(name, now)
            case SendSignal(name, number):
                self.done.append(f"signal {name} {int(number)}")
                if number == 15 and self.stubborn:
                    return []
                return life.container_exited(name, -9 if number == 9 else 0, now)
            case RunPreStop(name):
                self.done.append(f"hook {name}")
                return [] if self.holds_hooks else life.pre_stop_ended(name, None, now)
            case RunProbe(name, attempt, kind):
                self.done.append(f"{kind.value.lower()} {name}")
                failure = "refused" if kind in self.failing else None
                return life.probed(name, attempt, kind, failure, now)
        self.done.append(type(command).__name__)
        return []
