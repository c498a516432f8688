"""The process that all agents of the demo, and their workers, are forked from.

An agent and its workers are three interpreters that import the same 40 MB; for each of several nodes that
is neither quick nor small. So this process imports them once, and what would be started as `python -m MODULE`
is forked from it instead and runs that module there, with the same arguments, descriptors and surroundings.
The modules themselves are what runs on a node, unchanged, and know nothing of it.

`agents` starts it as `python -I -m userspace_proxy.demo.agent_parent`, and sends it one `Order` as JSON on
standard input, which stays open: where it ends, everything does. As `supervise` does on a node, it starts an
agent that has died again. Each change is told in a line of JSON on standard output: `Told`.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import importlib
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NoReturn

import msgspec

from userspace_proxy.core.back_off import doubled_seconds
from userspace_proxy.dataplane.peer_credentials import peer_of
from userspace_proxy.demo.isolation import enter_namespaces
from userspace_proxy.demo.process_title import set_title

PRELOADED: Final = (
    "uvloop",
    "userspace_proxy.cli",
    "userspace_proxy.agent.agent",
    "userspace_proxy.dataplane.worker_process",
    "userspace_proxy.sources.api_server",
)
"""By name: what runs the agent by its command imports none of it."""

_MOST_MESSAGE_BYTES: Final = 65536
_MOST_DESCRIPTORS: Final = 16
_FIRST_MOVED: Final = 64
"""Descriptors on their way to the number that a child knows them by are moved up here."""
_RESTART_SECONDS: Final = 0.5
_MAX_RESTART_SECONDS: Final = 10.0
_STEADY_SECONDS: Final = 10.0
_ASK_SECONDS: Final = 5.0


class AgentOrder(msgspec.Struct, frozen=True):
    """An agent that is to run: in which namespaces, by nsenter(1)'s names, how, and where its log goes."""

    node: str
    namespaces: dict[str, str]
    arguments: tuple[str, ...]
    log: str


class Order(msgspec.Struct, frozen=True):
    """What to do. Agents ask for workers at the socket `path`."""

    path: str
    agents: tuple[AgentOrder, ...]


class Told(msgspec.Struct, frozen=True, omit_defaults=True):
    """An agent that runs as `pid`, or one that ended with `status` and will be started again."""

    node: str
    pid: int | None = None
    status: int | None = None


class Request(msgspec.Struct, frozen=True):
    """Start `python -m` with these arguments, and with the descriptors that come along at these numbers."""

    arguments: tuple[str, ...]
    descriptors: tuple[int, ...]


class AgentParent:
    """Forks agents, and workers for them; there is one thread, so that each fork is a sound process."""

    def __init__(self, order: Order) -> None:
        self._agents = {agent.node: agent for agent in order.agents}
        self._path = order.path
        self._children: dict[int, str] = {}  # agents and workers, by pid: the node
        self._agent_pids: dict[int, str] = {}
        self._started_at: dict[str, float] = {}
        self._failures = dict.fromkeys(self._agents, 0)
        self._due: dict[str, float] = dict.fromkeys(self._agents, 0.0)
        self._woken, self._waker = socket.socketpair()
        self._requests = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def run(self) -> None:
        """Keep the agents running until standard input ends."""
        self._requests.bind(self._path)
        self._requests.listen(16)
        for end in (self._woken, self._waker):
            end.setblocking(False)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        with selectors.DefaultSelector() as selector:
            for source in (sys.stdin, self._woken, self._requests):
                selector.register(source, selectors.EVENT_READ)
            while True:
                self._start_what_is_due()
                ready = [key.fileobj for key, _ in selector.select(self._patience())]
                if self._requests in ready:
                    self._answer()
                if self._woken in ready:
                    self._reap()
                if sys.stdin in ready and not os.read(0, 1):
                    break
        self._end()

    def _patience(self) -> float | None:
        return max(0.0, min(self._due.values()) - time.monotonic()) if self._due else None

    def _start_what_is_due(self) -> None:
        now = time.monotonic()
        for node in [node for node, due in self._due.items() if due <= now]:
            agent = self._agents[node]
            try:
                pid = self._fork(agent, ("userspace_proxy", *agent.arguments), {})
            except OSError:  # memory or processes are short, which may pass
                self._due[node] = now + _MAX_RESTART_SECONDS
                continue
            del self._due[node]
            self._started_at[node] = now
            self._agent_pids[pid] = node
            _tell(Told(node, pid=pid))

    def _answer(self) -> None:
        """Start what an agent asks for, and tell it the pid."""
        asking, _ = self._requests.accept()
        with asking, suppress(OSError):  # it asks again
            asking.settimeout(_ASK_SECONDS)
            pid, _ = peer_of(asking)
            message, descriptors, _, _ = socket.recv_fds(asking, _MOST_MESSAGE_BYTES, _MOST_DESCRIPTORS)
            try:
                node = self._children.get(pid)
                if node is not None and message:
                    request = msgspec.json.decode(message, type=Request)
                    given = dict(zip(request.descriptors, descriptors, strict=True))
                    started = self._fork(self._agents[node], request.arguments, given)
                    asking.send(started.to_bytes(4, "big"))
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)

    def _reap(self) -> None:
        with suppress(BlockingIOError):
            while self._woken.recv(4096):
                pass
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                self._children.pop(pid, None)
                node = self._agent_pids.pop(pid, None)
                if node is not None:
                    self._agent_ended(node, os.waitstatus_to_exitcode(status))

    def _agent_ended(self, node: str, status: int) -> None:
        now = time.monotonic()
        if now - self._started_at[node] >= _STEADY_SECONDS:
            self._failures[node] = 0
        self._failures[node] += 1
        self._due[node] = now + doubled_seconds(_RESTART_SECONDS, self._failures[node], _MAX_RESTART_SECONDS)
        _tell(Told(node, status=status))

    def _end(self) -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)

    def _fork(self, agent: AgentOrder, arguments: Sequence[str], descriptors: Mapping[int, int]) -> int:
        pid = os.fork()
        if pid == 0:
            _become(agent, arguments, descriptors, self._path)
        self._children[pid] = agent.node
        return pid


class ForkedProcess:
    """What an agent has of a worker: as much of `subprocess.Popen` as it uses.

    It is a child of the parent of all, which reaps it.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit status, which is not known here."""
        return self.returncode


def popen_at(path: str, popen: type[subprocess.Popen[Any]]) -> Any:
    """What agents have for `subprocess.Popen`: the parent at `path` starts this Python's modules."""

    def start(command: Sequence[str], **options: Any) -> Any:
        if tuple(command[:2]) != (sys.executable, "-m"):
            return popen(command, **options)
        numbers = tuple(options.get("pass_fds", ()))
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as parent:
            parent.connect(path)
            message = msgspec.json.encode(Request(tuple(command[2:]), numbers))
            socket.send_fds(parent, [message], numbers)
            answer = parent.recv(4)
        if not answer:
            raise OSError(f"the parent of all agents does not start {command[2]}")
        return ForkedProcess(int.from_bytes(answer, "big"))

    return start


def _become(
    agent: AgentOrder, arguments: Sequence[str], descriptors: Mapping[int, int], path: str
) -> NoReturn:
    """Be `python -m` with `arguments` on the node, in a session of one's own."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        log = os.open(agent.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        null = os.open(os.devnull, os.O_RDONLY)
        _arrange({0: null, 1: log, 2: log, **descriptors})
        enter_namespaces(agent.namespaces)
        module, *rest = arguments
        set_title(" ".join(arguments).replace("userspace_proxy ", "userspace-proxy ", 1), "userspace-proxy")
        subprocess.Popen = popen_at(path, subprocess.Popen)  # type: ignore[misc]
        sys.argv[1:] = rest
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = _status_of(end)
    except BaseException:  # a child that went on would do its parent's work
        traceback.print_exc()
    finally:
        _finish()
        os._exit(status)


def _arrange(wanted: Mapping[int, int]) -> None:
    """Have each wanted number be a duplicate of the descriptor beside it, and nothing else open."""
    moved = {number: _moved(descriptor) for number, descriptor in wanted.items()}
    for number, descriptor in moved.items():
        os.dup2(descriptor, number)
    first = 3  # those before it are always wanted; closerange(0, 0) would close all there are
    for number in sorted(number for number in wanted if number >= first):
        os.closerange(first, number)
        first = number + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))


def _moved(descriptor: int) -> int:
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FIRST_MOVED)


def _status_of(end: SystemExit) -> int:
    """What the interpreter would make of it; sys.exit()."""
    if end.code is None:
        return 0
    if isinstance(end.code, int):
        return end.code & 0xFF
    print(end.code, file=sys.stderr)
    return 1


def _finish() -> None:
    """What the interpreter does at its end: wait for threads, have what is to be done at exit done."""
    with suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()


def _tell(told: Told) -> None:
    with suppress(BrokenPipeError):
        os.write(1, msgspec.json.encode(told) + b"\n")


def main() -> None:
    for module in PRELOADED:
        importlib.import_module(module)
    # runpy executes it anew in each child, and wonders about one that is there already.
    del sys.modules["userspace_proxy.dataplane.worker_process"]
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=Order)
    # What exists now is shared with every child for as long as nobody writes to it, the collector included.
    gc.collect()
    gc.freeze()
    AgentParent(order).run()


if __name__ == "__main__":
    main()
