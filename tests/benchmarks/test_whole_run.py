"""The smallest run there is: real proxies, real load, a page at the end, and nothing left behind."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.processes import family
from benchmarks.runs import missing_packages
from tests.conftest import ISOLATION_REFUSAL

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def require_what_it_takes(pytestconfig: pytest.Config) -> None:
    """Skip where the kernel refuses namespaces, or what `make bench` installs is not there."""
    pytest.importorskip("matplotlib", reason="plots need the extra `bench`")
    if refusal := pytestconfig.stash[ISOLATION_REFUSAL]:
        pytest.skip(refusal)
    if missing := missing_packages(["ours", "kernel"]):
        pytest.skip(f"not installed: {', '.join(missing)}")


def benchmarks(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_two_peers_do_two_works(tmp_path: Path) -> None:
    what = ["--only", "ping-pong", "udp-flows", "--peers", "ours", "kernel"]
    completed = benchmarks(*what, "--rounds", "1", "--seconds", "1", "--output", str(tmp_path))
    assert completed.returncode == 0, completed.stderr
    assert "Ping-pong, 1 client: p50, µs" in completed.stdout
    [report] = tmp_path.glob("*.json")
    results = json.loads(report.read_text())
    assert results["failures"] == []
    for work in ("ping-pong", "udp-flows"):
        for peer in ("ours", "kernel"):
            [rate] = results["samples"]["figures"][work]["rate"][peer]
            assert rate > 0
        [cost] = results["samples"]["figures"][work]["cpu"]["ours"]
        assert cost > 0


def test_ctrl_c_ends_it_with_all_that_it_started() -> None:
    command = [sys.executable, "-m", "benchmarks", "--only", "ping-pong", "--peers", "ours"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        for line in running.stderr:
            if line.startswith("Ping-pong"):
                break
        [inside] = family(running.pid)[1:2]
        started = family(inside)
        assert len(started) > 5
        running.send_signal(signal.SIGINT)
        assert "stopped" in running.stderr.read()
        assert running.wait(30) == 130
    assert [pid for pid in started if Path(f"/proc/{pid}").exists()] == []


def test_a_missing_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: None if program == "wrk" else f"/usr/bin/{program}")
    assert missing_packages(["ours"]) == ["wrk"]


@pytest.mark.parametrize("arguments", [["--only", "sleeping"], ["--rounds", "0"], ["compare", "main"]])
def test_a_wrong_argument_is_refused_before_anything_is_built(arguments: list[str]) -> None:
    completed = benchmarks(*arguments)
    assert completed.returncode == 2
    assert "usage: python -m benchmarks" in completed.stderr


def test_a_peer_that_is_not_available_is_named_and_asked_for_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBE_PROXY", raising=False)
    completed = benchmarks("--peers", "kube-proxy")
    assert completed.returncode == 1
    assert "KUBE_PROXY names no binary" in completed.stderr
