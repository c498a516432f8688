"""One container of a pod, from start to restart to end; pure. `pod_life` decides when it may begin.

A container is stopped in three steps: its preStop hook, SIGTERM, and SIGKILL when its grace period is over.
One that ended is restarted as the policy says: at once the first time, then after 10 s, twice as long each
time up to 300 s, and at once again when it had run for ten minutes. Source: "Pod Lifecycle".
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from userspace_proxy.core.back_off import doubled_seconds
from userspace_proxy.demo.kubelet.commands import (
    Command,
    ProbeKind,
    RecordEvent,
    RunPreStop,
    RunProbe,
    SendSignal,
    StartContainer,
)
from userspace_proxy.demo.kubelet.pod_spec import Container, Probe, RestartPolicy
from userspace_proxy.demo.kubelet.probe_schedule import ProbeSchedule

FIRST_BACK_OFF_SECONDS: Final = 10.0
LONGEST_BACK_OFF_SECONDS: Final = 300.0
FORGIVEN_AFTER_SECONDS: Final = 600.0
LEAST_GRACE_SECONDS: Final = 2.0
"""What is left at least, between SIGTERM and SIGKILL, when others have used up the grace period."""
SETTLING_SECONDS: Final = 0.3
"""What a command is given before its first probe: being refused at once would cost it a whole period. (A real
kubelet takes up to a second to notice that a container runs.) The built-in server listens when it is started.
"""

_START_ERROR: Final = 128


@dataclass(frozen=True, slots=True)
class Waiting:
    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Running:
    started_at: float


@dataclass(frozen=True, slots=True)
class Terminated:
    exit_code: int
    reason: str
    attempt: int
    started_at: float
    finished_at: float
    message: str = ""


ContainerState: TypeAlias = Waiting | Running | Terminated


class ContainerLife:
    """`restarts` is what an earlier run of the cluster counted, `last_state` how that ended."""

    def __init__(
        self,
        spec: Container,
        policy: RestartPolicy,
        grace_seconds: int,
        *,
        restarts: int = 0,
        last_state: Terminated | None = None,
    ) -> None:
        self.spec = spec
        self.restarts = restarts
        self.state: ContainerState = Waiting("ContainerCreating")
        self.last_state = last_state
        self._policy = policy
        self._grace_seconds = grace_seconds
        self._attempt = restarts if last_state is None else restarts + 1  # the next start's
        self._is_starting = False
        self._back_offs = 0  # starts in a row that lasted for less than FORGIVEN_AFTER_SECONDS
        self._may_start_at = 0.0
        self._probes: dict[ProbeKind, ProbeSchedule] = {}
        self._killed_at: float | None = None  # when SIGKILL is due
        self._hook_runs = False
        self._is_killed = False

    @property
    def is_alive(self) -> bool:
        """Whether it has a process, or is about to."""
        return self._is_starting or isinstance(self.state, Running)

    @property
    def is_stopping(self) -> bool:
        return self._killed_at is not None

    @property
    def has_ever_run(self) -> bool:
        return not isinstance(self.state, Waiting) or self.last_state is not None

    @property
    def has_started(self) -> bool:
        """Whether it runs and its startup probe, if it has one, has succeeded."""
        startup = self._probes.get(ProbeKind.STARTUP)
        return isinstance(self.state, Running) and (startup is None or startup.is_passing)

    @property
    def is_ready(self) -> bool:
        readiness = self._probes.get(ProbeKind.READINESS)
        return self.has_started and (readiness is None or readiness.is_passing)

    @property
    def is_finished(self) -> bool:
        """Whether it has ended and the policy lets it rest."""
        return isinstance(self.state, Terminated) and not self._policy.restarts(self.state.exit_code)

    @property
    def has_succeeded(self) -> bool:
        return isinstance(self.state, Terminated) and self.state.exit_code == 0

    @property
    def is_through(self) -> bool:
        """Of an init container: whether the next one may run."""
        return self.has_started if self.spec.is_sidecar else self.has_succeeded

    @property
    def due_at(self) -> float | None:
        """When something is to be done next, if nothing else happens."""
        if self._is_starting:
            return None
        if isinstance(self.state, Running):
            due = [schedule.due_at for _kind, schedule in self._probes_asked()]
            if self._killed_at is not None and not self._is_killed:
                due.append(self._killed_at)
            return min((at for at in due if at is not None), default=None)
        return None if self.is_finished else self._may_start_at

    def start(self, now: float) -> Iterator[Command]:
        """It may run: start it, or start it again, if it is time to."""
        if self.is_alive or self.is_finished:
            return
        if now >= self._may_start_at:
            self._is_starting = True
            yield StartContainer(self.spec.name, self._attempt)
        elif isinstance(self.state, Terminated):
            seconds = self._may_start_at - self.state.finished_at
            self.last_state = self.state
            message = f"back-off {seconds:.0f}s restarting failed container={self.spec.name}"
            self.state = Waiting("CrashLoopBackOff", message)
            yield RecordEvent("BackOff", f"Back-off restarting failed container {self.spec.name}", True)

    def started(self, now: float) -> Iterator[Command]:
        """Its process is there."""
        self._is_starting = False
        self._remember()
        self.state = Running(now)
        self._probes = {}
        spec = self.spec
        if spec.startup_probe is not None:
            self._schedule(ProbeKind.STARTUP, spec.startup_probe, now, now, initially=False)
        else:
            self._schedule_others(now, now)
        yield RecordEvent("Started", f"Started container {spec.name}")

    def not_started(self, message: str, now: float) -> Iterator[Command]:
        """It could not be started at all."""
        self._is_starting = False
        self._remember()
        yield RecordEvent("Failed", f"Error: {message}", True)
        self._end(Terminated(_START_ERROR, "StartError", self.restarts, now, now, message), now)

    def exited(self, status: int, now: float) -> None:
        """Its process has ended; `status` is -n for signal n."""
        assert isinstance(self.state, Running)
        code = status if status >= 0 else 128 - status
        reason = "Completed" if code == 0 else "Error"
        self._end(Terminated(code, reason, self.restarts, self.state.started_at, now), now)

    def probed(self, attempt: int, kind: ProbeKind, failure: str | None, now: float) -> Iterator[Command]:
        """A probe has an outcome: None, or why it failed."""
        schedule = self._probes.get(kind)
        if schedule is None or attempt != self.restarts or not isinstance(self.state, Running):
            return
        was_passing = schedule.is_passing
        schedule.ended(succeeded=failure is None, now=now)
        if failure is not None:
            yield RecordEvent("Unhealthy", f"{kind.value} probe failed: {failure}", True)
        if kind is ProbeKind.STARTUP and schedule.is_passing and not was_passing:
            self._schedule_others(self.state.started_at, now)
        if kind is not ProbeKind.READINESS and schedule.has_failed and not self.is_stopping:
            grace = schedule.probe.termination_grace_period_seconds
            why = f"Container {self.spec.name} failed {kind.value.lower()} probe, will be restarted"
            yield from self.stop(self._grace_seconds if grace is None else grace, now, why)

    def stop(self, grace_seconds: float, now: float, why: str) -> Iterator[Command]:
        """End it within `grace_seconds`. Said again, it can only shorten them."""
        if not isinstance(self.state, Running):
            return
        name = self.spec.name
        deadline = now + grace_seconds
        if self._killed_at is None:
            self._killed_at = deadline
            yield RecordEvent("Killing", why)
            hook = self.spec.lifecycle.pre_stop if self.spec.lifecycle is not None else None
            if hook is not None and grace_seconds > 0:
                self._hook_runs = True
                yield RunPreStop(name, hook, grace_seconds)
            elif grace_seconds > 0:
                yield SendSignal(name, signal.SIGTERM)
        self._killed_at = min(self._killed_at, deadline)
        yield from self.waited(now)

    def pre_stop_ended(self, failure: str | None, now: float) -> Iterator[Command]:
        """Its hook is done: None, or why it failed."""
        if failure is not None:
            yield RecordEvent("FailedPreStopHook", f"PreStopHook failed: {failure}", True)
        if self._hook_runs and self._killed_at is not None and not self._is_killed:
            self._hook_runs = False
            self._killed_at = max(self._killed_at, now + LEAST_GRACE_SECONDS)
            yield SendSignal(self.spec.name, signal.SIGTERM)

    def waited(self, now: float) -> Iterator[Command]:
        """Time has passed."""
        if not isinstance(self.state, Running):
            return
        if self._killed_at is not None and not self._is_killed and now >= self._killed_at:
            self._is_killed = True
            yield SendSignal(self.spec.name, signal.SIGKILL)
        for kind, schedule in self._probes_asked():
            if schedule.due_at is not None and now >= schedule.due_at:
                schedule.began(now)
                yield RunProbe(self.spec.name, self.restarts, kind, schedule.probe)

    def _remember(self) -> None:
        """A start was made: it counts as a restart if there was another before, whose end is kept."""
        self.restarts = self._attempt
        if isinstance(self.state, Terminated):
            self.last_state = self.state

    def _end(self, ended: Terminated, now: float) -> None:
        self.state = ended
        self._attempt = self.restarts + 1
        self._probes = {}
        self._killed_at = None
        self._hook_runs = self._is_killed = False
        if ended.finished_at - ended.started_at >= FORGIVEN_AFTER_SECONDS:
            self._back_offs = 0
        delay = 0.0
        if self._back_offs > 0:
            delay = doubled_seconds(FIRST_BACK_OFF_SECONDS, self._back_offs, LONGEST_BACK_OFF_SECONDS)
        self._may_start_at = now + delay
        self._back_offs += 1

    def _schedule_others(self, started_at: float, now: float) -> None:
        """The probes that wait for the startup probe."""
        if self.spec.liveness_probe is not None:
            self._schedule(ProbeKind.LIVENESS, self.spec.liveness_probe, started_at, now, initially=True)
        if self.spec.readiness_probe is not None:
            self._schedule(ProbeKind.READINESS, self.spec.readiness_probe, started_at, now, initially=False)

    def _schedule(
        self, kind: ProbeKind, probe: Probe, started_at: float, now: float, *, initially: bool
    ) -> None:
        settles = SETTLING_SECONDS if self.spec.command else 0.0
        first_at = started_at + max(settles, probe.initial_delay_seconds)
        self._probes[kind] = ProbeSchedule(probe, max(now, first_at), initially=initially)

    def _probes_asked(self) -> list[tuple[ProbeKind, ProbeSchedule]]:
        """Once started it is not asked that again; one that ends is only asked whether it still serves."""
        return [
            (kind, schedule)
            for kind, schedule in self._probes.items()
            if kind is ProbeKind.READINESS
            or not (self.is_stopping or (kind is ProbeKind.STARTUP and schedule.is_passing))
        ]
