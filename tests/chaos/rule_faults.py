"""What strangers do to rules. The agent repairs it, and while it has not, who comes may meet anything."""

from __future__ import annotations

import fcntl
from itertools import product
from pathlib import Path
from random import Random

from tests.chaos.faults import Fault
from tests.chaos.ledger import Excuse, Phase
from tests.chaos.world import World

LOCK = Path("/run/xtables.lock")
ELSEWHERE = ("DNAT", "--to-destination", "198.51.100.9:9")
CHAINS_OF_NAT = (
    "KUBE-PORTALS-CONTAINER",
    "KUBE-PORTALS-HOST",
    "KUBE-NODEPORT-CONTAINER",
    "KUBE-NODEPORT-HOST",
)

NO_RULE = Excuse("came while the rules were gone", {Phase.CONNECTING})
OTHERS_FIRST = Excuse("came while others' rules were first", {Phase.CONNECTING})

DEEDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "nat flushed": (("-t", "nat", "-F"),),
    "all deleted": tuple(("-t", table, verb) for table in ("nat", "filter") for verb in ("-F", "-X")),
    "a jump deleted": (("-t", "nat", "-D", "PREROUTING", "1"),),
    "a chain rewritten": (
        ("-t", "nat", "-F", "KUBE-PORTALS-CONTAINER"),
        ("-t", "nat", "-A", "KUBE-PORTALS-CONTAINER", "-p", "tcp", "-j", "RETURN"),
    ),
}
BEFORE_OURS: dict[str, tuple[str, ...]] = {
    "ACCEPT": ("PREROUTING", "-p", "tcp", "-j", "ACCEPT"),
    "RETURN": ("PREROUTING", "-p", "udp", "-j", "RETURN"),
    "DNAT": ("PREROUTING", "-d", "10.96.0.0/16", "-p", "tcp", "-j", *ELSEWHERE),
}


class RuleFault(Fault):
    """Somebody calls iptables. It is over once what should stand does."""

    def iptables(self, *arguments: str, environment: tuple[str, ...] = ()) -> None:
        """In both families. What cannot be deleted, because it is not there now, need not be."""
        for tool in self.world.iptables:
            self.world.node.node.run("env", *environment, tool, *arguments, check=False)

    def heal(self) -> None:
        self.world.wait_for_repair()


class NatChanged(RuleFault):
    def __init__(self, world: World, random: Random) -> None:
        super().__init__(world, random)
        self.detail = random.choice(sorted(DEEDS))
        self.excuses = (NO_RULE,)

    def inflict(self) -> None:
        for arguments in DEEDS[self.detail]:
            self.iptables(*arguments)


class FilterFlushed(RuleFault):
    """No client of a Service notices."""

    def inflict(self) -> None:
        self.iptables("-t", "filter", "-F")


class ChainsDeleted(RuleFault):
    """One after the other, with what leads there."""

    def __init__(self, world: World, random: Random) -> None:
        super().__init__(world, random)
        self.chains = random.sample(CHAINS_OF_NAT, random.randrange(1, 5))
        self.detail = ", ".join(self.chains)
        self.excuses = (NO_RULE,)

    def inflict(self) -> None:
        for chain, tool in product(self.chains, self.world.iptables):
            rules = self.world.node.node.run(f"{tool}-save", "-t", "nat").stdout.splitlines()
            jumps = [rule.removeprefix("-A ") for rule in rules if rule.endswith(f"-j {chain}")]
            script = "\n".join(["*nat", *(f"-D {jump}" for jump in jumps), f"-F {chain}", f"-X {chain}"])
            self.world.node.node.run(f"{tool}-restore", "--noflush", stdin=f"{script}\nCOMMIT\n", check=False)


class ForeignFirst(RuleFault):
    """Others' rule comes before ours; ours go first again, and theirs stays until they remove it."""

    def __init__(self, world: World, random: Random) -> None:
        super().__init__(world, random)
        self.detail = random.choice(sorted(BEFORE_OURS))
        self.excuses = (OTHERS_FIRST,)

    def inflict(self) -> None:
        self.iptables("-t", "nat", "-I", *BEFORE_OURS[self.detail])

    def heal(self) -> None:
        super().heal()
        self.iptables("-t", "nat", "-D", *BEFORE_OURS[self.detail])


class LockHeld(RuleFault):
    """Somebody flushes and holds the xtables lock, which legacy tables have: nobody else can write."""

    def __init__(self, world: World, random: Random) -> None:
        super().__init__(world, random)
        self.excuses = (NO_RULE,)

    def inflict(self) -> None:
        self.lock = LOCK.open("a")
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        self.iptables("-t", "nat", "-F", environment=("XTABLES_LOCKFILE=/run/another.lock",))

    def heal(self) -> None:
        self.lock.close()
        super().heal()
