"""What the API server does. Traffic does not notice, and what is newest counts in the end."""

from __future__ import annotations

from functools import partial
from random import Random

from tests.chaos.faults import Fault
from tests.chaos.world import World
from tests.support.faulty_api_server import API_FAULTS, FaultyApiServer


class ApiFault(Fault):
    def __init__(self, world: World, random: Random) -> None:
        super().__init__(world, random)
        assert world.api_server is not None
        self.server: FaultyApiServer = world.api_server


class ApiServerFails(ApiFault):
    """It gives the same wrong answer to all who ask."""

    def __init__(self, world: World, random: Random) -> None:
        super().__init__(world, random)
        self.detail = random.choice(sorted(API_FAULTS))

    def inflict(self) -> None:
        self.server.do(partial(setattr, self.server, "fault", API_FAULTS[self.detail]))
        self.server.do(self.server.end_watches)

    def heal(self) -> None:
        self.server.do(partial(setattr, self.server, "fault", None))


class WatchesExpired(ApiFault):
    """All is listed again."""

    def inflict(self) -> None:
        self.server.do(self.server.expire_watches)


class Restored(ApiFault):
    """It comes back from a backup that has what counts, and an older version."""

    def inflict(self) -> None:
        backup = self.server.do(self.server.back_up)
        for _ in range(self.random.randrange(1, 9)):
            self.server.do(self.server.tick)
        self.server.do(partial(self.server.restore, backup))
        self.server.do(self.server.end_watches)
