"""Leaving the host behind: new mount and network namespaces, and without root a user namespace around them.

Inside, `/run` is an empty tmpfs, so names given by `ip netns add`, the xtables lock and the agent's files are
private too. All of it vanishes with the last process that is inside. Source: unshare(2),
user_namespaces(7), pid_namespaces(7).
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from userspace_proxy.errors import StartupError

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

_MS_BIND: Final = 0x1000
_MS_REC: Final = 0x4000
_MS_PRIVATE: Final = 0x40000
_PR_SET_PDEATHSIG: Final = 1
_PROBE_SECONDS: Final = 30
_STOP_SECONDS: Final = 10
_STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_libc = ctypes.CDLL(None, use_errno=True)  # os.unshare and os.setns are in the library from Python 3.12


def refusal() -> str | None:
    """Why this machine does not let us isolate ourselves, in a sentence; None if it does.

    Tried in a process of its own: whoever enters half-way cannot come back.
    """
    probe = subprocess.run(
        [sys.executable, "-m", "userspace_proxy.demo.isolation"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_PROBE_SECONDS,
    )
    if probe.returncode == 0:
        return None
    return (probe.stdout.strip() or probe.stderr.strip()).splitlines()[-1]


def enter(shown: Mapping[Path, Path] | None = None) -> None:
    """Move the calling process into namespaces of its own, with loopback up and nothing else there.

    Folders of the host in `shown` are seen in the new `/run`, too, where it says. Call it before any thread
    exists. As root the user stays as it is; otherwise it becomes root of a new user namespace in which no
    other uid exists. Raises StartupError where the kernel refuses.
    """
    put_sbin_on_path()
    namespaces = CLONE_NEWNS | CLONE_NEWNET
    uid, gid = os.geteuid(), os.getegid()
    try:
        try:
            _unshare(namespaces)
        except PermissionError:
            _unshare(namespaces | CLONE_NEWUSER)
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
            Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
        _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
        opened = [os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for folder in shown or {}]
        _mount("tmpfs", "/run", "tmpfs", 0, "mode=755")
        for descriptor, place in zip(opened, (shown or {}).values(), strict=True):
            place.mkdir(parents=True)
            _mount(f"/proc/self/fd/{descriptor}", str(place), None, _MS_BIND)
            os.close(descriptor)
    except OSError as error:
        raise StartupError(
            f"this machine does not allow new namespaces here ({error}); run as root or allow unprivileged "
            "user namespaces (on Ubuntu: sysctl kernel.apparmor_restrict_unprivileged_userns=0)"
        ) from error
    _ip("link", "set", "lo", "up")


def run(argv: Sequence[str]) -> int:
    """Run a command as PID 1 of an isolation of its own and return its exit status (128 + n for signal n).

    Whatever it leaves running is killed by the kernel when it ends, and it is killed when we end. It is sent
    the signals that ask us to stop, and killed when it takes longer than ten seconds over it. The calling
    process is isolated as well afterwards. Raises StartupError where the kernel refuses.
    """
    reason = refusal()
    if reason is not None:
        raise StartupError(reason)
    enter()
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)  # until they can be handed on
    try:
        unshare_pids()
        child = subprocess.Popen(argv, preexec_fn=_become_init)
    except (OSError, subprocess.SubprocessError) as error:
        raise StartupError(
            f"this machine does not allow a new PID namespace with its own /proc: {error}"
        ) from error

    def ask_to_stop(number: int, _frame: FrameType | None) -> None:
        child.send_signal(number)
        signal.alarm(_STOP_SECONDS)  # PID 1 does not see a signal that it has no handler for yet

    for number in _STOP_SIGNALS:
        signal.signal(number, ask_to_stop)
    signal.signal(signal.SIGALRM, lambda _number, _frame: child.kill())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
    status = child.wait()
    signal.signal(signal.SIGALRM, signal.SIG_IGN)  # an alarm that is set would meet no handler at our own end
    return status if status >= 0 else 128 - status


def unshare_pids() -> None:
    """Let the calling process' next child be PID 1 of a namespace of its own. There can be no other child."""
    _unshare(CLONE_NEWPID)


def mount_proc() -> None:
    """Have `/proc` show the calling process' own PID namespace. Raises StartupError where that fails."""
    try:
        _mount("proc", "/proc", "proc", 0)
    except OSError as error:
        raise StartupError(f"this machine does not allow a /proc of one's own: {error}") from error


def set_network_namespace(path: Path) -> None:
    """Move the calling thread, and it alone, into the network namespace that `path` names; setns(2)."""
    namespace = os.open(path, os.O_RDONLY)
    try:
        _check(_libc.setns(namespace, CLONE_NEWNET), str(path))
    finally:
        os.close(namespace)


def enter_namespaces(files: Mapping[str, str]) -> None:
    """Move the calling process, which must have one thread, into the namespaces of these files; setns(2).

    The current folder becomes the root of the mount namespace, if that is one of them.
    """
    opened = [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in files.values()]  # as long as all are seen
    for descriptor, path in zip(opened, files.values(), strict=True):
        _check(_libc.setns(descriptor, 0), path)
        os.close(descriptor)


def _become_init() -> None:
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")
    _mount("proc", "/proc", "proc", 0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)


def _unshare(namespaces: int) -> None:
    _check(_libc.unshare(namespaces), "unshare")


def _mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    encoded = [None if text is None else text.encode() for text in (source, target, kind, options)]
    result = _libc.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3])
    _check(result, f"mount {target}")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def put_sbin_on_path() -> None:
    """Debian leaves the folders of `ip` and `iptables` out of a user's PATH."""
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    missing = [folder for folder in ("/usr/sbin", "/sbin") if folder not in folders]
    os.environ["PATH"] = os.pathsep.join(folders + missing)


def _ip(*arguments: str) -> None:
    try:
        subprocess.run(
            ["ip", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PROBE_SECONDS,
            check=True,
        )
    except FileNotFoundError as error:
        raise StartupError("the program `ip` is missing; install the package iproute2") from error
    except subprocess.CalledProcessError as error:
        raise StartupError(
            f"`ip {' '.join(arguments)}` failed in a new namespace: {error.stderr.strip()}"
        ) from error


def _probe() -> int:
    """Do once what the demo and the tests will do; print why not and return 1 where that fails."""
    try:
        enter()
        _ip("netns", "add", "probe")
        _ip("netns", "exec", "probe", "ip", "link", "set", "lo", "up")
        _ip("link", "add", "probe0", "type", "veth", "peer", "name", "eth0", "netns", "probe")
        _ip("link", "add", "probe1", "type", "bridge")
    except StartupError as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_probe())
