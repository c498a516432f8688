"""A network namespace with a hostname and files of its own: a node, a pod, any machine of the demo."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from userspace_proxy.demo.namespaces import Namespace

_FOLDER: Final = Path("/run/sandboxes")


class Sandbox(Namespace):
    """A namespace that calls itself `hostname` and sees `files`, by path, in place of those of the machine.

    For processes that have entered `isolation`. A file that is nowhere to be put over is left out: where the
    machine has no /etc/resolv.conf, for one, nothing in here has any. `descriptors` hold its namespaces.
    """

    def __init__(
        self,
        name: str,
        address: str = "",
        address_v6: str = "",
        *,
        hostname: str = "",
        files: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(name, address, address_v6)
        self._folder = _FOLDER / name
        self.descriptors: dict[str, int] = {}
        with self.closed_on_failure():
            self.descriptors["net"] = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            self._make(hostname or name, files or {})

    def entering(self, argv: Sequence[str]) -> list[str]:
        """The command that enters and then becomes `argv`, under the same process id, in `/`.

        Good for as long as the calling process lives, and for whoever sees it in /proc.
        """
        return ["nsenter", *(f"--{kind}={path}" for kind, path in self.files().items()), "--", *argv]

    def files(self) -> dict[str, str]:
        """A file for each kind of namespace that one has to enter, as options of nsenter(1) are named."""
        return namespace_files(os.getpid(), self.descriptors)

    def close(self) -> None:
        """Kill what runs inside, delete namespaces and files. Closing twice is harmless."""
        super().close()
        while self.descriptors:
            os.close(self.descriptors.popitem()[1])
        shutil.rmtree(self._folder, ignore_errors=True)

    def _make(self, hostname: str, files: Mapping[str, str]) -> None:
        self._folder.mkdir(parents=True)
        steps = [f"hostname {shlex.quote(hostname)}"]
        for target, text in files.items():
            place = Path(target).resolve()
            if place.exists():
                own = self._folder / place.name
                own.write_text(text)
                steps.append(f"mount --bind {shlex.quote(str(own))} {shlex.quote(str(place))}")
        # Held by descriptors, since some kernels refuse to give a file's name to mount namespaces, depending
        # on which core they were made. Slaves, so that no network namespace that is deleted outside is kept
        # alive by its name in here.
        with subprocess.Popen(
            ["unshare", "--mount", "--uts", "--propagation=slave", "sh", "-ec", _script(steps)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as maker:
            assert maker.stdin is not None and maker.stdout is not None and maker.stderr is not None
            if maker.stdout.readline() != "made\n":
                raise OSError(f"the namespaces of {self.name} cannot be made: {maker.stderr.read().strip()}")
            for kind, file in (("mount", "mnt"), ("uts", "uts")):
                self.descriptors[kind] = os.open(f"/proc/{maker.pid}/ns/{file}", os.O_RDONLY | os.O_CLOEXEC)


def namespace_files(pid: int, descriptors: Mapping[str, int]) -> dict[str, str]:
    """Files for namespaces that process `pid` holds by these descriptors. The mount namespace comes last."""
    ordered = sorted(descriptors.items(), key=lambda item: item[0] == "mount")
    return {kind: f"/proc/{pid}/fd/{descriptor}" for kind, descriptor in ordered}


def make_places_for(*files: str) -> None:
    """Let there be files in our `/run` where links of the machine lead there, as /etc/resolv.conf's may."""
    for file in files:
        place = Path(file).resolve()
        if place.is_relative_to("/run") and not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()


def _script(steps: Sequence[str]) -> str:
    """Take the steps, say so, and stay until standard input is closed."""
    return "\n".join((*steps, "echo made", "read -r _ || true"))
