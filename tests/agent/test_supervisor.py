"""The supervisor and a signal at a bad moment, and an agent that cannot be started for a while."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from tests.support.waiting import wait_until

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
SUPERVISE = """
import sys
from userspace_proxy.agent.supervisor import supervise
from userspace_proxy.logs.log import configure_logging

configure_logging().start()
raise SystemExit(supervise(sys.argv[1:]))
"""


def test_who_is_told_to_end_while_the_agent_starts_ends_that_too() -> None:
    completed = subprocess.run([sys.executable, "-c", TOLD_WHILE_IT_STARTS], timeout=30, check=False)
    assert completed.returncode == 0


def test_an_agent_whose_program_is_missing_for_a_while_is_tried_again(tmp_path: Path) -> None:
    program, log_file = tmp_path / "agent", tmp_path / "log"
    write_program(program, 'rm "$0"; exit 1')
    with log_file.open("w") as log:
        supervisor = subprocess.Popen([sys.executable, "-c", SUPERVISE, str(program)], stderr=log)
    try:
        wait_until(lambda: "not started" in log_file.read_text() or supervisor.poll() is not None, 20)
        assert supervisor.poll() is None, log_file.read_text()
        write_program(program, "exit 0")
        wait_until(lambda: "is not started again" in log_file.read_text(), 20)
        supervisor.send_signal(signal.SIGTERM)
        assert supervisor.wait(20) == 0
    finally:
        supervisor.kill()
        supervisor.wait()


def write_program(path: Path, line: str) -> None:
    """At once: a half-written one is none."""
    draft = path.with_suffix(".draft")
    draft.write_text(f"#!/bin/sh\n{line}\n")
    draft.chmod(0o755)
    draft.rename(path)


def test_a_program_that_is_missing_from_the_start_ends_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SUPERVISE, str(tmp_path / "agent")]
    completed = subprocess.run(command, timeout=30, check=False, capture_output=True, text=True)
    assert completed.returncode == 1
    assert "StartupError" in completed.stderr
