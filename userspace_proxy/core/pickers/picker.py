"""What all pickers are: the endpoints that one class of traffic may use, and whose turn it is among them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator
from copy import copy
from itertools import islice
from random import Random
from typing import Self, TypeAlias

from userspace_proxy.core.ejection import Ejections, most_left_out
from userspace_proxy.core.endpoint import Endpoint

Load: TypeAlias = Callable[[Endpoint], int]
"""How many connections, or UDP flows, of the Service port an endpoint has now."""


class Picker(ABC):
    """Endpoints, and who is next. Those that `ejections` names are left out, as far as that goes.

    `left_out` has who is. The endpoints are kept in an order that was shuffled, so that nodes do not all
    start with the same one; `_next` is the place of the next in turn.
    """

    __slots__ = ("_ejections", "_load", "_next", "_order", "_random", "_usable", "left_out")

    def __init__(self, random: Random, ejections: Ejections, load: Load) -> None:
        self.left_out: frozenset[Endpoint] = frozenset()
        self._ejections = ejections
        self._load = load
        self._next = 0
        self._random = random
        self._order: list[Endpoint] = []
        self._usable: frozenset[Endpoint] = frozenset()

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(self._usable)

    def update(self, endpoints: Iterable[Endpoint]) -> None:
        """Replace the endpoints. Those that stay keep their order and turn; new ones come after them."""
        waiting = self._order[self._next :] + self._order[: self._next]
        usable = frozenset(endpoints)
        new = sorted(usable - self._usable)  # a set's order is chance that is not ours
        self._random.shuffle(new)
        self._order = [endpoint for endpoint in waiting if endpoint in usable] + new
        self._next = 0
        self._usable = usable
        self.leave_out()

    def leave_out(self) -> None:
        """Follow a change of the ejections."""
        taken_out = self._ejections.taken_out & self._usable
        ejected = (
            endpoint
            for endpoint in self._ejections.ejected
            if endpoint in self._usable and endpoint not in taken_out
        )
        others = len(self._usable) - len(taken_out)
        self.left_out = taken_out.union(islice(ejected, most_left_out(others)))

    def has_other(self, endpoint: Endpoint) -> bool:
        """Whether there is one to go to instead of `endpoint`."""
        return len(self._usable) > (endpoint in self._usable)

    def takes(self, endpoint: Endpoint, now: float) -> bool:
        """Whether a client that is bound to `endpoint` may go there."""
        if endpoint not in self._usable:
            return False
        return endpoint not in self.left_out or self._ejections.probe(endpoint, now)

    def peek(self, client: str | None, now: float) -> tuple[Endpoint, ...]:
        """Where `pick` would have the next connection of `client` (None: of somebody) go, which changes
        nothing. Several: to any of these.
        """
        picked = self.twin().pick(client or "", (), now)
        return () if picked is None else (picked,)

    def twin(self) -> Self:
        """Another one that begins as this one is, to see what would be."""
        twin = copy(self)
        twin._ejections = self._ejections.copy()
        return twin

    def _any(self) -> tuple[Endpoint, ...]:
        """Who may be next if it is not known who comes, or if chance decides."""
        return tuple(sorted(self._usable - self.left_out or self._usable))

    @abstractmethod
    def pick(self, client: str, tried: Collection[Endpoint], now: float) -> Endpoint | None:
        """Where a connection of `client` (an IP address) goes; None if it has `tried` all there are.

        Those that are left out get nothing, except a probe that is due, or if nobody else is left.
        """

    def _first(
        self, candidates: Iterable[Endpoint], tried: Collection[Endpoint], now: float
    ) -> Endpoint | None:
        """The first of `candidates` that may be picked."""
        last_resort = None
        for endpoint in candidates:
            if endpoint in tried:
                continue
            if endpoint not in self.left_out or self._ejections.probe(endpoint, now):
                return endpoint
            last_resort = last_resort or endpoint
        return last_resort
