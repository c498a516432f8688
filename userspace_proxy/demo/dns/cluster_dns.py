"""The cluster's DNS server, following the API server's Services and EndpointSlices."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Mapping, Sequence

from userspace_proxy.demo.api_client import ApiClient
from userspace_proxy.demo.controllers.objects import ENDPOINT_SLICES, SERVICES
from userspace_proxy.demo.dns.records import Records, cluster_records
from userspace_proxy.demo.dns.server import serving
from userspace_proxy.demo.mirror import Mirror

CLUSTER_DOMAIN = "cluster.local"


async def run_cluster_dns(
    client: ApiClient,
    *,
    udp: Sequence[socket.socket],
    tcp: Sequence[socket.socket],
    zone: str = CLUSTER_DOMAIN,
    names: Mapping[str, Sequence[str]] | None = None,
    clock: Callable[[], float] = time.time,
) -> None:
    """Serve until cancelled; the sockets are closed then.

    `names` are further names with their addresses, for an ExternalName to point at. Until everything has been
    listed once the answer is SERVFAIL, and a resolver asks again.
    """
    services, slices = Mirror(client, SERVICES), Mirror(client, ENDPOINT_SLICES)
    known: Records | None = None

    def forget() -> None:
        nonlocal known
        known = None

    def current() -> Records | None:
        """Made when somebody asks, however often something has changed before."""
        nonlocal known
        if known is None and services.has_synced and slices.has_synced:
            known = cluster_records(
                services.objects.values(),
                slices.objects.values(),
                zone=zone,
                serial=int(clock()),
                names=names,
            )
        return known

    for mirror in (services, slices):
        mirror.subscribe(forget)
    async with serving(current, udp, tcp), asyncio.TaskGroup() as tasks:
        for mirror in (services, slices):
            tasks.create_task(mirror.run(), name=f"DNS mirror of {mirror.resource.plural}")
