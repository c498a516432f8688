"""What is inside stays inside, and ends with its first process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

ISOLATED = "import sys; from userspace_proxy.demo import isolation; sys.exit(isolation.run(sys.argv[1:]))"


def run_isolated(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", ISOLATED, *argv], capture_output=True, text=True, timeout=30, check=False
    )


def test_the_command_sees_itself_as_pid_1_with_loopback_alone() -> None:
    completed = run_isolated("sh", "-c", "echo $$; ls /run; ls /proc | grep -c '^[0-9]'; ip -br link")
    pid, processes, *links = completed.stdout.splitlines()
    assert pid == "1"
    assert int(processes) <= 3  # sh, ls, grep: nothing of the outside, and an empty /run before them
    assert [link.split()[:2] for link in links] == [["lo", "UNKNOWN"]]


def test_the_exit_status_is_the_command_s() -> None:
    assert run_isolated("sh", "-c", "exit 7").returncode == 7
    assert run_isolated("sh", "-c", "exit 0").returncode == 0


def test_names_of_namespaces_do_not_leak() -> None:
    before = sorted(Path("/run").rglob("*"))
    assert run_isolated("ip", "netns", "add", "inside").returncode == 0
    assert sorted(Path("/run").rglob("*")) == before


def test_signals_reach_the_command_and_leftovers_die_with_it() -> None:
    script = "sleep 4242 & trap 'exit 3' TERM; echo started; while :; do sleep 0.01; done"
    outer = subprocess.Popen(
        [sys.executable, "-c", ISOLATED, "sh", "-c", script], stdout=subprocess.PIPE, text=True
    )
    assert outer.stdout is not None
    with outer.stdout:
        assert outer.stdout.readline() == "started\n"
        outer.send_signal(signal.SIGTERM)
        assert outer.stdout.read() == ""  # the end of the pipe: nobody who holds it lives
    assert outer.wait(timeout=30) == 3


def test_a_command_that_does_not_want_to_stop_is_killed() -> None:
    outer = subprocess.Popen(
        [sys.executable, "-c", ISOLATED, "sh", "-c", "trap '' TERM; echo started; sleep 4242"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert outer.stdout is not None
    with outer.stdout:
        assert outer.stdout.readline() == "started\n"
        outer.send_signal(signal.SIGTERM)
        assert outer.wait(timeout=30) == 128 + signal.SIGKILL


def test_the_command_dies_with_whoever_started_it() -> None:
    outer = subprocess.Popen(
        [sys.executable, "-c", ISOLATED, "sh", "-c", "echo started; sleep 4242"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert outer.stdout is not None
    with outer.stdout:
        assert outer.stdout.readline() == "started\n"
        os.kill(outer.pid, signal.SIGKILL)
        assert outer.stdout.read() == ""
    assert outer.wait(timeout=30) == -signal.SIGKILL
