"""How the parent of all agents makes a fork look like a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from userspace_proxy.demo.agent_parent import _status_of, popen_at


def test_a_child_has_the_descriptors_that_it_was_told_and_no_other(tmp_path: Path) -> None:
    script = (
        "import os, sys\n"
        "from userspace_proxy.demo.agent_parent import _arrange\n"
        "null, one, two = (os.open(path, os.O_RDWR | os.O_CREAT) for path in ['/dev/null', *sys.argv[1:]])\n"
        "_arrange({0: null, 1: one, 2: one, two: one, one: two})\n"  # the numbers of each other
        "os.write(1, b'first'); os.write(one, b'second')\n"
        "os.write(1, ' '.join(sorted(os.listdir('/proc/self/fd'))).encode())\n"
    )
    files = [str(tmp_path / name) for name in ("one", "two")]
    subprocess.run([sys.executable, "-c", script, *files], check=True, timeout=60, close_fds=True)
    # 3 to 5 were opened, and one more lists them.
    assert (tmp_path / "one").read_text() == "first0 1 2 3 4 5"
    assert (tmp_path / "two").read_text() == "second"


@pytest.mark.parametrize(("code", "status"), [(None, 0), (7, 7), (256 + 3, 3), ("why", 1)])
def test_an_exit_is_what_the_interpreter_makes_of_it(code: int | str | None, status: int) -> None:
    assert _status_of(SystemExit(code)) == status


def test_what_is_no_module_of_this_python_is_executed(tmp_path: Path) -> None:
    start = popen_at(str(tmp_path / "nobody"), subprocess.Popen)
    with start(["sh", "-c", "exit 3"]) as process:
        assert process.wait(60) == 3
    with pytest.raises(FileNotFoundError):
        start([sys.executable, "-m", "userspace_proxy"])
