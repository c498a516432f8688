"""What endpoints do: they die, fall silent, refuse, leave and come back. The others serve."""

from __future__ import annotations

from random import Random

import msgspec

from tests.chaos.faults import Fault
from tests.chaos.ledger import Excuse, Phase
from tests.chaos.world import TCP_PORTS, World
from userspace_proxy.core.objects import EndpointConditions

LEARNT_LATE_SECONDS = 40.0
"""An API server that fails tells the agent so much later, when it has been asked again."""


class EndpointFault(Fault):
    """Of one pod of those of which no more than one may fail at a time: each second one, from `first` on."""

    def __init__(self, world: World, random: Random, first: int) -> None:
        super().__init__(world, random)
        self.pod = random.choice(world.pods[first::2])
        self.detail = self.pod.name


class Killed(EndpointFault):
    """The process dies, and what it had accepted with it. Nobody is unserved there: it refuses first."""

    def __init__(self, world: World, random: Random, first: int) -> None:
        super().__init__(world, random, first)
        reason = "the endpoint died with it"
        self.excuses = (Excuse(reason, {Phase.ESTABLISHED}, {self.pod.name}, TCP_PORTS),)

    def inflict(self) -> None:
        self.pod.refuse_new("REJECT", "--reject-with", "tcp-reset")
        self.world.let_connecting_through()
        self.pod.kill()

    def heal(self) -> None:
        self.pod.revive()
        self.pod.let_in()


class BlackHoled(EndpointFault):
    """Packets to it vanish. Established connections go on once they do not any more."""

    def inflict(self) -> None:
        self.pod.drop_everything()

    def heal(self) -> None:
        self.pod.let_in()


class Refusing(EndpointFault):
    def inflict(self) -> None:
        self.pod.refuse_new("REJECT", "--reject-with", "tcp-reset")

    def heal(self) -> None:
        self.pod.let_in()


class NotReady(EndpointFault):
    conditions = EndpointConditions(False, False, False)

    def inflict(self) -> None:
        entry = self.world.node.endpoint_on(self.pod.namespace)
        self.world.set_entry(self.pod, msgspec.structs.replace(entry, conditions=self.conditions))

    def heal(self) -> None:
        self.world.set_entry(self.pod, self.world.node.endpoint_on(self.pod.namespace))


class Terminating(NotReady):
    conditions = EndpointConditions(False, True, True)


class Removed(EndpointFault):
    """It leaves its EndpointSlice and is added again. Connections go on, unless they are to be cut."""

    def __init__(self, world: World, random: Random, first: int) -> None:
        super().__init__(world, random, first)
        if world.are_removed_cut:
            reason = "the endpoint was removed, and such connections are cut"
            late = 0.0 if world.api_server is None else LEARNT_LATE_SECONDS
            self.excuses = (Excuse(reason, {Phase.ESTABLISHED}, {self.pod.name}, TCP_PORTS, late),)
            # They do not know yet who it is that they have come to.
            self.excuses_at_first = (Excuse(reason, {Phase.CONNECTING}, (), TCP_PORTS),)

    def inflict(self) -> None:
        self.world.set_entry(self.pod, None)

    def heal(self) -> None:
        self.world.set_entry(self.pod, self.world.node.endpoint_on(self.pod.namespace))
