"""Repairs that fail: a locked table, a program that dies, a kernel that says no. They are tried until they
succeed, what is committed meanwhile harms nobody, and whoever is connected stays so.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.clients import expect_everybody
from tests.support.service_node import ServiceNode
from tests.support.steady_traffic import SteadyTraffic
from tests.support.waiting import wait_until
from userspace_proxy.iptables.iptables_restore import find_program

REPAIR_SECONDS = 20.0
"""What is promised is 2 s from the moment in which it is possible."""

LOCKED_SECONDS = 10.0
LOCK = Path("/run/xtables.lock")
TOOLS = {"nft": "iptables-nft", "legacy": "iptables-legacy", "python-iptables": "iptables-legacy"}
EVERYBODY = ("web-1", "web-2", "web-3")
MANY = 11
"""Services of two ports: so many rules that the program writes them on legacy tables, too."""

FAULTY_PROGRAM = """\
#!/bin/sh
# Does what the next line of the file says: nothing special, refuse, die before the commit, or after it.
fault=$(sed -n 1p {faults}); sed -i 1d {faults}
case "$fault" in
    refuse) echo "iptables-restore: line 2: RULE_APPEND failed (Cannot allocate memory)" >&2; exit 4;;
    die) kill -9 $$;;
    "commit, die") {program} "$@"; kill -9 $$;;
esac
exec {program} "$@"
"""

FAULTY_PYTHON_IPTABLES = """\
import sys
from pathlib import Path

if "run" in sys.orig_argv:
    import iptc

    commit = iptc.Table.commit

    def faulty_commit(self):
        faults = Path({faults!r})
        fault, *rest = faults.read_text().splitlines() or [""]
        faults.write_text("".join(f"{{line}}\\n" for line in rest))
        if fault == "commit, die":
            commit(self)
        if fault:
            raise iptc.IPTCError("can't commit: Cannot allocate memory")
        commit(self)

    iptc.Table.commit = faulty_commit
"""

FAULTS: dict[str, tuple[list[str], list[str]]] = {
    "the kernel has no memory, three times": (["refuse"] * 3, []),
    "the program is killed": (["die"], []),
    "no memory, between the tables": ([""], ["refuse"]),
    "killed between the tables": ([""], ["die"]),
    "committed, and killed before it said so": (["commit, die"], []),
    "committed both, and killed each time": (["commit, die"], ["commit, die"]),
}
"""What happens to the commits of filter, and then to those of nat."""


class FaultyNode:
    """A node whose commits fail as `fail` says."""

    def __init__(self, folder: Path, backend: str, node: ServiceNode) -> None:
        self.node = node
        self.backend = backend
        self._faults = folder / "faults"
        self._faults.write_text("")
        programs = folder / "programs"
        programs.mkdir()
        name = f"{TOOLS[backend]}-restore"
        program = programs / name
        program.write_text(FAULTY_PROGRAM.format(faults=self._faults, program=find_program(name)))
        program.chmod(0o755)
        self.environment = ["env", f"PATH={programs}:{os.environ['PATH']}"]
        if backend == "python-iptables":
            (programs / "sitecustomize.py").write_text(
                FAULTY_PYTHON_IPTABLES.format(faults=str(self._faults))
            )
            self.environment.append(f"PYTHONPATH={programs}")

    def fail(self, in_filter: list[str], in_nat: list[str]) -> None:
        faults = [*in_filter, *in_nat]
        if self.backend == "legacy":  # filter's few rules are written without the program
            faults = in_nat or in_filter
        self._faults.write_text("".join(f"{fault}\n" for fault in faults))

    def has_failed(self) -> bool:
        return self._faults.read_text() == ""


@pytest.fixture(scope="module", params=list(TOOLS))
def faulty(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyNode]:
    folder = tmp_path_factory.mktemp("node")
    with ServiceNode(folder, "--iptables-backend", request.param) as node:
        faulty = FaultyNode(folder, request.param, node)
        node.agent.start(prefix=faulty.environment)
        for _ in range(MANY - 1):
            node.serve("greet", "name")
        yield faulty


@pytest.mark.parametrize("fault", FAULTS)
def test_a_repair_that_fails_is_tried_until_it_succeeds(faulty: FaultyNode, fault: str) -> None:
    node = faulty.node
    service = node.serve("greet", "name")
    rules = node.rules()
    with SteadyTraffic(node.client, service["greet"]) as traffic:
        faulty.fail(*FAULTS[fault])
        for table, chain in (("filter", "KUBE-PORTALS-GUARD"), ("nat", "KUBE-PORTALS-CONTAINER")):
            node.node.run(TOOLS[faulty.backend], "-t", table, "-F", chain)
        wait_until(faulty.has_failed)
        took = wait_until(lambda: node.rules() == rules, REPAIR_SECONDS)
        traffic.expect_served_since(time.monotonic())
        print(f"repaired {took:.2f} s after the last fault, not served meanwhile: {len(traffic.failed)}")
    expect_everybody(node.node, service["greet"], service["name"], EVERYBODY)
    node.remove(service)


@contextmanager
def xtables_lock() -> Iterator[None]:
    with LOCK.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.mark.parametrize("faulty", ["legacy", "python-iptables"], indirect=True)
def test_while_somebody_holds_the_xtables_lock_repairs_wait_for_it(faulty: FaultyNode) -> None:
    """The nft variant takes none. Whoever flushed here did not take it either."""
    node = faulty.node
    service = node.serve("greet", "name")
    rules = node.rules()
    without_lock = ("env", "XTABLES_LOCKFILE=/run/another.lock")
    with SteadyTraffic(node.client, service["greet"]) as traffic:
        with xtables_lock():
            since = time.monotonic()
            node.node.run(*without_lock, "iptables-legacy", "-t", "nat", "-F", "KUBE-PORTALS-CONTAINER")
            flushed = node.rules()
            while time.monotonic() - since < LOCKED_SECONDS:
                assert node.rules() == flushed
                time.sleep(0.2)
        took = wait_until(lambda: node.rules() == rules, REPAIR_SECONDS)
        traffic.expect_served_since(time.monotonic())
    print(f"repaired {took:.2f} s after the lock was free")
    assert node.agent.lines_with("Rules cannot be installed", "xtables lock")
    expect_everybody(node.node, service["greet"], service["name"], EVERYBODY)
    node.remove(service)
