"""Endpoints on paper."""

from __future__ import annotations

from typing import Any

import msgspec

from tests.demo.controllers.simulation import pod, service, struct
from userspace_proxy.demo.controllers.legacy_endpoints import plan_endpoints
from userspace_proxy.demo.controllers.objects import Endpoints
from userspace_proxy.demo.controllers.writes import Create, Delete, Patch

WEB = {"app": "web"}
HTTP = service("http", selector=WEB, ports=[{"name": "http", "port": 80, "targetPort": 8080}])
PODS = [
    pod("b", labels=WEB, ips=["10.0.0.2"]),
    pod("a", labels=WEB, ips=["10.0.0.1"]),
    pod("c", labels=WEB, ips=["10.0.0.3"], is_ready=False),
]


def written(write: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(write.body))


def there(item: Any) -> dict[tuple[str, str], Endpoints]:
    named = {"uid": "u", "resourceVersion": "1", **item["metadata"]}
    return {("default", named["name"]): struct(Endpoints, {**item, "metadata": named})}


def test_addresses_are_sorted_and_the_ready_ones_apart() -> None:
    (write,) = plan_endpoints([HTTP], PODS, {}, {}).writes
    assert isinstance(write, Create)
    item = written(write)
    assert item["metadata"]["name"] == "http"
    (subset,) = item["subsets"]
    assert [address["ip"] for address in subset["addresses"]] == ["10.0.0.1", "10.0.0.2"]
    assert [address["ip"] for address in subset["notReadyAddresses"]] == ["10.0.0.3"]
    assert subset["ports"] == [{"name": "http", "port": 8080}]
    assert subset["addresses"][0]["targetRef"]["name"] == "a"
    assert not plan_endpoints([HTTP], PODS, {}, there(item)).writes


def test_only_what_changes_is_written() -> None:
    (create,) = plan_endpoints([HTTP], PODS, {}, {}).writes
    (write,) = plan_endpoints([HTTP], PODS[:2], {}, there(written(create))).writes
    assert isinstance(write, Patch)
    assert "notReadyAddresses" not in written(write)["subsets"][0]
    (write,) = plan_endpoints([HTTP], [], {}, there(written(create))).writes
    assert written(write)["subsets"] == []


def test_what_is_ours_goes_with_its_service_and_nothing_else_does() -> None:
    (create,) = plan_endpoints([HTTP], PODS, {}, {}).writes
    (write,) = plan_endpoints([], PODS, {}, there(written(create))).writes
    assert isinstance(write, Delete)
    assert not plan_endpoints([], PODS, {}, there({"metadata": {"name": "by-hand"}})).writes
