"""`python -m userspace_proxy.demo [MANIFESTS]`: the tour, in namespaces of its own. `make demo` runs this.

Exit status: 0 if every claim held, 1 if one did not or the machine refuses, 2 for a wrong argument,
128 + n after signal n.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from userspace_proxy.demo import isolation, tour
from userspace_proxy.demo.cluster import Cluster
from userspace_proxy.demo.narration import Narration
from userspace_proxy.errors import UsageError, UserspaceProxyError

_INSIDE: Final = "--inside"
_EXAMPLES: Final = Path(__file__).parents[2] / "examples" / "manifests"


class Interrupted(BaseException):
    """Somebody asked us to stop. A BaseException, so that nothing on the way mistakes it for a failure."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def main() -> int:
    """Outside: isolate and start again inside. Inside: the tour."""
    arguments = sys.argv[1:]
    try:
        if arguments[:1] != [_INSIDE]:
            manifests = read_arguments(arguments)
            if not manifests.is_dir():
                raise UsageError(f"{manifests} is not a directory; name one like examples/manifests")
            return isolation.run([sys.executable, "-m", "userspace_proxy.demo", _INSIDE, str(manifests)])
        return give_tour(Path(arguments[1]))
    except UserspaceProxyError as error:
        print(f"demo: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:  # before the tour began; whatever runs inside ends with us
        return 128 + signal.SIGINT


def read_arguments(arguments: Sequence[str]) -> Path:
    """The directory of manifests to show. Ends the process for --help, and for what it does not know."""
    parser = argparse.ArgumentParser(
        prog="python -m userspace_proxy.demo",
        description="Shows the real agent serving a directory of manifests, on one node with three endpoint "
        "pods and a client pod, all of it in network namespaces of its own, and checks what it claims.",
        epilog="Exit status: 0 if every claim held, 1 if one did not or the machine refuses.",
    )
    parser.add_argument(
        "manifests",
        nargs="?",
        type=Path,
        default=_EXAMPLES,
        help="a directory like examples/manifests, which is the default",
    )
    chosen: Path = parser.parse_args(arguments).manifests
    return chosen.resolve()


def give_tour(manifests: Path) -> int:
    """The tour and its verdict, as PID 1 of the isolation."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    narration = Narration(sys.stdout)
    began = time.monotonic()
    try:
        with Cluster(manifests) as cluster:
            tour.show(cluster, narration)
            if narration.failures:
                narration.text("", "The agent's log ends:", *cluster.agent_log_end().splitlines())
    except Interrupted as interrupted:
        print("\ndemo: stopped; everything is gone with its namespaces", file=sys.stderr)
        return 128 + interrupted.number
    narration.chapter(f"{narration.claims} claims checked in {time.monotonic() - began:.0f} s")
    for failure in narration.failures:
        narration.text(f"not so: {failure}")
    narration.text("" if narration.failures else "All of them hold.")
    return 1 if narration.failures else 0


def interrupt(number: int, _frame: FrameType | None) -> NoReturn:
    """End the tour; what cleans up after it is not interrupted again."""
    for other in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)
    raise Interrupted(number)


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    sys.exit(main())
