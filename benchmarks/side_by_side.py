"""`python -m benchmarks`: the proxy beside its peers."""

from __future__ import annotations

import argparse
from datetime import datetime
from typing import Final

from benchmarks import machine
from benchmarks.peers import PEERS
from benchmarks.runs import PeerSet, Progress, alternate, require_programs
from benchmarks.tables import figures_table, ratios_table
from benchmarks.works import WORKS

_OURS: Final = "ours"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command understands."""
    parser.add_argument(
        "--only", nargs="+", metavar="WORK", choices=WORKS, default=list(WORKS), help=f"of {', '.join(WORKS)}"
    )
    parser.add_argument(
        "--peers",
        nargs="+",
        metavar="PEER",
        choices=PEERS,
        default=list(PEERS),
        help=f"of {', '.join(PEERS)}",
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often each peer does each work")
    parser.add_argument("--seconds", type=int, default=5, help="how long it takes over it")
    parser.add_argument("--quick", action="store_true", help="two rounds of a second: a first look")


def run(arguments: argparse.Namespace) -> int:
    """Measure and print."""
    rounds, seconds = (2, 1) if arguments.quick else (arguments.rounds, arguments.seconds)
    require_programs(arguments.peers)
    began = datetime.now().astimezone()
    works = [WORKS[name] for name in arguments.only]
    progress = Progress()
    with PeerSet() as ready:
        for name in arguments.peers:
            progress.say(f"starting {PEERS[name].title}")
            ready.add(name, PEERS[name](ready.testbed(name)))
        samples, failures = alternate(ready.peers, works, rounds=rounds, seconds=seconds, progress=progress)
    titles = [(name, PEERS[name].title) for name in arguments.peers]
    print(f"\n{began:%Y-%m-%d %H:%M}, {rounds} rounds of {seconds} s: median (lowest-highest)\n")
    print(figures_table(samples, works, titles))
    others = [(name, title) for name, title in titles if name != _OURS]
    if _OURS in arguments.peers and others:
        print("\nours divided by\n\n" + ratios_table(samples, works, _OURS, others))
    print("\n" + "\n".join(f"- {key}: {value}" for key, value in machine.describe().items()))
    for failure in failures:
        print(f"came to nothing: {failure}")
    return 0
