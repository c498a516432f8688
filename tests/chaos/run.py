"""One run: clients come, faults follow the schedule, and in the end all is as it was."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

from tests.chaos.clients import Clients
from tests.chaos.faults import PlannedFault
from tests.chaos.leaks import holdings, what_is_left
from tests.chaos.ledger import Ledger
from tests.chaos.schedule import Step, schedule
from tests.chaos.table import faults_of
from tests.chaos.world import WORKERS, World, tracebacks
from tests.support.faulty_api_server import running_faulty_api_server
from tests.support.service_node import ServiceNode

BACKENDS = ("nft", "legacy", "python-iptables")
MANIFESTS, API_SERVER = SOURCES = ("manifests", "API server")
REMOVED_ENDPOINTS = ("keep", "drain=2s", "reset")
BARE, SUPERVISED = LAUNCHES = ("bare", "supervised")
CALM_SECONDS = 2.0
MOMENT_SECONDS = 2.0
FLAGS = ("--workers", str(WORKERS), "--udp-timeout", "10s", "--drain-seconds", "120")
"""Idle UDP flows are gone soon, so that what is left in the end was lost; nobody stays for two minutes."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What the seed decides beside the faults, unless somebody else does."""

    backend: str
    source: str
    removed_endpoints: str
    launch: str

    def __str__(self) -> str:
        removed = f"removed endpoints: {self.removed_endpoints}"
        return f"{self.backend}, {self.source}, {removed}, agents {self.launch}"


def setting_of(seed: int, backend: str = "", launch: str = "") -> Setting:
    random = Random(seed)
    chosen = Setting(
        random.choice(BACKENDS),
        random.choice(SOURCES),
        random.choice(REMOVED_ENDPOINTS),
        random.choice(LAUNCHES),
    )
    return replace(chosen, backend=backend or chosen.backend, launch=launch or chosen.launch)


@dataclass(slots=True)
class Result:
    """What came of a run. `took` is for each fault how long it took until all was right again, in seconds."""

    seed: int
    setting: Setting
    ledger: Ledger
    faults: int = 0
    took: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    problems: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        return not self.problems and not self.ledger.failures


def run(
    seed: int, seconds: float, folder: Path, *, rate: float, backend: str = "", launch: str = ""
) -> Result:
    """Have `rate` clients a second for that long, and let whatever fails be told by the result."""
    setting = setting_of(seed, backend, launch)
    ledger = Ledger()
    result = Result(seed, setting, ledger)
    is_supervised = setting.launch == SUPERVISED
    possible = faults_of(
        is_legacy=setting.backend != "nft",
        has_api_server=setting.source == API_SERVER,
        is_supervised=is_supervised,
    )
    faults = {fault.name: fault for fault in possible}
    steps = schedule(seed, seconds, list(faults.values()))
    flags = (*FLAGS, "--iptables-backend", setting.backend, "--removed-endpoints", setting.removed_endpoints)
    with ExitStack() as stack:
        server, cluster = None, None
        if setting.source == API_SERVER:
            server, cluster = stack.enter_context(running_faulty_api_server(folder))
        node = stack.enter_context(ServiceNode(folder, *flags, ipv6=True, endpoints=0, cluster=cluster))
        if cluster is not None:
            stack.enter_context(cluster.reachable_inside(node.node))
        are_removed_cut = setting.removed_endpoints != "keep"
        world = World(
            node,
            folder,
            ledger,
            api_server=server,
            are_removed_cut=are_removed_cut,
            is_supervised=is_supervised,
        )
        clients = Clients(node, world.service, ledger, rate, seed)
        before = holdings(world)
        asyncio.run(_play(world, clients, steps, faults, seconds, result))
        if not result.problems:
            result.problems += what_is_left(world, before)
        result.problems += tracebacks(world.logs)
    (folder / "events.log").write_text("".join(f"{at:.2f} {event}\n" for at, event in ledger.events))
    excused = (f"{reason}: {conversation}\n" for reason, conversation in ledger.excused_conversations)
    (folder / "excused.log").write_text("".join(excused))
    result.problems += [f"namespace {path.name} is left" for path in Path("/run/netns").glob("web-*")]
    return result


async def _play(
    world: World,
    clients: Clients,
    steps: Sequence[Step],
    faults: dict[str, PlannedFault],
    seconds: float,
    result: Result,
) -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(32))
    places: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
    began = time.monotonic()

    async def one(step: Step) -> None:
        async with places[step.place]:
            if result.problems:
                return
            result.faults += 1
            try:
                is_agent_well = step.place == "agent" or not places["agent"].locked()
                seconds = await _inflict(world, step, faults[step.name])
                if faults[step.name].is_repaired:
                    condition = "" if is_agent_well else ", while something else befell the agent"
                    result.took[f"{step.name}{condition}"].append(seconds)
            except Exception as error:
                result.problems.append(f"{step.name}: {error!r}")
                world.ledger.events.append((time.monotonic(), f"{step.name} went wrong: {error!r}"))

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(clients.run())
        async with asyncio.TaskGroup() as inflicted:
            for step in steps:
                await asyncio.sleep(began + step.at - time.monotonic())
                inflicted.create_task(one(step))
            await asyncio.sleep(began + seconds - time.monotonic())
        await asyncio.sleep(CALM_SECONDS)
        clients.is_over.set()


async def _inflict(world: World, step: Step, planned: PlannedFault) -> float:
    """Returns for how many seconds it was being healed."""
    ledger = world.ledger
    fault = await asyncio.to_thread(planned.make, world, Random(step.seed))
    began = time.monotonic()
    windows = [ledger.excuse(excuse, began) for excuse in fault.excuses]
    first_windows = [ledger.excuse(excuse, began) for excuse in fault.excuses_at_first]
    ledger.events.append((began, f"{step.name} begins {fault.detail}"))
    await asyncio.to_thread(fault.inflict)
    inflicted = time.monotonic()
    ledger.events.append((inflicted, f"{step.name} is inflicted {fault.detail}"))
    for window in first_windows:
        window.until = inflicted + MOMENT_SECONDS
    if fault.excuses_end_with_inflict:
        for window in windows:
            window.until = inflicted
    await asyncio.sleep(step.seconds)
    healed_from = time.monotonic()
    await asyncio.to_thread(fault.heal)
    now = time.monotonic()
    ledger.events.append((now, f"{step.name} is over {fault.detail}"))
    for window in windows:
        window.until = min(window.until, now)
    return now - healed_from
