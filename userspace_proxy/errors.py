"""Every error that the package raises on purpose.

An error carries the facts as fields and says in its text what happened, where, why, and what to do. It is
raised (`from` its cause) once, at the edge where the outside's own exception appears.
"""

from __future__ import annotations


class UserspaceProxyError(Exception):
    """The root of the hierarchy. `exit_code` is what a command that ends with this error returns."""

    exit_code = 1


class UsageError(UserspaceProxyError):
    """The command was called in a way that cannot work: a flag's value, an unreadable file it names."""

    exit_code = 2


class StartupError(UserspaceProxyError):
    """The machine lacks something the command needs: a privilege, a program, a kernel feature, a limit."""


class PrivilegeError(StartupError):
    """The process lacks a privilege, or a limit of its own is too low: starting again gives it no more."""

    exit_code = 77  # EX_NOPERM in sysexits.h


class AgentRunningError(UserspaceProxyError):
    """Another agent serves this network namespace."""

    def __init__(self, pid: int, message: str) -> None:
        super().__init__(message)
        self.pid = pid


class RulesError(UserspaceProxyError):
    """iptables refused a read or a commit. What was installed before still stands; trying again is safe."""


class SourceError(UserspaceProxyError):
    """The source of objects cannot be used as it was given (a bad kubeconfig, a directory that is none)."""

    exit_code = 2


class WorkerError(UserspaceProxyError):
    """A worker process could not be started or broke the protocol."""


class NoAgentError(UserspaceProxyError):
    """A live agent was to be asked, and none answers."""

    exit_code = 3
