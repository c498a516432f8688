"""What may be written: each kind's rules, as functions from objects to the causes of a refusal.

They know values only. Kinds that have no module here are checked by their metadata alone. The words are the
API server's: whoever learns here will meet them elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from userspace_proxy.demo.api_server.kinds import (
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    ENDPOINTS,
    NAMESPACES,
    PODS,
    SERVICES,
    Resource,
)
from userspace_proxy.demo.api_server.objects import Object
from userspace_proxy.demo.api_server.statuses import Cause, is_invalid
from userspace_proxy.demo.api_server.validation import endpoints, metadata, names, services, workloads
from userspace_proxy.demo.api_server.validation.names import Check

Rules = Callable[[Object], Iterator[Cause]]
ChangeRules = Callable[[Object, Object], Iterator[Cause]]

_NAMES: Final[dict[Resource, Check]] = {NAMESPACES: names.dns_label, SERVICES: names.dns_1035_label}
_RULES: Final[dict[Resource, Rules]] = {
    PODS: workloads.pod_causes,
    DEPLOYMENTS: workloads.deployment_causes,
    SERVICES: services.service_causes,
    ENDPOINTS: endpoints.endpoints_causes,
    ENDPOINT_SLICES: endpoints.slice_causes,
}
_CHANGE_RULES: Final[dict[Resource, ChangeRules]] = {
    PODS: workloads.pod_change_causes,
    DEPLOYMENTS: workloads.deployment_change_causes,
    SERVICES: services.service_change_causes,
    ENDPOINT_SLICES: endpoints.slice_change_causes,
}


def causes(resource: Resource, item: Object, before: Object | None) -> list[Cause]:
    """What is wrong with an object, or with its change from what it was before."""
    found = metadata_causes(resource, item)
    if resource in _RULES:
        found += _RULES[resource](item)
    if before is not None and resource in _CHANGE_RULES and not found:
        found += _CHANGE_RULES[resource](before, item)
    return found


def metadata_causes(resource: Resource, item: Object) -> list[Cause]:
    """What is wrong with an object's metadata."""
    return list(metadata.causes(item, _NAMES.get(resource, names.dns_subdomain)))


def identity_causes(item: Object, before: Object) -> Iterator[Cause]:
    """What of an object can never change."""
    for field in ("name", "namespace"):
        if (value := item["metadata"].get(field, "")) != before["metadata"].get(field, ""):
            yield is_invalid(f"metadata.{field}", value, "field is immutable")
