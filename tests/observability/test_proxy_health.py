from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from userspace_proxy.core.service_port import IPFamily
from userspace_proxy.observability.http_server import Response
from userspace_proxy.observability.proxy_health import FamilyHealth, ProxyHealth

NOW = 1_000_000_000.5
V4, V6 = IPFamily.IPV4, IPFamily.IPV6


def health(*, is_eligible: bool = True, **families: FamilyHealth) -> ProxyHealth:
    by_family = {IPFamily(name): each for name, each in families.items()}
    return ProxyHealth(lambda: by_family, lambda: is_eligible, lambda: NOW)


def said(response: Response) -> tuple[HTTPStatus, dict[str, Any]]:
    return response.status, json.loads(response.body)


def test_who_has_nothing_to_do_yet_is_healthy() -> None:
    proxy = health(IPv4=FamilyHealth(True, None))
    assert said(proxy.respond("/healthz")) == (
        200,
        {
            "lastUpdated": "2001-09-09T01:46:40.500000Z",
            "currentTime": "2001-09-09T01:46:40.500000Z",
            "nodeEligible": True,
            "healthy": True,
            "status": {"IPv4": {"lastUpdated": None, "healthy": True}},
        },
    )


def test_one_family_that_is_late_makes_the_proxy_unhealthy_and_says_since_when() -> None:
    proxy = health(IPv4=FamilyHealth(True, NOW - 1), IPv6=FamilyHealth(False, NOW - 100))
    for path in ("/healthz", "/livez"):
        status, body = said(proxy.respond(path))
        assert status == 503
        assert not body["healthy"]
        assert body["lastUpdated"] == body["status"]["IPv6"]["lastUpdated"] == "2001-09-09T01:45:00.500000Z"
        assert body["status"]["IPv4"]["healthy"]


def test_one_that_was_never_right_says_so() -> None:
    status, body = said(health(IPv4=FamilyHealth(False, None)).respond("/livez"))
    assert (status, body["lastUpdated"]) == (503, None)


def test_a_node_that_is_not_eligible_lives() -> None:
    proxy = health(is_eligible=False, IPv4=FamilyHealth(True, NOW))
    status, body = said(proxy.respond("/healthz"))
    assert (status, body["nodeEligible"], body["healthy"]) == (503, False, True)
    status, body = said(proxy.respond("/livez"))
    assert (status, "nodeEligible" in body) == (200, False)


def test_answers_are_counted_by_status() -> None:
    proxy = health(is_eligible=False, IPv4=FamilyHealth(True, NOW))
    for path in ("/healthz", "/healthz", "/livez", "/"):
        proxy.respond(path)
    assert proxy.healthz_codes == {503: 2}
    assert proxy.livez_codes == {200: 1}


def test_other_paths_are_not_found() -> None:
    assert health().respond("/metrics").status == 404
