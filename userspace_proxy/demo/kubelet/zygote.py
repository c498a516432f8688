"""The process that all processes of pods are children of, so that one starts in a millisecond and is cheap.

`processes` starts `python -I -m userspace_proxy.demo.kubelet.zygote` with a Unix socket (SOCK_SEQPACKET) as
its standard input. Each message there is a JSON object; a launch brings the descriptor that is to be the
child's stdout and stderr.

    → {"launch": 7, "serve": {"namespace_path": …, "identity": {…}, "ports": […]}}
    → {"launch": 8, "execute": {"argv": […], "env": {…}, "cwd": …}}
    → {"signal": 15, "to": 7}
    ← {"launched": 7, "pid": 4711}      it serves; or it has become its program, or failed to
    ← {"refused": 7, "why": …}          there is no process
    ← {"ended": 7, "status": 0}         the exit status; -n for signal n

A child leads a session of its own. When it has ended, whatever else is in that session is killed, as all of
a container is; so is a process that has left its session and whose parent has ended, as daemons do. Children
die with their zygote, and a zygote with the process that started it.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import gc
import json
import os
import resource
import selectors
import signal
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NoReturn

from userspace_proxy.demo.isolation import set_network_namespace
from userspace_proxy.demo.kubelet.pod_http import Identity
from userspace_proxy.demo.kubelet.pod_server import serve
from userspace_proxy.demo.process_title import set_title

MOST_MESSAGE_BYTES: Final = 131072
_MOST_DESCRIPTORS: Final = 65536
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36

_libc = ctypes.CDLL(None)


class _Zygote:
    def __init__(self, commands: socket.socket) -> None:
        self._commands = commands
        self._pid = os.getpid()
        self._launches: dict[int, int] = {}  # by pid, until it is reaped
        self._starting: dict[int, int] = {}  # by pid, the pipe that its child closes when it is launched
        self._selector = selectors.DefaultSelector()
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)

    def run(self) -> None:
        """Carry out commands until the other side closes."""
        self._selector.register(self._commands, selectors.EVENT_READ, self._command)
        self._selector.register(self._woken, selectors.EVENT_READ, self._reap)
        while all(key.data() for key, _mask in self._selector.select()):
            pass
        self._kill_all()

    def _command(self) -> bool:
        message, descriptors, _flags, _address = socket.recv_fds(
            self._commands, MOST_MESSAGE_BYTES, 1, socket.MSG_CMSG_CLOEXEC
        )
        if not message:
            return False
        command = json.loads(message)
        if "signal" in command:
            self._signal(command["to"], command["signal"])
        else:
            try:
                if not descriptors:
                    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))  # so it could not be received
                self._launch(command, descriptors[0])
            except OSError as error:
                self._report({"refused": command["launch"], "why": str(error)})
            for descriptor in descriptors:
                os.close(descriptor)
        return True

    def _signal(self, launch: int, number: int) -> None:
        for pid, known in self._launches.items():
            if known == launch:
                os.kill(pid, number)  # not reaped yet, so this pid is nobody else's

    def _launch(self, command: dict[str, Any], output: int) -> None:
        closes, launched = os.pipe()  # closed by exec, as all that Python opens
        try:
            pid = os.fork()
        except OSError:
            os.close(closes)
            raise
        else:
            if pid == 0:
                self._become(command, output, launched)
        finally:
            os.close(launched)
        self._launches[pid] = command["launch"]
        self._starting[pid] = closes
        self._selector.register(closes, selectors.EVENT_READ, functools.partial(self._launched, pid))

    def _launched(self, pid: int) -> bool:
        if pid in self._starting:
            closes = self._starting.pop(pid)
            self._selector.unregister(closes)
            os.close(closes)
            self._report({"launched": self._launches[pid], "pid": pid})
        return True

    def _become(self, command: dict[str, Any], output: int, launched: int) -> NoReturn:
        status = 126
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != self._pid:
                os._exit(status)
            os.dup2(output, 1)
            os.dup2(output, 2)
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0)
            for descriptor in (null, output, *self._starting.values()):
                os.close(descriptor)
            for inherited in (self._selector, self._commands, self._woken, self._waker):
                inherited.close()
            if "serve" in command:
                status = _serve(**command["serve"], launched=launched)
            else:
                _execute(**command["execute"])
        except BaseException as error:  # a child that went on would answer commands in its parent's place
            with suppress(OSError):
                os.write(2, f"cannot start: {error}\n".encode(errors="replace"))
        finally:
            os._exit(status)

    def _reap(self) -> bool:
        with suppress(BlockingIOError):
            while self._woken.recv(4096):
                pass
        with suppress(ChildProcessError):
            while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                pid = ended.si_pid
                if pid in self._launches:
                    with suppress(ProcessLookupError, PermissionError):
                        os.killpg(pid, signal.SIGKILL)  # before its number can be somebody else's
                _pid, status = os.waitpid(pid, 0)
                if pid in self._launches:
                    self._launched(pid)
                    launch = self._launches.pop(pid)
                    self._report({"ended": launch, "status": os.waitstatus_to_exitcode(status)})
        self._kill_orphans()
        return True

    def _kill_orphans(self) -> None:
        """Those of sessions that are over, or that nobody launched."""
        for pid in self._children():
            if pid not in self._launches and os.getsid(pid) not in self._launches:
                os.kill(pid, signal.SIGKILL)

    def _kill_all(self) -> None:
        """And what becomes an orphan by that, and so on."""
        while children := self._children():
            for pid in children:
                os.kill(pid, signal.SIGKILL)
            os.waitpid(-1, 0)

    def _children(self) -> list[int]:
        with suppress(FileNotFoundError):  # a kernel without CONFIG_PROC_CHILDREN
            return [int(pid) for pid in _read(f"/proc/self/task/{self._pid}/children").split()]
        return list(self._launches)

    def _report(self, report: dict[str, int | str]) -> None:
        with suppress(ConnectionError):  # its reader has gone; the next command says so
            self._commands.send(json.dumps(report).encode())


def _serve(namespace_path: str, identity: dict[str, str], ports: list[int], launched: int) -> int:
    set_network_namespace(Path(namespace_path))
    who = Identity(**identity)
    set_title(f"pod-server: {who.namespace}/{who.name}", "pod-server")
    return serve(who, ports, lambda: os.close(launched))


def _execute(argv: list[str], env: dict[str, str], cwd: str) -> NoReturn:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # which Python ignores
    if cwd:
        os.chdir(cwd)
    os.execvpe(argv[0], argv, env)


def _read(path: str) -> bytes:
    """A file of /proc, without the buffers of Python's files, which each child would have for itself."""
    file = os.open(path, os.O_RDONLY)
    try:
        return os.read(file, 65536)
    finally:
        os.close(file)


def main() -> None:
    """The process."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    commands = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    # A server needs a descriptor for each client. With a huge limit some programs try to close them all.
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    # What exists now is shared with every child for as long as nobody writes to it, the collector included.
    gc.collect()
    gc.freeze()
    _Zygote(commands).run()


if __name__ == "__main__":
    main()
