"""Carries out what the life of one pod asks for, and tells it what came of that."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, assert_never

from userspace_proxy.demo.api_client import ApiClient
from userspace_proxy.demo.event_recorder import EventRecorder, Notice, Reference
from userspace_proxy.demo.kubelet.commands import (
    AddSandbox,
    Command,
    DeletePod,
    RecordEvent,
    RemoveSandbox,
    RunPreStop,
    RunProbe,
    SendSignal,
    SetInbound,
    StartContainer,
)
from userspace_proxy.demo.kubelet.container_logs import ContainerLog
from userspace_proxy.demo.kubelet.environment import environment, expanded
from userspace_proxy.demo.kubelet.node_object import NodeDescription
from userspace_proxy.demo.kubelet.pod_http import Identity
from userspace_proxy.demo.kubelet.pod_life import PodLife
from userspace_proxy.demo.kubelet.pod_network import PodNetwork, PodSandbox
from userspace_proxy.demo.kubelet.pod_spec import Container, Inbound, Pod
from userspace_proxy.demo.kubelet.probing import Prober
from userspace_proxy.demo.kubelet.processes import Execute, Process, Processes, Serve
from userspace_proxy.demo.kubelet.status_writer import StatusWriter
from userspace_proxy.errors import UserspaceProxyError

_COMMAND_SECONDS: Final = 10.0
_INBOUND_RULES: Final[Mapping[Inbound, Sequence[Sequence[str]]]] = {
    Inbound.ACCEPTED: (),
    Inbound.REFUSED: (
        ("-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset"),
        ("-p", "udp", "-j", "REJECT"),
    ),
    Inbound.DROPPED: (("-j", "DROP"),),
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all pods of a node are carried out with. `now` gives seconds of the epoch that never jump."""

    node: NodeDescription
    client: ApiClient
    network: PodNetwork
    processes: Processes
    prober: Prober
    recorder: EventRecorder
    logs: Path
    now: Callable[[], float]


class PodWorker:
    """One pod's. `over` is called once nothing is left of the pod, here and at the API server."""

    def __init__(self, life: PodLife, surroundings: Surroundings, over: Callable[[PodWorker], None]) -> None:
        self.life = life
        self._with = surroundings
        self._over = over
        self._sandbox: PodSandbox | None = None
        self._running: dict[str, Process] = {}
        self._logs: dict[str, list[ContainerLog]] = {}  # by container: the run before, and the latest
        self._tasks: set[asyncio.Task[None]] = set()
        self._filtering = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._status = StatusWriter(life, surroundings.client, surroundings.node.addresses, surroundings.now)

    def begin(self) -> None:
        self._spawn(self._status.run())
        self._perform(self.life.begin(self._with.now()))

    def changed(self, pod: Pod) -> None:
        self._perform(self.life.changed(pod, self._with.now()))

    def vanished(self) -> None:
        self._perform(self.life.vanished(self._with.now()))

    def kill(self) -> None:
        """Send SIGKILL to what runs."""
        self._perform(self.life.kill())

    def log_of(self, container: str, *, previous: bool) -> ContainerLog | None:
        """The log of a container's latest run, or of the one before."""
        runs = self._logs.get(container, [])
        if previous:
            return runs[-2] if len(runs) > 1 else None
        return runs[-1] if runs else None

    async def close(self) -> None:
        """Stop looking after the pod. Its processes end with `Processes`, its sandbox with the network."""
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for runs in self._logs.values():
            for log in runs:
                log.close()

    def _perform(self, commands: Iterable[Command]) -> None:
        for command in commands:
            self._carry_out(command)
        self._status.may_have_changed()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due_at = self.life.due_at
        if due_at is not None:
            seconds = max(0.0, due_at - self._with.now())
            self._timer = asyncio.get_running_loop().call_later(seconds, self._waited)
        if self.life.is_over:
            self._over(self)

    def _waited(self) -> None:
        self._perform(self.life.waited(self._with.now()))

    def _carry_out(self, command: Command) -> None:
        match command:
            case AddSandbox():
                self._spawn(self._add_sandbox())
            case RemoveSandbox():
                self._spawn(self._remove_sandbox())
            case SetInbound(before, after):
                self._spawn(self._set_inbound(before, after))
            case StartContainer(name, attempt):
                self._spawn(self._run_container(self._container(name), attempt))
            case SendSignal(name, number):
                if name in self._running:
                    self._running[name].send_signal(number)
            case RunPreStop():
                self._spawn(self._run_pre_stop(command))
            case RunProbe():
                self._spawn(self._probe(command))
            case RecordEvent(reason, message, is_warning):
                metadata = self.life.pod.metadata
                subject = Reference("v1", "Pod", metadata.namespace, metadata.name, metadata.uid)
                self._with.recorder.record(subject, Notice(reason, message, is_warning))
            case DeletePod():
                self._spawn(self._status.delete_pod())
            case _:
                assert_never(command)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("A step of a pod's life failed: pod=%s", self.life.pod.key, exc_info=error)

    async def _add_sandbox(self) -> None:
        try:
            self._sandbox = await self._with.network.add_pod(self.life.pod.key)
        except (OSError, subprocess.SubprocessError, UserspaceProxyError) as error:
            self._perform(self.life.sandbox_failed(str(error), self._with.now()))
        else:
            self._perform(self.life.sandbox_added(self._sandbox.addresses, self._with.now()))

    async def _remove_sandbox(self) -> None:
        try:
            await self._with.network.remove_pod(self.life.pod.key)
        except (OSError, subprocess.SubprocessError, UserspaceProxyError, RuntimeError) as error:
            _log.error("A pod's sandbox cannot be removed: pod=%s why=%s", self.life.pod.key, error)
        self._sandbox = None
        self._perform(self.life.sandbox_removed(self._with.now()))

    async def _set_inbound(self, before: Inbound, after: Inbound) -> None:
        async with self._filtering:
            for address in self.life.addresses:
                program = "ip6tables" if ":" in address else "iptables"
                changes = [("-D", rule) for rule in _INBOUND_RULES[before]]
                changes += [("-I", rule) for rule in _INBOUND_RULES[after]]
                for verb, rule in changes:
                    argv = [program, "-w", verb, "INPUT", "!", "-i", "lo", *rule]
                    status, said = await self._run_inside(argv, _COMMAND_SECONDS)
                    if status != 0:
                        message = f"`{shlex.join(argv)}` failed: {said.strip()}"
                        self._carry_out(RecordEvent("FailedFilter", message, True))

    async def _run_inside(
        self, argv: Sequence[str], seconds: float, env: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        """Run a command in the sandbox; a failure to do so is a status of -1, and why."""
        if self._sandbox is None:
            return -1, "the sandbox is gone"
        command = Execute(self._sandbox.entering(argv), base_environment() if env is None else env)
        try:
            return await self._with.processes.run(command, seconds)
        except TimeoutError:
            return -1, f"it did not end within {seconds:g} s"
        except OSError as error:
            return -1, str(error)

    async def _run_container(self, container: Container, attempt: int) -> None:
        try:
            process, log = await self._launch(container, attempt)
        except OSError as error:
            self._perform(self.life.container_not_started(container.name, str(error), self._with.now()))
            return
        self._running[container.name] = process
        self._perform(self.life.container_started(container.name, self._with.now()))
        status = await process.exited
        log.close()
        del self._running[container.name]
        self._perform(self.life.container_exited(container.name, status, self._with.now()))

    async def _launch(self, container: Container, attempt: int) -> tuple[Process, ContainerLog]:
        what = self._what_runs(container)
        log = self._begin_log(container.name, attempt)
        writer = log.open()
        try:
            return await self._with.processes.launch(what, writer), log
        except OSError:
            log.close()
            raise
        finally:
            os.close(writer)

    def _what_runs(self, container: Container) -> Serve | Execute:
        sandbox = self._sandbox
        if sandbox is None:
            raise OSError("the sandbox is gone")
        if not container.command:
            return Serve.pod(sandbox.namespace_path, self._identity(container), container.served_ports)
        env = self._environment(container)
        argv = expanded((*container.command, *container.args), env)
        folder = container.working_dir or str(self._scratch_folder(container.name))
        program = str(Path(folder, argv[0])) if "/" in argv[0] else argv[0]
        if shutil.which(program, path=env.get("PATH")) is None:
            raise OSError(f'exec: "{argv[0]}": no such program on this machine')
        # Whoever enters a mount namespace begins at its root, so the folder is changed inside.
        return Execute(sandbox.entering(["env", f"--chdir={folder}", *argv]), env)

    def _scratch_folder(self, container: str) -> Path:
        """Where a command begins that says no workingDir: what it writes there goes with the pod."""
        folder = self.log_folder / container / "work"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _identity(self, container: Container) -> Identity:
        pod = self.life.pod
        return Identity(
            name=pod.metadata.name,
            namespace=pod.metadata.namespace,
            node=self._with.node.name,
            image=container.image,
            address=self.life.addresses[0],
        )

    def _environment(self, container: Container) -> dict[str, str]:
        host = self._with.node.addresses[0]
        return environment(self.life.pod, container, self.life.addresses, host, base_environment())

    def _begin_log(self, container: str, attempt: int) -> ContainerLog:
        runs = self._logs.setdefault(container, [])
        while len(runs) > 1:
            runs.pop(0).remove()
        log = ContainerLog(self.log_folder / container / f"{attempt}.log")
        runs.append(log)
        return log

    @property
    def log_folder(self) -> Path:
        """Where the logs of its containers are."""
        metadata = self.life.pod.metadata
        return self._with.logs / f"{metadata.namespace}_{metadata.name}_{metadata.uid}"

    async def _run_pre_stop(self, command: RunPreStop) -> None:
        hook, failure = command.hook, None
        if hook.sleep is not None:
            await asyncio.sleep(min(hook.sleep.seconds, command.seconds))
        elif hook.exec is not None:
            env = self._environment(self._container(command.name))
            status, said = await self._run_inside(hook.exec.command, command.seconds, env)
            failure = None if status == 0 else said.strip() or f"it ended with status {status}"
        self._perform(self.life.pre_stop_ended(command.name, failure, self._with.now()))

    async def _probe(self, command: RunProbe) -> None:
        sandbox = self._sandbox
        if sandbox is None:
            return
        container = self._container(command.name)
        failure = await self._with.prober.probe(
            command.probe, container, self.life.addresses[0], sandbox, self._environment(container)
        )
        now = self._with.now()
        self._perform(self.life.probed(command.name, command.attempt, command.kind, failure, now))

    def _container(self, name: str) -> Container:
        spec = self.life.pod.spec
        return next(one for one in (*spec.init_containers, *spec.containers) if one.name == name)


def base_environment() -> dict[str, str]:
    """What every process of a pod has in its environment."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
