"""A cluster in a folder of its own, while somebody needs it: beside a user's, and in nobody's way."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from userspace_proxy.demo import state_directory
from userspace_proxy.demo.cluster_plan import ClusterPlan
from userspace_proxy.demo.commands import be_cluster, end_cluster
from userspace_proxy.demo.control import AskStatus, ClusterStatus, RunningCluster
from userspace_proxy.demo.launch import launched
from userspace_proxy.errors import StartupError


@dataclass(frozen=True, slots=True)
class TemporaryCluster:
    """A cluster that is up, which took so long. `problems` are what it does without."""

    path: Path
    up_seconds: float
    problems: tuple[str, ...]
    cluster: RunningCluster

    def status(self) -> ClusterStatus:
        """How it does. Raises `StartupError` if it has ended."""
        return self.cluster.ask(AskStatus(), ClusterStatus)

    def end(self) -> None:
        """Take it down, if it is up, and wait until all of it is gone."""
        if not self.has_ended():
            end_cluster(self.cluster, self.path, keep=False)

    def has_ended(self) -> bool:
        """Whether every process of it has."""
        return self.cluster.wait(0)


@contextmanager
def temporary_cluster(plan: ClusterPlan, say: Callable[[str], None]) -> Iterator[TemporaryCluster]:
    """A cluster for the length of this; commands of ours find it meanwhile, by the environment.

    Nothing of it is left then, however it ends. Raises `StartupError`.
    """
    with tempfile.TemporaryDirectory(prefix=f"{state_directory.NAME}-") as folder:
        path = Path(folder, "cluster")
        began = time.monotonic()
        with launched(plan, path, fresh=True, run=be_cluster, say=say) as (ready, _leash):
            running = RunningCluster.find(path)
            if running is None:
                raise StartupError("the cluster has ended as soon as it was up")
            with running:
                temporary = TemporaryCluster(path, time.monotonic() - began, ready.problems, running)
                said_before = os.environ.get(state_directory.VARIABLE)
                os.environ[state_directory.VARIABLE] = str(path)
                try:
                    yield temporary
                finally:
                    temporary.end()
                    del os.environ[state_directory.VARIABLE]
                    if said_before is not None:
                        os.environ[state_directory.VARIABLE] = said_before
