"""What `status` answers, gathered from those who know."""

from __future__ import annotations

import os
import time
from importlib.metadata import version

from userspace_proxy.core.answers.status import Status, WorkerStatus
from userspace_proxy.core.cluster_state import ClusterState
from userspace_proxy.dataplane.worker_pool import WorkerPool


class StatusOf:
    """Call it for the status now."""

    def __init__(self, state: ClusterState, workers: WorkerPool) -> None:
        self._state = state
        self._workers = workers
        self._started = time.monotonic()

    def __call__(self) -> Status:
        return Status(
            version=version("userspace-proxy"),
            pid=os.getpid(),
            node=self._state.node_name,
            uptime_seconds=time.monotonic() - self._started,
            workers=tuple(
                WorkerStatus(number=seat.number, pid=seat.process.pid, service_ports=len(seat))
                for seat in self._workers.seats
                if seat.process is not None
            ),
        )
