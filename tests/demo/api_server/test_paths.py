"""Paths, what they lead to, and what the server says of itself at others."""

from __future__ import annotations

import pytest

from userspace_proxy.demo.api_server import discovery
from userspace_proxy.demo.api_server.kinds import (
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    NAMESPACES,
    NEW_EVENTS,
    NODES,
    PODS,
    RESOURCES,
    SERVICES,
)
from userspace_proxy.demo.api_server.paths import Target, parse


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/api/v1/services", Target(SERVICES)),
        ("/api/v1/namespaces/a/services", Target(SERVICES, "a")),
        ("/api/v1/namespaces/a/services/web", Target(SERVICES, "a", "web")),
        ("/api/v1/namespaces/a/pods/p/log", Target(PODS, "a", "p", "log")),
        ("/api/v1/namespaces", Target(NAMESPACES)),
        ("/api/v1/namespaces/a", Target(NAMESPACES, "", "a")),
        ("/api/v1/namespaces/a/status", Target(NAMESPACES, "", "a", "status")),
        ("/api/v1/namespaces/a/finalize", Target(NAMESPACES, "", "a", "finalize")),
        ("/api/v1/nodes/n/status", Target(NODES, "", "n", "status")),
        ("/apis/apps/v1/namespaces/a/deployments/web/scale", Target(DEPLOYMENTS, "a", "web", "scale")),
        ("/apis/discovery.k8s.io/v1/endpointslices/", Target(ENDPOINT_SLICES)),
        ("/apis/events.k8s.io/v1/namespaces/a/events", Target(NEW_EVENTS, "a")),
        ("/api/v1/services/web", None),
        ("/api/v1/namespaces/a/nodes/n", None),
        ("/api/v1/namespaces/a/secrets", None),
        ("/api/v2/services", None),
        ("/apis/apps/v1/services", None),
        ("/api/v1", None),
        ("/api/v1/namespaces/a/pods/p/log/x", None),
        ("/api/v1/namespaces//pods/p", None),
        ("/metrics", None),
        ("/", None),
    ],
)
def test_paths(path: str, target: Target | None) -> None:
    assert parse(path) == target


def test_every_resource_is_found_in_both_forms_of_discovery() -> None:
    old = {
        (found["groupVersion"], resource["name"])
        for path in ("/api/v1", *(f"/apis/{r.group}/{r.version}" for r in RESOURCES if r.group))
        if (found := discovery.described(path, is_aggregated=False)) is not None
        for resource in found["resources"]
    }
    new = set()
    for path in ("/api", "/apis"):
        described = discovery.described(path, is_aggregated=True)
        assert described is not None
        for group in described["items"]:
            for version in group["versions"]:
                prefix = f"{group['metadata']['name']}/" if group["metadata"] else ""
                for resource in version["resources"]:
                    names = [resource["resource"]]
                    names += [f"{names[0]}/{part['subresource']}" for part in resource["subresources"]]
                    new |= {(prefix + version["version"], name) for name in names}
    assert old == new
    assert {("v1", "pods/log"), ("apps/v1", "deployments/scale")} < old
    assert len([name for _, name in old if "/" not in name]) == len(RESOURCES)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/api", "APIVersions"),
        ("/apis", "APIGroupList"),
        ("/apis/apps", "APIGroup"),
        ("/apis/apps/v1", "APIResourceList"),
    ],
)
def test_discovery_in_the_old_form(path: str, kind: str) -> None:
    described = discovery.described(path, is_aggregated=False)
    assert described is not None
    assert described["kind"] == kind


@pytest.mark.parametrize(
    "path", ["/apis/batch", "/apis/batch/v1", "/api/v2", "/openapi/v2", "/openapi/v3/x", "/"]
)
def test_where_there_is_nothing(path: str) -> None:
    assert discovery.described(path, is_aggregated=False) is None


def test_openapi_leads_to_a_document_for_each_group() -> None:
    root = discovery.described("/openapi/v3", is_aggregated=False)
    assert root is not None
    for entry in root["paths"].values():
        assert discovery.described(entry["serverRelativeURL"], is_aggregated=False) is not None
