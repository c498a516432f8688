"""What a fault is. The table of all of them is in `table`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from tests.chaos.ledger import Excuse
from tests.chaos.world import World


class Fault(ABC):
    """One fault, with what chance decides about it decided. It is inflicted once, and then healed once.

    Both block. `heal` returns once all is as it was; where the agent is who repairs, that is waited for.
    `excuses` count from before `inflict` until after `heal`, or only until it is inflicted;
    `excuses_at_first` until a moment after it is inflicted.
    """

    excuses_end_with_inflict: ClassVar[bool] = False

    def __init__(self, world: World, random: Random) -> None:
        self.world = world
        self.random = random
        self.detail = ""
        self.excuses: tuple[Excuse, ...] = ()
        self.excuses_at_first: tuple[Excuse, ...] = ()

    @abstractmethod
    def inflict(self) -> None: ...

    def heal(self) -> None:  # noqa: B027
        """Nothing, where a fault is over by itself."""


@dataclass(frozen=True, slots=True)
class PlannedFault:
    """A row of the table; see `schedule.Planned`. `is_repaired`: healing is the agent's, and timed."""

    name: str
    place: str
    seconds: tuple[float, float]
    make: Callable[[World, Random], Fault]
    weight: int = 1
    is_repaired: bool = False
