"""Real clients - curl, dig, iptables - and what their output says."""

from __future__ import annotations

import re
import shlex
import shutil
from collections import Counter
from dataclasses import dataclass
from typing import Final

from userspace_proxy.demo.namespaces import Namespace

_REQUEST_SECONDS: Final = 5
_IPTABLES: Final = ("iptables", "iptables-nft", "iptables-legacy")


@dataclass(frozen=True, slots=True)
class Answers:
    """The command that asked, in the shell's words, the names that answered, in order, and its complaints."""

    command: str
    names: tuple[str, ...]
    complaints: str = ""

    @property
    def in_order(self) -> str:
        """The names, one after the other."""
        return " ".join(self.names)

    @property
    def counted(self) -> str:
        """How often each name answered."""
        counts = sorted(Counter(self.names).items())
        return ", ".join(f"{name} {count} times" for name, count in counts) or "nobody"


def curl(where: Namespace, address: str, count: int, *, seconds: int = _REQUEST_SECONDS) -> Answers:
    """Ask an HTTP Service `count` times, each time over a new connection and for at most `seconds`.

    Stops at the first request that fails.
    """
    url = f"http://{address}/?[1-{count}]"
    argv = ("curl", "-sS", "--fail-early", "--max-time", str(seconds), "-H", "Connection: close", url)
    completed = where.run(*argv, check=False, timeout=60)
    return Answers(shlex.join(argv), tuple(completed.stdout.split()))


def is_answering(where: Namespace, address: str, *, seconds: float) -> bool:
    """Whether an HTTP Service answers within `seconds`."""
    argv = ("curl", "-s", "--max-time", str(seconds), "--output", "/dev/null", f"http://{address}/")
    return where.run(*argv, check=False).returncode == 0


def dig(where: Namespace, address: str, count: int) -> Answers:
    """Ask a DNS Service `count` times for a TXT record, each time from a new port."""
    argv = ("dig", f"@{address}", "+short", "+tries=1", "+timeout=2", "whoami.example", "TXT")
    answers = [where.run(*argv, check=False).stdout.strip().strip('"') for _ in range(count)]
    command = f"{shlex.join(argv)}  # {count} times"
    return Answers(command, tuple(answer for answer in answers if answer and " " not in answer))


@dataclass(frozen=True, slots=True)
class Listing:
    """The command that listed a chain, and its lines about Services, their columns set closer."""

    command: str
    lines: tuple[str, ...]

    def packets(self, service_port: str) -> int:
        """What the counter of the rule for `namespace/name:port` says; 0 if there is no such rule."""
        for line in self.lines:
            if f"/* {service_port} */" in line:
                return int(line.split()[0])
        return 0


def list_chain(where: Namespace, chain: str) -> Listing:
    """List a nat chain with its counters, by whichever iptables has it."""
    for program in _IPTABLES:
        argv = (program, "-t", "nat", "-nxvL", chain)
        completed = where.run(*argv, check=False) if shutil.which(program) else None
        if completed is not None and completed.returncode == 0:
            lines = [re.sub(r" {2,}", "  ", line.strip()) for line in completed.stdout.splitlines()]
            return Listing(shlex.join(argv), tuple(line for line in lines if "/* " in line or "pkts" in line))
    return Listing(f"iptables -t nat -nxvL {chain}", ())


def saved_rules(where: Namespace) -> list[str]:
    """Every rule and every chain that somebody added, in all tables, without counters."""
    found: list[str] = []
    for program in ("iptables-nft-save", "iptables-legacy-save"):
        if shutil.which(program):
            lines = where.run(program, check=False).stdout.splitlines()
            found += [line for line in lines if line.startswith("-A")]
            found += [line.split()[0] for line in lines if line.startswith(":") and " - " in line]
    return sorted(found)
