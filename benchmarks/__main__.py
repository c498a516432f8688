"""`python -m benchmarks [VERB]`, in namespaces of its own; `make bench` runs this.

Without a verb: the proxy beside its peers. Exit status: 0, 1 where the machine refuses or a comparison is
beyond its threshold, 2 for a wrong argument, 128 + n after signal n.
"""

from __future__ import annotations

import argparse
import resource
import signal
import sys
from types import FrameType, ModuleType
from typing import Final, NoReturn

from benchmarks import comparison, profiles, side_by_side
from userspace_proxy.demo import isolation
from userspace_proxy.errors import UserspaceProxyError

_INSIDE: Final = "--inside"
_VERBS: Final[dict[str, ModuleType]] = {"compare": comparison, "profile": profiles}


class Interrupted(BaseException):
    """Somebody asked us to stop. A BaseException, so that nothing on the way mistakes it for a failure."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def main() -> int:
    """Outside: isolate and start again inside. Inside: the work."""
    words = sys.argv[1:]
    is_inside = words[:1] == [_INSIDE]
    if is_inside:
        words = words[1:]
    verb = words[0] if words and words[0] in _VERBS else ""
    module = _VERBS.get(verb, side_by_side)
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks {verb}".strip(),
        description=(module.__doc__ or "").partition(": ")[2].replace("\n\n", " "),
        epilog="" if verb else f"There is also: {', '.join(_VERBS)}, each with a --help of its own.",
    )
    module.add_arguments(parser)
    arguments = parser.parse_args(words[1:] if verb else words)
    if min(getattr(arguments, "rounds", 1), arguments.seconds) < 1:
        parser.error("--rounds and --seconds are at least 1")
    try:
        if not is_inside:
            return isolation.run([sys.executable, "-m", "benchmarks", _INSIDE, *words])
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, interrupt)
        _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        status: int = module.run(arguments)
    except UserspaceProxyError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return error.exit_code
    except Interrupted as interrupted:
        print("\nbenchmarks: stopped; everything is gone with its namespaces", file=sys.stderr)
        return 128 + interrupted.number
    return status


def interrupt(number: int, _frame: FrameType | None) -> NoReturn:
    """End the run; what cleans up after it is not interrupted again."""
    for other in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)
    raise Interrupted(number)


if __name__ == "__main__":
    sys.exit(main())
