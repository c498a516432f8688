"""The whole suite, and what fails in it once more, alone.

    python scripts/run_tests.py [PYTEST'S ARGUMENTS]

Tests wait most of their time, so three processes run beside each other, each in namespaces of its own.
Those of a file stay together, since they share a node; the order is that of tests/conftest.py. On a machine
with few cores that does something else, too, one of thousands may then meet a deadline of its own. So a few
that fail are run again with nobody beside them. One that fails again fails the run; one that passes is
named at the end, to be looked at: it has found either a race or a deadline that is too short.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".pytest_cache"
PYTEST = (sys.executable, "-m", "pytest", "-o", f"cache_dir={CACHE}", "--cov", "--cov-report=")
BESIDE = ("--numprocesses", "3", "--dist", "loadfile", "--no-loadscope-reorder")
TESTS_FAILED = 1
AGAIN_AT_MOST = 10


def main() -> int:
    """Pytest's exit status; 0 too if all that failed has passed alone."""
    chosen = sys.argv[1:]
    (CACHE / "v/cache/lastfailed").unlink(missing_ok=True)
    status = run_pytest(*BESIDE, *chosen)
    if status != TESTS_FAILED:
        return status
    failed = sorted(json.loads((CACHE / "v/cache/lastfailed").read_text()))
    if len(failed) > AGAIN_AT_MOST:
        return status
    print(f"\nOnce more, alone: {len(failed)} of the tests, which failed.", flush=True)
    status = run_pytest("--cov-append", *failed)
    if status == 0:
        print("\nThese failed beside others and passed alone, look at them:", *failed, sep="\n  ", flush=True)
    return status


def run_pytest(*arguments: str) -> int:
    """Run it here; its exit status."""
    return subprocess.run([*PYTEST, *arguments], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
