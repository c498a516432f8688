"""Every lesson, given on one cluster: all that it shows comes out as its text has it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from userspace_proxy.demo.lessons.catalogue import lessons
from userspace_proxy.demo.state_directory import VARIABLE

DEMO = (sys.executable, "-m", "userspace_proxy", "demo")
TIMEOUT_SECONDS = 240

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """That of commands which find a cluster of their own."""
    folder = tmp_path_factory.mktemp("demo")
    environment = {**os.environ, VARIABLE: str(folder / "cluster"), "HOME": str(folder)}
    up = subprocess.run(
        [*DEMO, "up"], env=environment, capture_output=True, text=True, timeout=TIMEOUT_SECONDS
    )
    assert up.returncode == 0, up.stdout + up.stderr
    yield environment
    subprocess.run([*DEMO, "down"], env=environment, capture_output=True, timeout=TIMEOUT_SECONDS, check=True)
    assert not Path(environment[VARIABLE]).exists()


@pytest.mark.parametrize("number", lessons())
def test_a_lesson_shows_what_it_says(number: int, environment: dict[str, str]) -> None:
    given = subprocess.run(
        [*DEMO, "lesson", str(number)],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    assert given.returncode == 0, given.stdout + given.stderr
    assert lessons()[number].title in given.stdout
