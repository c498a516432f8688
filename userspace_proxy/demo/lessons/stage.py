"""Where a lesson's commands run: the demo cluster, and the machine that it is on."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_COMMAND_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended, and what it printed on both of its streams."""

    status: int
    output: str


@dataclass(frozen=True, slots=True)
class Stage:
    """The running cluster whose `kubeconfig` this is."""

    kubeconfig: Path

    def run(self, place: str, command: str) -> Outcome:
        """Run a line of shell there, without input, within a minute; longer counts as a failure."""
        shell = ["sh", "-c", command]
        if place:
            shell = [sys.executable, "-m", "userspace_proxy", "demo", "exec", place, "--", *shell]
        own = str(Path(sys.executable).parent)
        environment = {
            **os.environ,
            "KUBECONFIG": str(self.kubeconfig),
            "PATH": os.pathsep.join((own, os.environ.get("PATH", os.defpath))),  # `userspace-proxy` is there
        }
        try:
            done = subprocess.run(
                shell,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=environment,
                timeout=_COMMAND_SECONDS,
            )
        except subprocess.TimeoutExpired as expired:
            said = (expired.stdout or b"").decode(errors="replace")
            return Outcome(124, f"{said}\n(not done within {_COMMAND_SECONDS:g} s)")
        return Outcome(done.returncode, done.stdout.decode(errors="replace"))
