"""Starting a demo cluster from a command: sockets and files of the machine first, then away from it.

    command ── forks ── launcher ── forks ── init, PID 1 ── forks ── the cluster

The launcher enters namespaces of its own and ends. When init ends, however that comes about, the kernel ends
every process of the cluster, and with them go the namespaces; so init ends with the cluster. What the cluster
needs of the machine it was given: a listening socket on loopback or two, and its folder.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

import msgspec

from userspace_proxy.demo import isolation, state_directory
from userspace_proxy.demo.cluster_plan import ClusterPlan
from userspace_proxy.errors import StartupError, UserspaceProxyError

INSIDE: Final = Path("/run", state_directory.NAME)
"""The cluster's folder, as the cluster itself sees it."""

PRIVATE: Final = Path("/run/control-plane")
"""Where the cluster keeps what it alone sees."""

AGENTS_KUBECONFIG: Final = PRIVATE / "kubeconfig"

_END_SECONDS: Final = 20.0


class Progress(msgspec.Struct, frozen=True, tag=True):
    """Something is done, in a few words."""

    what: str


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The cluster ends, for this reason."""

    why: str
    exit_code: int


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The cluster is up. `problems` are what it does without."""

    problems: tuple[str, ...]


Report = Progress | Failed | Ready


@dataclass(slots=True)
class Surroundings:
    """What a cluster has of the machine: sockets, where to report, its folder, and the leash.

    `api` and `web` listen on loopback; without a page to look at, `web` is None.
    `leash` is closed by whoever started it, when it is to end; it says `STAY` on it to let the cluster alone.
    """

    plan: ClusterPlan
    path: Path
    api: socket.socket
    web: socket.socket | None
    reports: int
    leash: socket.socket
    folder: int
    parent_folder: int

    def report(self, report: Report) -> None:
        """Tell whoever started the cluster, if there is somebody still."""
        with suppress(OSError):
            os.write(self.reports, msgspec.json.encode(report) + b"\n")


STAY: Final = b"stay"


@contextmanager
def launched(
    plan: ClusterPlan,
    path: Path,
    *,
    fresh: bool,
    run: Callable[[Surroundings], int],
    say: Callable[[str], None],
    web: bool = False,
) -> Iterator[tuple[Ready, socket.socket]]:
    """A cluster that is up, as which `run` runs, and its leash.

    It ends when the leash is closed, as at the end of this, unless it was told to stay. Its end is waited for
    if it does not come up, or if what is done with it meanwhile fails.

    `say` is told what is done meanwhile; with `web` there is a page to look at, and with `fresh` nothing is
    taken over from a cluster before. Raises `StartupError` if another cluster holds `path`, or for what the
    cluster says of itself.
    """
    with ExitStack() as stack:
        folder = state_directory.lock(path)
        if folder is None:
            raise StartupError("a demo cluster is running already: see `userspace-proxy demo status`")
        stack.callback(os.close, folder)
        parent_folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, parent_folder)
        state_directory.clear(path, keep=not fresh)  # what a cluster that was killed has left
        api = stack.enter_context(_listening())
        page = stack.enter_context(_listening()) if web else None
        reports, reporting = os.pipe()
        stack.callback(os.close, reports)
        leash, held = socket.socketpair()
        stack.callback(leash.close)
        ending = stack.enter_context(ExitStack())
        ending.callback(_end, leash, reports, path)
        surroundings = Surroundings(plan, path, api, page, reporting, held, folder, parent_folder)
        with held:
            gc.freeze()  # what both sides have now they share, as long as nobody writes to it
            launcher = os.fork()
            if launcher == 0:
                stack.pop_all()
                os.close(reports)
                leash.close()
                _launch(surroundings, run)
        os.close(reporting)
        os.waitpid(launcher, 0)
        ready = _until_ready(reports, say)
        ending.pop_all()
        try:
            yield ready, leash
        except BaseException:
            _let_go(leash, reports)  # it removes what it has written, unless that tells of a fault
            raise


def _until_ready(reports: int, say: Callable[[str], None]) -> Ready:
    with os.fdopen(os.dup(reports), "rb") as lines:
        for line in lines:
            match msgspec.json.decode(line, type=Report):
                case Progress(what):
                    say(what)
                case Failed(why, exit_code):
                    failure = StartupError(why)
                    failure.exit_code = exit_code
                    raise failure
                case Ready() as ready:
                    return ready
    raise StartupError("the cluster was ended before it was up")


def _end(leash: socket.socket, reports: int, path: Path) -> None:
    """Let go of a cluster, and remove what it may have left; what was kept stays."""
    _let_go(leash, reports)
    if path.exists():
        state_directory.clear(path, keep=True)
        with suppress(OSError):  # something is kept
            path.rmdir()


def _let_go(leash: socket.socket, reports: int) -> None:
    """Have a cluster end that was not told to stay, and wait for its end."""
    leash.close()
    deadline = time.monotonic() + _END_SECONDS
    while select.select([reports], [], [], max(0.0, deadline - time.monotonic()))[0]:
        if not os.read(reports, 65536):
            break


def _listening() -> socket.socket:
    """A socket on the machine's loopback, on any port that is free."""
    return socket.create_server(("127.0.0.1", 0), backlog=1024)


def _launch(surroundings: Surroundings, run: Callable[[Surroundings], int]) -> NoReturn:
    """Be the launcher, and in the next process init; never returns."""
    try:
        with _failures_reported(surroundings):
            os.setsid()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            _write_to(surroundings.path / state_directory.LOG)
            isolation.enter(shown={surroundings.path: INSIDE})
            isolation.unshare_pids()
            if os.fork() == 0:
                _be_init(surroundings, run)
    finally:
        os._exit(0)


def _be_init(surroundings: Surroundings, run: Callable[[Surroundings], int]) -> NoReturn:
    """Be the first process: reap orphans, and end when the cluster does."""
    try:
        with _failures_reported(surroundings):
            isolation.mount_proc()
            cluster = os.fork()
            if cluster == 0:
                _be_cluster(surroundings, run)

            def hand_on(number: int, _frame: FrameType | None) -> None:
                os.kill(cluster, number)

            signal.signal(signal.SIGINT, hand_on)
            signal.signal(signal.SIGTERM, hand_on)
            for descriptor in (surroundings.reports, surroundings.folder, surroundings.parent_folder):
                os.close(descriptor)
            surroundings.leash.close()
            surroundings.api.close()
            if surroundings.web is not None:
                surroundings.web.close()
            while os.wait()[0] != cluster:
                pass
    finally:
        os._exit(0)


def _be_cluster(surroundings: Surroundings, run: Callable[[Surroundings], int]) -> NoReturn:
    status = 1
    try:
        with _failures_reported(surroundings):
            status = run(surroundings)
    finally:
        os._exit(status)


@contextmanager
def _failures_reported(surroundings: Surroundings) -> Iterator[None]:
    """Whatever fails within it is told to whoever starts the cluster, and the log."""
    try:
        yield
    except UserspaceProxyError as error:
        surroundings.report(Failed(str(error), error.exit_code))
    except BaseException:
        fault = traceback.format_exc()
        surroundings.report(Failed(f"the cluster has ended by a fault of its own:\n{fault}", 1))
        print(fault, file=sys.stderr, flush=True)


def _write_to(log: Path) -> None:
    """From now on read nothing, and write to this file."""
    null = os.open(os.devnull, os.O_RDONLY)
    writing = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for descriptor, standard in ((null, 0), (writing, 1), (writing, 2)):
        os.dup2(descriptor, standard)
