"""Keeps the Node object: makes it where there is none, says that it is ready, and renews its Lease."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Final, NoReturn

from userspace_proxy.demo.api_client import ApiClient, ApiError
from userspace_proxy.demo.api_resources import LEASES, NODES
from userspace_proxy.demo.kubelet.node_object import (
    LEASE_NAMESPACE,
    Machine,
    NodeDescription,
    is_said,
    lease,
    node_object,
    node_status,
)
from userspace_proxy.demo.kubelet.pod_status import timestamp

HEARTBEAT_SECONDS: Final = 10.0
_RETRY_SECONDS: Final = 1.0
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}

_log = logging.getLogger(__name__)


async def keep_node(client: ApiClient, node: NodeDescription) -> NoReturn:
    """Until cancelled. A server that does not answer is asked again soon."""
    machine = this_machine()
    ready_since = timestamp(datetime.now(UTC).timestamp())
    failures = 0
    while True:
        try:
            await _keep_status(client, node, machine, ready_since)
            await _renew_lease(client, node)
            failures = 0
        except ApiError as error:
            failures += 1
            if failures == 1:
                _log.warning("The Node cannot be kept: node=%s why=%s", node.name, error)
        await asyncio.sleep(_RETRY_SECONDS if failures else HEARTBEAT_SECONDS)


def this_machine() -> Machine:
    """The machine that all nodes of the demo share."""
    try:
        system = platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        system = "Linux"
    return Machine(
        kernel_version=platform.release(),
        os_image=system,
        architecture=_ARCHITECTURES.get(platform.machine(), platform.machine()),
        cpus=os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        version=version("userspace-proxy"),
    )


async def _keep_status(client: ApiClient, node: NodeDescription, machine: Machine, ready_since: str) -> None:
    """Write it only where it is not there: everybody who watches nodes hears of every write."""
    status = node_status(node, machine, ready_since, timestamp(datetime.now(UTC).timestamp()))
    try:
        there = await client.get(NODES, None, node.name)
    except ApiError as error:
        if not error.is_not_found:
            raise
        there = await client.create(NODES, None, node_object(node, machine))
    if not is_said(status, there.get("status") or {}):
        await client.patch(NODES, None, node.name, {"status": status}, subresource="status")


async def _renew_lease(client: ApiClient, node: NodeDescription) -> None:
    renewed = lease(node, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"))
    try:
        await client.patch(LEASES, LEASE_NAMESPACE, node.name, {"spec": renewed["spec"]})
    except ApiError as error:
        if not error.is_not_found:
            raise
        await client.create(LEASES, LEASE_NAMESPACE, renewed)
