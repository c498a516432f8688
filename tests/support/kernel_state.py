"""What stands in the kernel and in /proc: rules, connection tracking, sockets, descriptors."""

from __future__ import annotations

import re
import time
from pathlib import Path

from userspace_proxy.demo.namespaces import Namespace

_BUILTIN_COUNTERS = re.compile(r"^(:\S+ (?:ACCEPT|DROP)) \[\d+:\d+\]$")
_COUNTERS = re.compile(r"^\[(\d+):(\d+)\] (.*)$")
_LOOKS = 20
_BETWEEN_LOOKS_SECONDS = 0.1
_HANDLE = re.compile(r"# handle (\d+)$")


def installed_rules(
    where: Namespace, variant: str, *, counters: bool = False, family: str = "IPv4"
) -> list[str]:
    """All tables of a variant and a family, as iptables-save prints them.

    Without its remarks, and without the counters of built-in chains, which count everybody's packets.
    """
    tool = {"IPv4": "iptables", "IPv6": "ip6tables"}[family]
    command = [f"{tool}-{variant}-save", *(["-c"] if counters else [])]
    lines = where.run(*command).stdout.splitlines()
    return [_BUILTIN_COUNTERS.sub(r"\1", line) for line in lines if not line.startswith("#")]


def split_counters(rule: str) -> tuple[str, int]:
    """A line of `iptables-save -c` as the rule and its packets; chains and tables have none."""
    found = _COUNTERS.match(rule)
    return (found[3], int(found[1])) if found else (rule, 0)


def rule_handles(where: Namespace) -> list[int]:
    """The handle of everything in the nft tables: whatever is written again, even alike, has a new one."""
    lines = where.run("nft", "-a", "list", "ruleset").stdout.splitlines()
    return [int(found[1]) for line in lines if (found := _HANDLE.search(line))]


def udp_conntrack_entries(where: Namespace, address: str) -> list[str]:
    """The UDP entries of those who sent to `address`."""
    family = "ipv6" if ":" in address else "ipv4"
    command = ("conntrack", "-L", "-f", family, "-p", "udp", "--orig-dst", address)
    return where.run(*command).stdout.splitlines()


def sockets_of(where: Namespace) -> list[str]:
    """Every TCP, UDP and Unix socket that listens inside `where`."""
    listed = where.run("ss", "-H", "-tulnx").stdout.splitlines()
    return sorted(" ".join(line.split()) for line in listed)


def descriptors(pid: int) -> int:
    """How many descriptors a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def descriptors_at_rest(*pids: int) -> list[int]:
    """Of each process the least of several looks: one alone may meet some that are open for a moment."""
    looks = []
    for _ in range(_LOOKS):
        looks.append([descriptors(pid) for pid in pids])
        time.sleep(_BETWEEN_LOOKS_SECONDS)
    return [min(counts) for counts in zip(*looks, strict=True)]


def threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))
