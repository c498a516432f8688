"""Answers /healthz and /livez as kube-proxy does, whose answers load balancers and kubelets know.

`/healthz` asks whether new connections should be sent to this node: the proxy is healthy, and the node is to
stay. `/livez` asks whether the proxy is healthy. Healthy is who has no change of rules waiting for too long;
so it is from the start, before there is anything to do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final

import msgspec

from userspace_proxy.core.service_port import IPFamily
from userspace_proxy.observability.http_server import Response

NOT_FOUND: Final = Response(HTTPStatus.NOT_FOUND, b"404 page not found\n", ("Content-Type: text/plain",))


@dataclass(frozen=True, slots=True)
class FamilyHealth:
    """`last_synced` in Unix time; None: never."""

    is_healthy: bool
    last_synced: float | None


class ProxyHealth:
    """`families` says how each does, `is_node_eligible` whether it is to get new connections, `clock` what
    the time is (Unix). `healthz_codes` and `livez_codes` count answers by status.
    """

    def __init__(
        self,
        families: Callable[[], Mapping[IPFamily, FamilyHealth]],
        is_node_eligible: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        self.healthz_codes: Counter[int] = Counter()
        self.livez_codes: Counter[int] = Counter()
        self._families = families
        self._is_node_eligible = is_node_eligible
        self._clock = clock

    def respond(self, path: str) -> Response:
        """The answer for a path."""
        match path:
            case "/healthz":
                is_eligible = self._is_node_eligible()
                return self._answer({"nodeEligible": is_eligible}, is_eligible, self.healthz_codes)
            case "/livez":
                return self._answer({}, True, self.livez_codes)
            case _:
                return NOT_FOUND

    def _answer(self, more: Mapping[str, bool], is_eligible: bool, codes: Counter[int]) -> Response:
        families, now = self._families(), self._clock()
        is_healthy = all(each.is_healthy for each in families.values())
        late = [each.last_synced for each in families.values() if not each.is_healthy]
        # Who is healthy is up to date now; else it says since when it is not.
        last_updated = now if is_healthy else min(each or 0.0 for each in late)
        body = {
            "lastUpdated": _written(last_updated),
            "currentTime": _written(now),
            **more,
            "healthy": is_healthy,
            "status": {
                family.value: {"lastUpdated": _written(each.last_synced), "healthy": each.is_healthy}
                for family, each in families.items()
            },
        }
        status = HTTPStatus.OK if is_healthy and is_eligible else HTTPStatus.SERVICE_UNAVAILABLE
        codes[status.value] += 1
        headers = ("Content-Type: application/json", "X-Content-Type-Options: nosniff")
        return Response(status, msgspec.json.encode(body), headers)


def _written(seconds: float | None) -> str | None:
    """RFC 3339, in UTC."""
    return None if not seconds else datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
