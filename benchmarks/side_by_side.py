"""`python -m benchmarks`: the proxy beside its peers."""

from __future__ import annotations

import argparse
import resource
from datetime import datetime
from pathlib import Path

from benchmarks import machine, plots
from benchmarks.peers import PEERS, REPOSITORY
from benchmarks.results import Results, require_folder
from benchmarks.runs import NOTHING_CAME_OF_IT, PeerSet, Progress, alternate, require_programs
from benchmarks.studies import STUDIES, Pace, Study
from benchmarks.works import WORKS
from userspace_proxy.errors import StartupError

_CHOICES = (*WORKS, *STUDIES)
_QUICK_ROUNDS, _QUICK_SECONDS = 2, 1
_NOT_QUICK = ("bulk-1-down", "bulk-8-down", "soak", "closes", "endpoints", "clients")
"""What a quick run leaves out unless it is asked for."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command understands."""
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="WORK",
        choices=_CHOICES,
        help=f"of {', '.join(_CHOICES)} (default: all)",
    )
    parser.add_argument(
        "--peers",
        nargs="+",
        metavar="PEER",
        choices=PEERS,
        help=f"of {', '.join(PEERS)} (default: all that are available)",
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="how often each peer does each work (default: %(default)s)"
    )
    parser.add_argument(
        "--seconds", type=int, default=5, help="how long it takes over it (default: %(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="a first look in two minutes")
    parser.add_argument(
        "--output",
        type=Path,
        default=REPOSITORY / "benchmarks" / "results",
        help="the folder for results (default: %(default)s)",
    )
    parser.add_argument("--name", help="what the results' files are called (default: the date)")


def run(arguments: argparse.Namespace) -> int:
    """Measure, write the results, print them."""
    progress = Progress()
    peers, skipped = _choose_peers(arguments.peers)
    for reason in skipped:
        progress.say(f"skipping {reason}")
    require_programs(peers)
    plots.require_matplotlib()
    folder = arguments.output.resolve()
    require_folder(folder)
    began = datetime.now().astimezone()
    is_quick = arguments.quick
    names = arguments.only or [name for name in _CHOICES if not (is_quick and name in _NOT_QUICK)]
    results = Results(
        date=f"{began:%Y-%m-%d %H:%M %Z}",
        rounds=_QUICK_ROUNDS if is_quick else arguments.rounds,
        seconds=_QUICK_SECONDS if is_quick else arguments.seconds,
        peers=peers,
        machine=machine.describe(),
        skipped=skipped,
    )
    _measure_works([name for name in names if name in WORKS], results, progress)
    pace = Pace(
        seconds=results.seconds,
        is_quick=is_quick,
        max_descriptors=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        peers=tuple(name for name in peers if not PEERS[name].is_for_udp_alone),
    )
    for name in names:
        if name in STUDIES:
            _measure_study(STUDIES[name], pace, results, progress)
    page = results.write(folder, arguments.name or f"{began:%Y-%m-%d-%H%M}")
    print("\n" + results.as_markdown())
    print(f"written to {page.parent}: {page.stem}.md, .json, -*.svg")
    return 0


def _choose_peers(wanted: list[str] | None) -> tuple[list[str], list[str]]:
    """Who takes part, and who does not and why. Raises StartupError for one that was asked for and cannot."""
    reasons = {name: reason for name in wanted or PEERS if (reason := PEERS[name].unavailable())}
    skipped = [f"{name}: {reason}" for name, reason in reasons.items()]
    if wanted and skipped:
        raise StartupError("; ".join(skipped))
    return [name for name in wanted or PEERS if name not in reasons], skipped


def _measure_works(names: list[str], results: Results, progress: Progress) -> None:
    if not names:
        return
    with PeerSet() as ready:
        for name in results.peers:
            progress.say(f"starting {PEERS[name].title}")
            ready.add(name, PEERS[name](ready.testbed(name)))
        works = [WORKS[name] for name in names]
        results.samples, results.failures = alternate(
            ready.peers, works, rounds=results.rounds, seconds=results.seconds, progress=progress
        )


def _measure_study(study: Study, pace: Pace, results: Results, progress: Progress) -> None:
    progress.say(study.title)
    steps = results.studies.setdefault(study.name, [])
    with PeerSet() as ready:
        try:
            for step in study.measure(ready, pace):
                steps.append(step)
                progress.figures(f"{study.name} {step.x:g}: {step.series:<9}", study.metrics, step.figures)
        except NOTHING_CAME_OF_IT as error:
            results.failures.append(f"{study.name}: {error}")
            progress.say(f"  {results.failures[-1]}")
