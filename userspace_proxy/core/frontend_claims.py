"""Which Service port an address belongs to, of those that claim it."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from userspace_proxy.core.service_port import Frontend, ServicePortName


class Precedence(Enum):
    """Why a claim comes before another, as a clause about the one that has it."""

    CLUSTER_IP = "whose clusterIP it is"
    OLDER = "which is older"
    UNDATED = "which has no creationTimestamp and so counts as older"
    NAME = "which is as old and comes first by name"


@dataclass(frozen=True, slots=True)
class FrontendClaim:
    """A frontend that is wanted, and whether because of a clusterIP, which the API server gives out once."""

    frontend: Frontend
    is_cluster_ip: bool = False


@dataclass(frozen=True, slots=True, order=True)
class _Claim:
    is_secondary: bool
    created: str
    key: str
    owner: ServicePortName = field(compare=False)


@dataclass(slots=True)
class FrontendClaims:
    """Which Service port captures an address. Whose clusterIP it is has it, then the oldest.

    So nobody who may write external IPs takes a Service's own address. Creation times compare as text (RFC
    3339, UTC); equal ones are told apart by name, so that the answer does not depend on the order in which
    the objects arrived.
    """

    _claims: dict[Frontend, list[_Claim]] = field(default_factory=dict)
    _held: dict[ServicePortName, tuple[str, tuple[FrontendClaim, ...]]] = field(default_factory=dict)

    def __contains__(self, frontend: Frontend) -> bool:
        return frontend in self._claims

    def owner_of(self, frontend: Frontend) -> ServicePortName | None:
        claims = self._claims.get(frontend)
        return claims[0].owner if claims else None

    def claimants_of(self, frontend: Frontend) -> tuple[ServicePortName, ...]:
        return tuple(claim.owner for claim in self._claims.get(frontend, ()))

    def precedence_over(self, loser: ServicePortName, frontend: Frontend) -> Precedence:
        """Why a frontend is its owner's and not `loser`'s, who claims it too."""
        claims = self._claims[frontend]
        first = claims[0]
        second = next(claim for claim in claims if claim.owner == loser)
        if first.is_secondary != second.is_secondary:
            return Precedence.CLUSTER_IP
        if first.created == second.created:
            return Precedence.NAME
        return Precedence.OLDER if first.created else Precedence.UNDATED

    def replace(self, owner: ServicePortName, created: str, claims: Iterable[FrontendClaim]) -> set[Frontend]:
        """Let `owner` claim exactly these, no frontend twice. Returns the frontends whose claims changed."""
        wanted = (created, tuple(claims))
        held = self._held.pop(owner, None)
        if held == wanted:
            self._held[owner] = held
            return set()
        changed: set[Frontend] = set()
        if held is not None:
            for claim in held[1]:
                changed.add(claim.frontend)
                claimants = self._claims[claim.frontend]
                claimants.remove(_claim(owner, held[0], claim))
                if not claimants:
                    del self._claims[claim.frontend]
        for claim in wanted[1]:
            changed.add(claim.frontend)
            insort(self._claims.setdefault(claim.frontend, []), _claim(owner, created, claim))
        if wanted[1]:
            self._held[owner] = wanted
        return changed


def _claim(owner: ServicePortName, created: str, claim: FrontendClaim) -> _Claim:
    return _Claim(not claim.is_cluster_ip, created, owner.key, owner)
