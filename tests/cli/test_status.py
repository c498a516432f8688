"""How `status` puts what is not as it should be."""

from __future__ import annotations

from msgspec.structs import replace

from userspace_proxy.cli.rendering import plain
from userspace_proxy.cli.status import blocks
from userspace_proxy.core.answers.status import FamilyStatus, SourceStatus, Status, WorkerStatus

FAMILY = FamilyStatus(
    family="IPv4",
    written_by="nft",
    is_healthy=True,
    is_pending=False,
    last_sync_seconds=4.0,
    last_error=None,
    failures=0,
    portals=7,
    rules=29,
)
SOURCE = SourceStatus(
    place="API server https://192.0.2.1:6443",
    is_complete=True,
    followed_seconds=7200,
    last_event_seconds=3,
    failing=(),
)
WELL = Status(
    version="1.0",
    pid=4711,
    node="node-1",
    zone=None,
    uptime_seconds=3.0,
    verbosity=0,
    is_healthy=True,
    is_node_eligible=True,
    is_draining=False,
    source=SOURCE,
    families=(FAMILY,),
    services=2,
    service_ports=3,
    listeners=3,
    unopened_listeners=0,
    proxy_ports="11000-29999",
    max_descriptors=1024,
    workers=(WorkerStatus(number=0, pid=4712, service_ports=3, active=5),),
    leaving_workers=(),
    workers_replaced=0,
    ejected_endpoints=0,
    taken_out_endpoints=0,
    left_out=(),
    problems=0,
    named_problems=(),
)


def said(status: Status) -> list[str]:
    return list(plain(blocks(status, False)))


def test_what_is_well_takes_few_lines() -> None:
    assert said(WELL) == [
        "Agent:   1.0, pid 4711, up for 3.0s",
        "Node:    node-1",
        "Health:  healthy",
        "Source:  API server https://192.0.2.1:6443, followed for 2h, last change 3.0s ago",
        "Serves:  2 Services with 3 ports, at 3 of the proxy ports 11000-29999",
        "",
        "FAMILY  RULES BY  HEALTH   PORTALS  RULES  FAILURES  LAST SYNC",
        "IPv4    nft       healthy        7     29         0  4.0s ago",
        "",
        "WORKER   PID  SERVICE PORTS  ACTIVE",
        "0       4712              3       5",
    ]


def test_what_is_not_is_named() -> None:
    failing = replace(
        FAMILY, is_healthy=False, is_pending=True, last_sync_seconds=None, last_error="no lock", failures=3
    )
    lost = replace(
        SOURCE,
        is_complete=False,
        followed_seconds=None,
        last_event_seconds=None,
        failing=("Service: 403 Forbidden",),
    )
    lines = said(
        replace(
            WELL,
            zone="a",
            verbosity=4,
            is_healthy=False,
            source=lost,
            families=(failing,),
            unopened_listeners=2,
            leaving_workers=(0, 99),
            workers_replaced=1,
            problems=22,
            named_problems=("one",),
        )
    )
    assert "Node:        node-1, zone a" in lines
    assert "Health:      not healthy: a change has waited for the rules for too long" in lines
    assert (
        "Source:      API server https://192.0.2.1:6443, cannot be followed now, Service: 403 Forbidden, "
        "not listed yet, so nothing new is served"
    ) in lines
    assert "Not opened:  2 listeners, whose clients are refused" in lines
    assert "Leaving:     workers ?, 99, whose connections may end" in lines
    assert "Replaced:    1 workers that died" in lines
    assert "Log:         verbosity 4" in lines
    assert lines[-3:] == ["Problems with objects (22):", "one", "... and 21 more, see the log"]
    (row,) = (line for line in lines if line.startswith("IPv4"))
    assert row.endswith("never, a change waits; failing since: no lock")


def test_health_says_what_load_balancers_are_told() -> None:
    assert said(replace(WELL, is_draining=True))[2] == "Health:  draining: takes nothing new"
    assert said(replace(WELL, is_node_eligible=False))[2].startswith("Health:  healthy, and load balancers")
