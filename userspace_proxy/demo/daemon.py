"""The one process that is a demo cluster: it owns network, API server, controllers, kubelets, DNS and agents.

`launch` starts it, away from the machine, and it lives until it is told to end: over its control socket, by a
signal, or because whoever started it has gone. Then it removes what it has written; all else goes with the
namespaces.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, assert_never

import msgspec
import uvloop

from userspace_proxy.core.service_port import IPFamily
from userspace_proxy.demo import control, state_directory
from userspace_proxy.demo.agent_parent import AgentOrder
from userspace_proxy.demo.agents import Agents, agent_arguments, is_serving
from userspace_proxy.demo.cluster_network import ClusterNetwork, has_ipv6, missing_programs
from userspace_proxy.demo.cluster_objects import resolv_conf
from userspace_proxy.demo.cluster_plan import ClusterPlan
from userspace_proxy.demo.launch import (
    AGENTS_KUBECONFIG,
    INSIDE,
    PRIVATE,
    STAY,
    Failed,
    Progress,
    Ready,
    Surroundings,
)
from userspace_proxy.demo.memory import memory_of_all
from userspace_proxy.errors import StartupError, UserspaceProxyError

if TYPE_CHECKING:
    from userspace_proxy.demo.control_plane import ControlPlane
    from userspace_proxy.demo.web.site import Site

logger = logging.getLogger(__name__)

_UP_SECONDS: Final = 30.0
_CLOSE_SECONDS: Final = 5.0
_LOOK_SECONDS: Final = 0.05
_MIND_SECONDS: Final = 1.0


def run(surroundings: Surroundings) -> int:
    """Be a cluster until it is told to end; returns the exit status. Raises `UserspaceProxyError`."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    if missing := missing_programs():
        raise StartupError(f"these programs are missing: {', '.join(missing)}")
    plan, problems = fit_to_machine(surroundings.plan, ipv6=has_ipv6())
    (INSIDE / state_directory.LOGS).mkdir()
    PRIVATE.mkdir()
    os.environ["TMPDIR"] = str(PRIVATE)  # an agent that is killed leaves what it has put there
    agents = Agents()
    names = [node.name for node in plan.nodes]
    with ThreadPoolExecutor(1) as thread:
        # While the network is made and the agents' parent imports, this process imports, too.
        wiring = thread.submit(
            ClusterNetwork,
            names,
            ipv6=plan.ipv6,
            resolv_conf=lambda namespace: resolv_conf(namespace, plan.ipv6),
        )
        make_control_plane = _imported_control_plane()
        network = _made(wiring)
    control_plane = make_control_plane(plan, network, api=surroundings.api, folder=INSIDE)
    site = None if surroundings.web is None else _site(surroundings.web, network)
    return uvloop.run(Daemon(surroundings, plan, network, agents, control_plane, site, problems).run())


def _imported_control_plane() -> type[ControlPlane]:
    """Raises `StartupError` if what it is made with was not installed."""
    try:
        from userspace_proxy.demo.control_plane import ControlPlane
    except ModuleNotFoundError as error:
        raise StartupError(
            f"the demo needs {error.name}, which is not installed: pip install 'userspace-proxy[demo]'"
        ) from error
    return ControlPlane


def _site(listening: socket.socket, network: ClusterNetwork) -> Site:
    """The page, which only a cluster that has one imports."""
    from userspace_proxy.demo.web.site import Site

    return Site(listening, network)


def _made(wiring: Future[ClusterNetwork]) -> ClusterNetwork:
    """The network, once it is there. Raises `StartupError` if the machine refuses a part of it."""
    try:
        return wiring.result()
    except (OSError, subprocess.SubprocessError) as error:
        said = "; ".join(getattr(error, "__notes__", ()))
        raise StartupError(
            f"the cluster's network cannot be made: {error}. {said}\n"
            "Without it there is no cluster. It takes network namespaces, veth and bridges of the kernel: "
            "`modprobe veth bridge`, as root, may bring what is missing"
        ) from error


def fit_to_machine(plan: ClusterPlan, *, ipv6: bool) -> tuple[ClusterPlan, tuple[str, ...]]:
    """The plan less what the machine has not got, and what that is, in sentences."""
    if plan.ipv6 and not ipv6:
        without = msgspec.structs.replace(plan, ip_families=(IPFamily.IPV4,))
        return without, ("this kernel has no IPv6: everything works over IPv4 alone",)
    return plan, ()


class Daemon:
    """A cluster whose network there is, from its first step to its last."""

    def __init__(
        self,
        surroundings: Surroundings,
        plan: ClusterPlan,
        network: ClusterNetwork,
        agents: Agents,
        control_plane: ControlPlane,
        site: Site | None,
        problems: tuple[str, ...],
    ) -> None:
        self._surroundings = surroundings
        self._plan = plan
        self._network = network
        self._agents = agents
        self._control_plane = control_plane
        self._problems = problems
        self._site = site
        self._began = time.monotonic()
        self._ended = asyncio.Event()
        self._is_up = False
        self._keeps = control_plane.is_kept

    async def run(self) -> int:
        """Come up, serve until told to end, remove what was written; returns the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._give_up)
        status = 0
        try:
            await self._serve()
        except* UserspaceProxyError as errors:
            error = _first(errors)
            logger.error("The cluster ends: %s", error)
            self._surroundings.report(Failed(str(error), error.exit_code))
            status = error.exit_code
        finally:
            with suppress(TimeoutError):  # the kernel ends what does not end by itself
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await self._agents.close()
                    await self._control_plane.close()
            if self._ended.is_set() or not self._is_up:
                self._clear()  # a fault, though, is left to be read about
        return status

    async def _serve(self) -> None:
        """Everything runs beside everything, until one fails or the cluster is told to end."""
        async with asyncio.TaskGroup() as tasks:
            jobs: list[asyncio.Task[None]] = []

            def spawn(job: Coroutine[Any, Any, None]) -> None:
                jobs.append(tasks.create_task(job))

            spawn(self._obey_leash())
            spawn(self._come_up(spawn))
            await self._ended.wait()
            for job in jobs:
                job.cancel()

    async def _come_up(self, spawn: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        report = self._surroundings.report
        nodes = self._network.nodes
        report(Progress(f"network: {', '.join(nodes)}; {' and '.join(self._families)}"))
        await self._control_plane.start()
        before = ", with the objects of the cluster before" if self._control_plane.is_kept else ""
        report(Progress(f"API server: {self._control_plane.server}{before}"))
        (INSIDE / state_directory.PLAN).write_bytes(msgspec.json.encode(self._surroundings.plan))
        self._agents.start(
            PRIVATE / "agents.sock",
            [
                AgentOrder(
                    name,
                    node.sandbox.files(),
                    agent_arguments(name, AGENTS_KUBECONFIG, self._plan.proxy_flags, ipv6=self._plan.ipv6),
                    str(self._log_of(name)),
                )
                for name, node in nodes.items()
            ],
        )
        spawn(self._agents.follow())
        spawn(self._control_plane.run())
        if self._site is not None:
            spawn(self._site.run(self._control_plane.client))
        await self._control_plane.apply_manifests()
        control_server = await control.serve(INSIDE / state_directory.CONTROL_SOCKET, self._answer)
        spawn(control_server.serve_forever())
        spawn(self._mind_control_socket())
        late = await self._wait_until_ready(time.monotonic() + _UP_SECONDS)
        self._is_up = True
        report(Ready((*self._problems, *late)))

    async def _wait_until_ready(self, deadline: float) -> list[str]:
        """Wait until all agents serve and all pods are ready; what is not so at `deadline`."""
        late: list[str] = []
        while time.monotonic() < deadline:
            late = [
                *(
                    f"the agent of {name} does not serve: `userspace-proxy demo logs {name}` may say why"
                    for name in await self._agents_not_serving()
                ),
                *await self._control_plane.not_ready(),
            ]
            if not late:
                break
            await asyncio.sleep(_LOOK_SECONDS)
        return late

    async def _agents_not_serving(self) -> list[str]:
        nodes = self._network.nodes
        serving = await asyncio.gather(*(is_serving(node) for node in nodes.values()))
        return [name for name, serves in zip(nodes, serving, strict=True) if not serves]

    async def _obey_leash(self) -> None:
        """End when whoever started us has gone, unless it said that we may stay."""
        leash = self._surroundings.leash
        leash.setblocking(False)
        said = await asyncio.get_running_loop().sock_recv(leash, len(STAY))
        leash.close()
        if said != STAY:
            self._give_up()

    async def _mind_control_socket(self) -> None:
        """Fail once nobody can ask us to end any more, as where a user's folders go with their session."""
        while True:
            if not (INSIDE / state_directory.CONTROL_SOCKET).exists():
                raise StartupError(f"{self._surroundings.path / state_directory.CONTROL_SOCKET} was removed")
            await asyncio.sleep(_MIND_SECONDS)

    def _give_up(self) -> None:
        """Somebody has us end without a word about what is to be kept: what was kept before we came up."""
        self._end(keep=self._keeps and not self._is_up)

    def _end(self, *, keep: bool) -> None:
        self._keeps = keep
        self._ended.set()

    async def _answer(self, question: control.Question) -> msgspec.Struct:
        match question:
            case control.AskStatus():
                return await self._status()
            case control.AskPlace(name):
                return self._place(name)
            case control.EndCluster(keep):
                self._end(keep=keep)
                return control.Ending()
            case _:
                assert_never(question)

    async def _status(self) -> control.ClusterStatus:
        nodes = self._network.nodes
        silent = await self._agents_not_serving()
        processes, memory = await asyncio.to_thread(memory_of_all)
        path = self._surroundings.path
        return control.ClusterStatus(
            kubeconfig=str(path / state_directory.KUBECONFIG),
            server=self._control_plane.server,
            nodes=tuple(
                control.NodeStatus(
                    name=planned.name,
                    zone=planned.zone,
                    addresses=nodes[planned.name].own.addresses,
                    pod_cidrs=nodes[planned.name].own.pod_cidrs,
                    agent_pid=self._agents.states[planned.name].pid,
                    agent_is_serving=planned.name not in silent,
                    agent_restarts=self._agents.states[planned.name].restarts,
                    agent_log=str(path / self._log_of(planned.name).relative_to(INSIDE)),
                )
                for planned in self._plan.nodes
            ),
            pods=await self._control_plane.pods(),
            processes=processes,
            memory_bytes=memory,
            up_seconds=time.monotonic() - self._began,
            logs=str(path / state_directory.LOGS),
            problems=self._problems,
            web=self._site.url if self._site is not None else None,
        )

    def _place(self, name: str) -> control.Place:
        places = self._network.places()
        whole = name if name in places else f"default/{name}"
        if whole not in places:
            return control.Place(name, {}, tuple(places))
        return control.Place(whole, places[whole].descriptors)

    @property
    def _families(self) -> list[str]:
        return [family.value for family in self._plan.ip_families]

    def _log_of(self, node: str) -> Path:
        return INSIDE / state_directory.LOGS / f"{node}.log"

    def _clear(self) -> None:
        """Remove what lies in our folder, and the folder, as far as nobody wants to keep it."""
        state_directory.clear(INSIDE, keep=self._keeps)
        if not self._keeps:
            with suppress(OSError):
                os.rmdir(self._surroundings.path.name, dir_fd=self._surroundings.parent_folder)


def _first(errors: BaseExceptionGroup[UserspaceProxyError]) -> UserspaceProxyError:
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
