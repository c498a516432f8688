"""On what a run was made: hardware, kernel, versions of the programs."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

_PROGRAMS: Final = {
    "nginx": ("nginx", "-v"),
    "HAProxy": ("haproxy", "-v"),
    "wrk": ("wrk", "-v"),
    "iperf3": ("iperf3", "--version"),
    "iptables": ("iptables", "--version"),
}
_KUBE_PROXY: Final = "KUBE_PROXY"  # names a binary, if there is one
_LIBRARIES: Final = ("uvloop", "msgspec")


def describe() -> dict[str, str]:
    """What a reader has to know to compare figures, by what it is about."""
    return {
        "CPU": f"{_cpu_model()}, {len(os.sched_getaffinity(0))} cores",
        "kernel": platform.release(),
        "load average before": f"{os.getloadavg()[0]:.1f}",
        "commit": _commit(),
        "Python": platform.python_version(),
        **{name: _version_of(*command) for name, command in _programs().items()},
        **{name: _library_version(name) for name in _LIBRARIES},
    }


def _programs() -> dict[str, tuple[str, ...]]:
    kube_proxy = os.environ.get(_KUBE_PROXY)
    return {**_PROGRAMS, "kube-proxy": (kube_proxy, "--version")} if kube_proxy else dict(_PROGRAMS)


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version_of(*command: str) -> str:
    try:
        completed = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except OSError:
        return "not installed"
    lines = (completed.stdout + completed.stderr).splitlines()
    return next(
        (word.lstrip("v") for word in lines[0].replace("/", " ").split() if word.lstrip("v")[:1].isdigit()),
        "?",
    )


def _library_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    root = Path(__file__).parents[1]
    described = ["git", "-C", str(root), "-c", f"safe.directory={root}", "describe", "--always", "--dirty"]
    try:
        return (
            subprocess.run(described, capture_output=True, text=True, timeout=10).stdout.strip() or "unknown"
        )
    except OSError:
        return "unknown"
