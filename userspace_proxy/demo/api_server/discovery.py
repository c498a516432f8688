"""What the server says it has: versions, groups, resources, in the old form and the aggregated one.

Source: https://kubernetes.io/docs/concepts/overview/kubernetes-api/#discovery-api
"""

from __future__ import annotations

from typing import Final

from userspace_proxy.demo.api_server import openapi, schemas
from userspace_proxy.demo.api_server.kinds import Resource, Subresource, groups
from userspace_proxy.demo.api_server.objects import Object

AGGREGATED: Final = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
"""The media type of the aggregated form."""


def described(path: str, *, is_aggregated: bool) -> Object | None:
    """What the server says of itself at a path; None where it says nothing."""
    match path.strip("/").split("/"):
        case ["version"]:
            return version()
        case ["api" | "apis" as root] if is_aggregated:
            return aggregated(root == "api")
        case ["api"]:
            return api_versions()
        case ["apis"]:
            return group_list()
        case ["api", "v1"]:
            return resource_list(groups()[""])
        case ["apis", name] if name in groups():
            return group(name)
        case ["apis", name, "v1"] if name in groups():
            return resource_list(groups()[name])
        case ["openapi", "v3"]:
            return openapi.root()
        case ["openapi", "v3", *rest]:
            return openapi.document("/".join(rest))
        case _:
            return None


def version() -> Object:
    """The answer at /version."""
    release = schemas.load().release
    major, _, minor = release.removeprefix("v").partition(".")
    return {
        "major": major,
        "minor": minor,
        "gitVersion": f"{release}.0+userspace-proxy-demo",
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "cpython",
        "platform": "linux",
    }


def api_versions() -> Object:
    """The answer at /api."""
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}


def group_list() -> Object:
    """The answer at /apis."""
    named = [group(name) for name in groups() if name]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": named}


def group(name: str) -> Object:
    """The answer at /apis/GROUP; each has one version."""
    only = {"groupVersion": groups()[name][0].group_version, "version": groups()[name][0].version}
    return {
        "kind": "APIGroup",
        "apiVersion": "v1",
        "name": name,
        "versions": [only],
        "preferredVersion": only,
    }


def resource_list(resources: list[Resource]) -> Object:
    """The answer at /api/v1 or /apis/GROUP/VERSION, whose resources these are."""
    listed: list[Object] = []
    for resource in resources:
        listed.append(
            {
                "name": resource.plural,
                "singularName": resource.singular,
                "namespaced": resource.is_namespaced,
                "kind": resource.kind,
                "verbs": list(resource.verbs),
                **({"shortNames": list(resource.short_names)} if resource.short_names else {}),
                **({"categories": list(resource.categories)} if resource.categories else {}),
            }
        )
        listed += [_listed_subresource(resource, part) for part in resource.subresources]
    group_version = resources[0].group_version
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version,
        "resources": listed,
    }


def _listed_subresource(resource: Resource, part: Subresource) -> Object:
    return {
        "name": f"{resource.plural}/{part.name}",
        "singularName": "",
        "namespaced": resource.is_namespaced,
        "kind": part.kind or resource.kind,
        "verbs": list(part.verbs),
        **({"group": part.group, "version": part.version} if part.kind else {}),
    }


def aggregated(core: bool) -> Object:
    """All groups with all resources: the core group's, for /api, or the others', for /apis."""
    items = [
        {"metadata": {"name": name} if name else {}, "versions": [_aggregated_version(resources)]}
        for name, resources in groups().items()
        if (name == "") is core
    ]
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    }


def _aggregated_version(resources: list[Resource]) -> Object:
    return {
        "version": resources[0].version,
        "resources": [
            {
                "resource": resource.plural,
                "responseKind": _kind(resource.group, resource.version, resource.kind),
                "scope": "Namespaced" if resource.is_namespaced else "Cluster",
                "singularResource": resource.singular,
                "verbs": list(resource.verbs),
                "shortNames": list(resource.short_names),
                "categories": list(resource.categories),
                "subresources": [
                    {
                        "subresource": part.name,
                        "responseKind": (
                            _kind(part.group, part.version, part.kind)
                            if part.kind
                            else _kind(resource.group, resource.version, resource.kind)
                        ),
                        "verbs": list(part.verbs),
                    }
                    for part in resource.subresources
                ],
            }
            for resource in resources
        ],
        "freshness": "Current",
    }


def _kind(group_name: str, version_name: str, kind: str) -> Object:
    return {"group": group_name, "version": version_name, "kind": kind}
