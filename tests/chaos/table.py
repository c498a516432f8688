"""All faults: how often they come beside others, where they happen, and how long they last."""

from __future__ import annotations

from functools import partial

from tests.chaos.agent_faults import (
    AgentFrozen,
    AgentKilled,
    AgentStopped,
    AllKilled,
    ContainerTold,
    DescriptorsScarce,
    Drained,
    SupervisedAgentKilled,
    SupervisedAgentTold,
    TakenOver,
    UpgradeCannotStart,
    Upgraded,
    WorkerFrozen,
    WorkerKilled,
)
from tests.chaos.api_faults import ApiServerFails, Restored, WatchesExpired
from tests.chaos.client_faults import IdleConnections, SynFlood, UdpFlood
from tests.chaos.endpoint_faults import (
    BlackHoled,
    EndpointFault,
    Killed,
    NotReady,
    Refusing,
    Removed,
    Terminating,
)
from tests.chaos.faults import PlannedFault
from tests.chaos.object_faults import BadObjects, Neighbours, TornService
from tests.chaos.resource_faults import ConntrackFull, DiskFull, SourcePortsScarce
from tests.chaos.rule_faults import ChainsDeleted, FilterFlushed, ForeignFirst, LockHeld, NatChanged

AT_ONCE = (0.0, 0.0)
A_WHILE = (1.0, 5.0)

ENDPOINT_FAULTS: dict[str, tuple[type[EndpointFault], int]] = {
    "endpoint killed": (Killed, 3),
    "endpoint black-holed": (BlackHoled, 3),
    "endpoint refuses": (Refusing, 2),
    "endpoint not ready": (NotReady, 1),
    "endpoint terminating": (Terminating, 1),
    "endpoint removed": (Removed, 2),
}

FAULTS: tuple[PlannedFault, ...] = (
    *(
        PlannedFault(f"{name} ({which})", f"{which} endpoints", A_WHILE, partial(make, first=first), weight)
        for first, which in enumerate(("odd", "even"))
        for name, (make, weight) in ENDPOINT_FAULTS.items()
    ),
    PlannedFault("neighbours", "objects", A_WHILE, Neighbours),
    PlannedFault("nat changed", "rules", AT_ONCE, NatChanged, 2, is_repaired=True),
    PlannedFault("chains deleted", "rules", AT_ONCE, ChainsDeleted, is_repaired=True),
    PlannedFault("filter flushed", "rules", AT_ONCE, FilterFlushed, is_repaired=True),
    PlannedFault("foreign rule first", "rules", AT_ONCE, ForeignFirst, is_repaired=True),
    PlannedFault("agent frozen", "agent", A_WHILE, AgentFrozen),
    PlannedFault("taken over", "agent", AT_ONCE, TakenOver, 2),
    PlannedFault("upgraded", "agent", AT_ONCE, Upgraded, 2),
    PlannedFault("upgrade cannot start", "agent", AT_ONCE, UpgradeCannotStart),
    PlannedFault("all killed", "agent", (0.0, 1.0), AllKilled, is_repaired=True),
    PlannedFault("worker killed", "agent", AT_ONCE, WorkerKilled, 2, is_repaired=True),
    PlannedFault("worker frozen", "agent", (0.5, 2.0), WorkerFrozen),
    PlannedFault("descriptors scarce", "agent", A_WHILE, DescriptorsScarce, 2),
    PlannedFault("drained", "agent", A_WHILE, Drained),
    PlannedFault("disk full", "agent", A_WHILE, DiskFull),
    PlannedFault("source ports scarce", "kernel", A_WHILE, SourcePortsScarce),
    PlannedFault("conntrack full", "kernel", (0.5, 3.0), ConntrackFull),
    PlannedFault("SYN flood", "clients", AT_ONCE, SynFlood),
    PlannedFault("UDP flood", "clients", AT_ONCE, UdpFlood),
    PlannedFault("idle connections", "clients", A_WHILE, IdleConnections),
)
"""`odd` and `even` endpoints: of these one each may fail at a time, so that two of the four are well."""

BARE_FAULTS: tuple[PlannedFault, ...] = (
    PlannedFault("agent killed", "agent", A_WHILE, AgentKilled, 2),
    PlannedFault("agent stopped", "agent", A_WHILE, AgentStopped),
)
SUPERVISED_FAULTS: tuple[PlannedFault, ...] = (
    PlannedFault("supervised agent killed", "agent", AT_ONCE, SupervisedAgentKilled, 2, is_repaired=True),
    PlannedFault("supervised agent told to end", "agent", A_WHILE, SupervisedAgentTold),
    PlannedFault("container told to end", "agent", A_WHILE, ContainerTold, 2),
)
"""Elsewhere "all killed" is the container, too: everything in it dies with its first process."""

LEGACY_FAULTS: tuple[PlannedFault, ...] = (
    PlannedFault("xtables lock held", "rules", A_WHILE, LockHeld, is_repaired=True),
)
"""With legacy tables, which have a lock."""

MANIFEST_FAULTS: tuple[PlannedFault, ...] = (
    PlannedFault("bad objects", "objects", A_WHILE, BadObjects),
    PlannedFault("Service's file torn", "agent", A_WHILE, TornService),
)
API_FAULTS: tuple[PlannedFault, ...] = (
    PlannedFault("API server fails", "agent", A_WHILE, ApiServerFails, 2),
    PlannedFault("API server restored", "agent", AT_ONCE, Restored),
    PlannedFault("watches expired", "agent", AT_ONCE, WatchesExpired),
)
"""An agent that starts meanwhile would wait for the API server, so their place is the agent's."""


def faults_of(*, is_legacy: bool, has_api_server: bool, is_supervised: bool) -> tuple[PlannedFault, ...]:
    """What may befall a run."""
    return (
        *FAULTS,
        *(SUPERVISED_FAULTS if is_supervised else BARE_FAULTS),
        *(LEGACY_FAULTS if is_legacy else ()),
        *(API_FAULTS if has_api_server else MANIFEST_FAULTS),
    )
