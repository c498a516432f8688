"""Ways to choose among the endpoints of one class of traffic, a file for each.

A new one is a `Picker` of its own, a line here, and a name in `Balancing`.
"""

from typing import Final

from userspace_proxy.core.balancing import Balancing
from userspace_proxy.core.pickers.least_connections import LeastConnections
from userspace_proxy.core.pickers.picker import Picker
from userspace_proxy.core.pickers.random_choice import RandomChoice
from userspace_proxy.core.pickers.round_robin import RoundRobin
from userspace_proxy.core.pickers.source_hash import SourceHash

PICKERS: Final[dict[Balancing, type[Picker]]] = {
    Balancing.ROUND_ROBIN: RoundRobin,
    Balancing.RANDOM: RandomChoice,
    Balancing.LEAST_CONNECTIONS: LeastConnections,
    Balancing.SOURCE_HASH: SourceHash,
}
