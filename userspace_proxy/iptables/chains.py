"""The tables and chains that we write: what they are called, and which are ours."""

from __future__ import annotations

import base64
import hashlib
import re
from enum import Enum
from typing import Final, NamedTuple


class Table(Enum):
    """The tables that we write, by the kernel's names."""

    FILTER = "filter"
    NAT = "nat"


class Chain(NamedTuple):
    table: Table
    name: str


PORTALS_CONTAINER = Chain(Table.NAT, "KUBE-PORTALS-CONTAINER")
PORTALS_HOST = Chain(Table.NAT, "KUBE-PORTALS-HOST")
NODEPORT_CONTAINER = Chain(Table.NAT, "KUBE-NODEPORT-CONTAINER")
NODEPORT_HOST = Chain(Table.NAT, "KUBE-NODEPORT-HOST")
PORTALS_GUARD = Chain(Table.FILTER, "KUBE-PORTALS-GUARD")

_DIGEST_LETTERS: Final = 12
"""Chain names have at most 28 characters; so many letters of base 32 are 60 bits."""

NAMES_OF_OURS: Final = (
    r"KUBE-(?:PORTALS|NODEPORT)-(?:CONTAINER|HOST)|KUBE-PORTALS-GUARD"
    rf"|KUBE-(?:PORTALS|NODEPORT)-(?:[CH]-)?[A-Z2-7]{{{_DIGEST_LETTERS}}}"
)
"""A pattern for the names of all chains of ours, whatever table they are in."""

_NAT_NAME_OF_OURS = re.compile(NAMES_OF_OURS)


class Side(Enum):
    """Whose traffic a chain that others branch into takes, as its name says it."""

    CONTAINER = "C-"
    HOST = "H-"
    BOTH = ""


class Roots(NamedTuple):
    """The chain for what comes in, the one for what the node's own processes send."""

    container: Chain
    host: Chain

    def branch(self, side: Side, part: str) -> Chain:
        """The chain for a part of the traffic."""
        digest = base64.b32encode(hashlib.sha256(part.encode()).digest()).decode()
        stem = self.container.name.removesuffix("CONTAINER")
        return Chain(self.container.table, stem + side.value + digest[:_DIGEST_LETTERS])


PORTALS = Roots(PORTALS_CONTAINER, PORTALS_HOST)
NODE_PORTS = Roots(NODEPORT_CONTAINER, NODEPORT_HOST)


def is_ours(chain: Chain) -> bool:
    """Whether it is one of the only chains that are ever written, beside the jumps to them.

    The names of the four that the built-in chains of nat jump to are kube-proxy's.
    """
    if chain.table is Table.FILTER or chain.name == PORTALS_GUARD.name:
        return chain == PORTALS_GUARD
    return _NAT_NAME_OF_OURS.fullmatch(chain.name) is not None


def side_of(chain: Chain) -> Side:
    """Whose traffic a chain of ours in nat takes."""
    _, _, rest = chain.name.split("-", 2)
    if rest == "CONTAINER" or rest.startswith(Side.CONTAINER.value):
        return Side.CONTAINER
    if rest == "HOST" or rest.startswith(Side.HOST.value):
        return Side.HOST
    return Side.BOTH
