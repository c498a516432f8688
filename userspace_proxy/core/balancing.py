"""How a Service's endpoints are chosen among, by the names that the annotation gives them."""

from __future__ import annotations

from enum import Enum


class Balancing(Enum):
    """`core.pickers` has what each does."""

    ROUND_ROBIN = "round-robin"
    RANDOM = "random"
    LEAST_CONNECTIONS = "least-connections"
    SOURCE_HASH = "source-hash"
