"""`python -m userspace_proxy.demo`: a tour of a whole cluster, in its own namespaces. `make demo` runs this.

With a folder of manifests it is the tour of one node whose agent serves them, without an API server.

Exit status: 0 if every claim held, 1 if one did not or the machine refuses, 2 for a wrong argument,
128 + n after signal n.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

import msgspec

from userspace_proxy.demo import cluster_tour, isolation, tour
from userspace_proxy.demo.cluster import Cluster
from userspace_proxy.demo.cluster_plan import plan_of
from userspace_proxy.demo.commands import DEFAULT_NODES
from userspace_proxy.demo.narration import Narration
from userspace_proxy.demo.temporary_cluster import temporary_cluster
from userspace_proxy.errors import UsageError, UserspaceProxyError

_INSIDE: Final = "--inside"
_STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """Somebody asked us to stop. A BaseException, so that nothing on the way mistakes it for a failure."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def main() -> int:
    """The tour of a cluster; or of manifests: isolate and start again inside, and there the tour."""
    arguments = sys.argv[1:]
    try:
        if arguments[:1] == [_INSIDE]:
            return told(partial(tour_of_manifests, Path(arguments[1])), paced=False)
        manifests = read_arguments(arguments)
        if manifests is None:
            return told(tour_of_a_cluster, paced=sys.stdin.isatty() and sys.stdout.isatty())
        if not manifests.is_dir():
            raise UsageError(f"{manifests} is not a directory; name one like examples/manifests")
        return isolation.run([sys.executable, "-m", "userspace_proxy.demo", _INSIDE, str(manifests)])
    except UserspaceProxyError as error:
        print(f"demo: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:  # before the tour began; whatever runs inside ends with us
        return 128 + signal.SIGINT


def read_arguments(arguments: Sequence[str]) -> Path | None:
    """The directory of manifests to show, if one is named.

    Ends the process for --help, and for what it does not know.
    """
    parser = argparse.ArgumentParser(
        prog="python -m userspace_proxy.demo",
        description="Shows the real agent on a cluster of three nodes, all of it in network namespaces of "
        "its own, and checks what it claims. On a terminal it goes at a reader's pace; Enter goes on.",
        epilog="Exit status: 0 if every claim held, 1 if one did not or the machine refuses.",
    )
    parser.add_argument(
        "manifests",
        nargs="?",
        type=Path,
        help="one like examples/manifests: show one node instead, which serves what is in it",
    )
    chosen: Path | None = parser.parse_args(arguments).manifests
    return None if chosen is None else chosen.resolve()


def told(tour: Callable[[Narration], None], *, paced: bool) -> int:
    """A tour and its verdict."""
    for number in _STOP_SIGNALS:
        signal.signal(number, interrupt)
    narration = Narration(sys.stdout, paced=paced)
    began = time.monotonic()
    try:
        tour(narration)
    except Interrupted as interrupted:
        print("\ndemo: stopped; everything is gone with its namespaces", file=sys.stderr)
        return 128 + interrupted.number
    narration.chapter(f"{narration.claims} claims checked in {time.monotonic() - began:.0f} s")
    for failure in narration.failures:
        narration.text(f"not so: {failure}")
    narration.text("" if narration.failures else "All of them hold.")
    return 1 if narration.failures else 0


def tour_of_a_cluster(narration: Narration) -> None:
    """A cluster of three nodes comes up, is shown, and goes."""
    narration.chapter("A cluster of three nodes, each with the real agent, in namespaces of this machine")
    plan = msgspec.structs.replace(plan_of(DEFAULT_NODES), manifests=cluster_tour.MANIFESTS)
    with temporary_cluster(plan, narration.text) as cluster:
        cluster_tour.show(cluster, narration)


def tour_of_manifests(manifests: Path, narration: Narration) -> None:
    """One node whose agent serves a folder of manifests, as PID 1 of the isolation."""
    with Cluster(manifests) as cluster:
        tour.show(cluster, narration)
        if narration.failures:
            narration.text("", "The agent's log ends:", *cluster.agent_log_end().splitlines())


def interrupt(number: int, _frame: FrameType | None) -> NoReturn:
    """End the tour; what cleans up after it is not interrupted again."""
    for other in _STOP_SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    raise Interrupted(number)


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    sys.exit(main())
