"""An agent that becomes the new build of its package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import atexit
import sys
from pathlib import Path
from userspace_proxy.agent.replacement import start_again
began = Path(sys.argv[1])
if began.exists():
    print("again")
else:
    began.touch()
    atexit.register(print, "tidied up", flush=True)
    start_again()
"""


def test_who_starts_again_leaves_nothing_of_the_life_before(tmp_path: Path) -> None:
    """Such as the files that the API client makes of the keys in a kubeconfig."""
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, str(tmp_path / "program.py"), str(tmp_path / "began")]
    completed = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert completed.stdout == "tidied up\nagain\n", completed.stderr
