"""Namespaces that are to go: first everything in them, then they themselves.

What there can be in a namespace the API server says itself, so nothing that it knows is left behind.
Source: "Namespaces" in the Kubernetes documentation.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec

from userspace_proxy.core.back_off import doubled_seconds
from userspace_proxy.demo.api_client import ApiClient, ApiError, Identity, decoded
from userspace_proxy.demo.api_resources import NAMESPACES, Resource
from userspace_proxy.demo.controllers.objects import Namespace
from userspace_proxy.demo.mirror import Mirror

BATCH_SECONDS = 0.1
FIRST_AGAIN_SECONDS = 0.2
LONGEST_AGAIN_SECONDS = 5.0

_log = logging.getLogger(__name__)


class _ApiResource(msgspec.Struct, frozen=True):
    name: str
    kind: str
    namespaced: bool
    verbs: list[str]


class _ApiResourceList(msgspec.Struct, frozen=True):
    resources: list[_ApiResource]


class _GroupVersion(msgspec.Struct, frozen=True, rename="camel"):
    group_version: str


class _ApiGroup(msgspec.Struct, frozen=True, rename="camel"):
    preferred_version: _GroupVersion


class _ApiGroupList(msgspec.Struct, frozen=True):
    groups: list[_ApiGroup]


async def delete_namespaces(
    client: ApiClient, namespaces: Mirror[Namespace], contents: Sequence[Mirror[Any]]
) -> None:
    """Empty and end every namespace that was asked to end, until cancelled.

    `contents` tell when some of what is in them has gone; of the rest nobody tells, so it is looked for.
    """
    changed = asyncio.Event()
    for mirror in (namespaces, *contents):
        mirror.subscribe(changed.set)
    tries = 0
    while True:
        changed.clear()
        ending = [
            namespace.metadata.name
            for namespace in namespaces.objects.values()
            if namespace.metadata.deletion_timestamp is not None
        ]
        tries = tries + 1 if ending else 0
        for name in ending:
            try:
                await _work_on(client, name)
            except ApiError as error:
                _log.info("Namespace is not deleted yet: namespace=%s why=%s", name, error)
        wait = doubled_seconds(FIRST_AGAIN_SECONDS, tries, LONGEST_AGAIN_SECONDS) if tries else None
        with suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await changed.wait()
        await asyncio.sleep(BATCH_SECONDS)


async def _work_on(client: ApiClient, name: str) -> None:
    """Ask all that is in it to end; if nothing is, let it go."""
    is_empty = True
    for resource in await _namespaced_resources(client):
        for item in await client.list(resource, name):
            is_empty = False
            if item.metadata.deletion_timestamp is None:
                try:
                    await client.delete(resource, name, item.metadata.name)
                except ApiError as error:
                    if not error.is_not_found:
                        raise
    if is_empty:
        try:
            namespace = await client.get(NAMESPACES, None, name)
            namespace["spec"] = {**namespace.get("spec", {}), "finalizers": []}
            await client.replace(NAMESPACES, None, name, namespace, subresource="finalize")
        except ApiError as error:
            if not error.is_not_found:
                raise


async def _namespaced_resources(client: ApiClient) -> list[Resource[Identity]]:
    """All kinds of which there can be objects in a namespace; the core ones, which others make, last."""
    groups = decoded(await client.request("GET", "/apis"), _ApiGroupList).groups
    found: list[Resource[Identity]] = []
    for group_version in (*(group.preferred_version.group_version for group in groups), "v1"):
        path = "/api/v1" if group_version == "v1" else f"/apis/{group_version}"
        known = decoded(await client.request("GET", path), _ApiResourceList).resources
        found.extend(
            Resource(group_version, each.kind, each.name, Identity)
            for each in known
            if each.namespaced and {"list", "delete"} <= set(each.verbs)
        )
    return found
