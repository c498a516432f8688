"""`python -m benchmarks compare OLD NEW`: two commits of ours side by side in one run.

Ratios are taken within rounds, so what slows the machine for a while falls out. A figure counts as worse when
its median ratio is beyond the threshold and nearly all rounds agree on the direction.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path
from typing import Final

from benchmarks.peers import REPOSITORY, Ours
from benchmarks.reports import row_title
from benchmarks.runs import FOLDER, PeerSet, Progress, alternate, require_programs
from benchmarks.samples import Samples
from benchmarks.tables import cell, markdown
from benchmarks.works import WORKS, Metric, Work
from userspace_proxy.errors import UsageError

WORK_TREE: Final = "."
_AGREEMENT: Final = 0.8
"""The share of rounds that must be worse for a figure to count as worse."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command understands."""
    parser.add_argument("old", help="a commit")
    parser.add_argument("new", help=f"another one, or {WORK_TREE} for the work tree as it is")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="WORK",
        choices=WORKS,
        default=list(WORKS),
        help=f"of {', '.join(WORKS)} (default: all)",
    )
    parser.add_argument(
        "--metrics", nargs="+", default=["rate", "cpu", "p50"], help="what is judged (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds", type=int, default=9, help="how often each does each work (default: %(default)s)"
    )
    parser.add_argument(
        "--seconds", type=int, default=2, help="how long it takes over it (default: %(default)s)"
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=1.05,
        help="the ratio beyond which NEW is worse (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; 1 if something is worse."""
    require_programs([Ours.name])
    works = [WORKS[name] for name in arguments.only]
    FOLDER.mkdir(exist_ok=True)
    trees = {
        name: tree_of(commit, FOLDER / f"tree-{name}")
        for name, commit in (("old", arguments.old), ("new", arguments.new))
    }
    with PeerSet() as ready:
        for name, tree in trees.items():
            ready.add(name, Ours(ready.testbed(name), tree=tree))
        samples, failures = alternate(
            ready.peers, works, rounds=arguments.rounds, seconds=arguments.seconds, progress=Progress()
        )
    titles = (f"old: {arguments.old}", f"new: {arguments.new}")
    rows, worse = [], []
    for work in works:
        judged = [metric for metric in work.metrics if metric.key in arguments.metrics]
        for metric in judged:
            title = row_title(work, metric, is_first=metric is judged[0])
            is_worse = worsened(samples, work, metric, arguments.threshold)
            if is_worse:
                worse.append(f"{work.name} {metric.key}")
            cells = [cell(samples.spread(work.name, metric.key, name)) for name in ("old", "new")]
            ratio = cell(samples.ratio(work.name, metric.key, "new", "old"))
            rows.append([title, *cells, ratio, "worse" if is_worse else ""])
    print("\n" + markdown(["", *titles, "new ÷ old", ""], rows))
    for failure in failures:
        print(f"came to nothing: {failure}")
    print(f"\nworse by more than {arguments.threshold}: {', '.join(worse) or 'nothing'}")
    return 1 if worse or failures else 0


def worsened(samples: Samples, work: Work, metric: Metric, threshold: float) -> bool:
    """Whether `new` is beyond the threshold, and nearly every round says so."""
    pairs = zip(
        samples.of(work.name, metric.key, "old"), samples.of(work.name, metric.key, "new"), strict=False
    )
    losses = sorted(old / new if metric.is_better_higher else new / old for old, new in pairs if old and new)
    if not losses:
        return False
    agreeing = sum(loss > 1 for loss in losses) / len(losses)
    return losses[len(losses) // 2] > threshold and agreeing >= _AGREEMENT


def tree_of(commit: str, folder: Path) -> Path:
    """The files of a commit, put in `folder`, or for `.` the work tree itself.

    Raises UsageError if git does not know the commit.
    """
    if commit == WORK_TREE:
        return REPOSITORY
    git = ["git", "-C", str(REPOSITORY), "-c", f"safe.directory={REPOSITORY}"]
    archived = subprocess.run([*git, "archive", commit, "userspace_proxy"], capture_output=True)
    if archived.returncode:
        raise UsageError(f"{commit}: {archived.stderr.decode(errors='replace').strip()}")
    folder.mkdir(parents=True)
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archived.stdout, check=True)
    return folder
