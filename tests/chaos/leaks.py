"""What is left once every client has gone and every fault is over: nothing that was not there before."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from tests.chaos.world import ADDRESS_V6, PROXY_PORT, World
from tests.support.clients import who_greets
from tests.support.kernel_state import descriptors, udp_conntrack_entries
from tests.support.service_node import PORTS

SETTLE_SECONDS = 60.0
LOOKS = 6
BETWEEN_LOOKS_SECONDS = 0.1
SPARE_DESCRIPTORS = 16
"""A worker keeps a few pipes, and who took over holds a socket or two that who began did not need."""


@dataclass(frozen=True, slots=True)
class Holdings:
    processes: int
    descriptors: int
    """Of agent and workers, together."""
    state_files: int
    listening: list[str]


def holdings(world: World) -> Holdings:
    pids = [world.agent.pid, *world.agent.worker_pids]
    return Holdings(
        processes=min(_processes(world) for _ in range(LOOKS)),
        descriptors=sum(map(_descriptors, pids)),
        state_files=len(list(world.node.state_folder.iterdir())),
        listening=sorted(
            PROXY_PORT.sub("(proxy port)", " ".join(line.split()[:5:4]))
            for line in world.node.node.run("ss", "-Htuln").stdout.splitlines()
        ),
    )


def _processes(world: World) -> int:
    """One look alone may meet a program that the agent runs for a moment."""
    time.sleep(BETWEEN_LOOKS_SECONDS)
    return len(world.node.node.pids())


def _descriptors(pid: int) -> int:
    """None for a process that has just ended, as one that drained does."""
    try:
        return descriptors(pid)
    except (FileNotFoundError, ProcessLookupError):
        return 0


def what_is_left(world: World, before: Holdings) -> list[str]:
    """Sentences; none where all is as before. Waits for what needs a moment to go."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while (left := _differences(world, before)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return left


def _differences(world: World, before: Holdings) -> list[str]:
    now = holdings(world)
    left = []
    connected = [
        line
        for line in world.node.node.run(
            *("ss", "-Htun", "state", "connected", "exclude", "time-wait", "exclude", "syn-recv")
        ).stdout.splitlines()
        if world.api_server is None or str(world.api_server.port) not in line.replace(":", " ").split()
    ]
    if connected:
        left.append(f"{len(connected)} connections and flows, such as {connected[0]}")
    if now.processes != before.processes:
        left.append(f"{now.processes} processes instead of {before.processes}")
    if now.descriptors > before.descriptors + SPARE_DESCRIPTORS:
        left.append(f"{now.descriptors} descriptors instead of {before.descriptors}")
    if now.state_files != before.state_files:
        left.append(f"{now.state_files} control sockets instead of {before.state_files}")
    if now.listening != before.listening:
        left.append(f"listening is {now.listening} instead of {before.listening}")
    if not world.are_rules_right():
        left.append("rules are not what they were")
    left += [f"UDP conntrack entry that leads astray: {entry}" for entry in _astray(world)]
    for address in (world.service.cluster_ip, ADDRESS_V6):
        left += _unused(world, address)
    return left


def _unused(world: World, address: str) -> Iterator[str]:
    try:
        greeters = set(who_greets(world.node.client, (address, PORTS["greet"]), 3 * len(world.pods)))
    except OSError as error:
        yield f"who comes to {address} is not served: {error!r}"
        return
    missing = {pod.name for pod in world.pods} - greeters
    if missing:
        yield f"endpoints {', '.join(sorted(missing))} are not used again at {address}"


def _astray(world: World) -> list[str]:
    """Entries of the Service's clients whose datagrams are not redirected: their answers come from there."""
    return [
        entry
        for address in (world.service.cluster_ip, ADDRESS_V6)
        for entry in udp_conntrack_entries(world.node.node, address)
        if f"src={address} " in entry
    ]
