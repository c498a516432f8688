"""The supervisor and a signal at a bad moment."""

from __future__ import annotations

import subprocess
import sys

TOLD_WHILE_IT_STARTS = """
import signal, subprocess
from userspace_proxy.agent.supervisor import supervise

Popen = subprocess.Popen

def start(command):
    agent = Popen(command)
    signal.raise_signal(signal.SIGTERM)
    return agent

subprocess.Popen = start
raise SystemExit(supervise(["sleep", "60"]))
"""


def test_who_is_told_to_end_while_the_agent_starts_ends_that_too() -> None:
    completed = subprocess.run([sys.executable, "-c", TOLD_WHILE_IT_STARTS], timeout=30, check=False)
    assert completed.returncode == 0
