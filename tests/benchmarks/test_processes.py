from __future__ import annotations

import os
import subprocess
import sys

from benchmarks.processes import cpu_seconds, descriptors, resident_bytes


def test_a_process_costs_something_and_one_that_has_ended_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    own = [os.getpid()]
    for cost in (cpu_seconds, descriptors, resident_bytes):
        assert cost([process.pid]) == 0
        assert cost(own) > 0
