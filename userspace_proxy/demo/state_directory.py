"""Where a demo cluster keeps what it writes on the machine: one folder, which nobody else may read.

`/run/userspace-proxy-demo` for root, in `$XDG_RUNTIME_DIR` for anybody else, or what
`$USERSPACE_PROXY_DEMO_DIRECTORY` says: with a folder of its own another cluster can run beside it. Whoever
has the folder locked is the cluster; the lock ends with its last process, however that ends.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path
from typing import Final

from userspace_proxy.errors import StartupError

NAME: Final = "userspace-proxy-demo"

VARIABLE: Final = "USERSPACE_PROXY_DEMO_DIRECTORY"

KUBECONFIG: Final = "kubeconfig"
CONTROL_SOCKET: Final = "control.sock"
DATABASE: Final = "state.db"
PLAN: Final = "cluster.json"
LOG: Final = "demo.log"
LOGS: Final = "logs"
ETCD: Final = "etcd"
KEPT: Final = (DATABASE, ETCD, PLAN)
"""What a later cluster needs to be the same one."""


def default_path() -> Path:
    """The folder of this user's cluster."""
    if said := os.environ.get(VARIABLE):
        return Path(said).absolute()
    if os.geteuid() == 0:
        return Path("/run", NAME)
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and Path(runtime).is_dir():
        return Path(runtime, NAME)
    return Path(f"/tmp/{NAME}-{os.geteuid()}")


def lock(path: Path) -> int | None:
    """Make the folder, if it is not there, and lock it: the descriptor that holds it; None if another does.

    Raises `StartupError` if it cannot be made, or is somebody else's.
    """
    while True:
        try:
            path.mkdir(mode=0o700, exist_ok=True)
            folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError as error:
            if path.parent.is_dir():
                continue  # removed in between
            raise StartupError(f"{path} cannot be made: {error.strerror}") from error
        except OSError as error:
            raise StartupError(f"{path}, where a cluster keeps its files, cannot be used: {error}") from error
        status = os.fstat(folder)
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            os.close(folder)
            raise StartupError(f"{path} belongs to somebody else, or is open to others: remove it first")
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(folder)
            return None
        if path.exists() and path.stat().st_ino == status.st_ino:
            return folder
        os.close(folder)


def clear(path: Path, *, keep: bool) -> None:
    """Remove all that is in the folder, but for what a later cluster needs if `keep`."""
    for entry in path.iterdir():
        if keep and entry.name.startswith(KEPT):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
