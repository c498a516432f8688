"""All controllers of the cluster together, over one set of mirrors."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeAlias

from userspace_proxy.core.ip_addresses import IPNetwork
from userspace_proxy.demo.api_client import ApiClient
from userspace_proxy.demo.controllers.controller import Controller, Planner
from userspace_proxy.demo.controllers.deployments import plan_deployments
from userspace_proxy.demo.controllers.endpoint_slices import plan_endpoint_slices
from userspace_proxy.demo.controllers.garbage import plan_owner_collection, plan_pod_collection
from userspace_proxy.demo.controllers.legacy_endpoints import plan_endpoints
from userspace_proxy.demo.controllers.load_balancers import Announcement, announcement, plan_load_balancers
from userspace_proxy.demo.controllers.namespaces import delete_namespaces
from userspace_proxy.demo.controllers.node_lifecycle import (
    DEFAULT_PATIENCE,
    NodePatience,
    plan_node_lifecycle,
)
from userspace_proxy.demo.controllers.objects import (
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    ENDPOINTS,
    LEASES,
    NAMESPACES,
    NODES,
    PODS,
    SERVICES,
)
from userspace_proxy.demo.controllers.scheduler import plan_scheduling
from userspace_proxy.demo.event_recorder import EventRecorder
from userspace_proxy.demo.mirror import Mirror

Announce: TypeAlias = Callable[[Announcement], Awaitable[None]]


async def run_controllers(
    client: ApiClient,
    *,
    pools: Sequence[IPNetwork] = (),
    announce: Announce | None = None,
    patience: NodePatience = DEFAULT_PATIENCE,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    chance: random.Random | None = None,
) -> None:
    """Run all of them until cancelled.

    `pools` are the addresses for load balancers. `announce` is awaited with all of these and the nodes that
    take their traffic, whenever that has changed, and once at the start.
    """
    chance = chance if chance is not None else random.Random()
    started = clock()
    pods, nodes, services = Mirror(client, PODS), Mirror(client, NODES), Mirror(client, SERVICES)
    deployments, slices = Mirror(client, DEPLOYMENTS), Mirror(client, ENDPOINT_SLICES)
    endpoints, namespaces = Mirror(client, ENDPOINTS), Mirror(client, NAMESPACES)
    leases = Mirror(client, LEASES, may_be_absent=True)
    mirrors: list[Mirror[Any]] = [
        pods,
        nodes,
        services,
        deployments,
        slices,
        endpoints,
        namespaces,
        leases,
    ]

    def nodes_by_name() -> dict[str, Any]:
        return {name: node for (_, name), node in nodes.objects.items()}

    planners: list[tuple[str, list[Mirror[Any]], Planner]] = [
        (
            "deployment-controller",
            [deployments, pods],
            lambda now, chance: plan_deployments(
                deployments.objects.values(), pods.objects.values(), now, chance
            ),
        ),
        (
            "default-scheduler",
            [pods, nodes],
            lambda now, _: plan_scheduling(pods.objects.values(), nodes.objects.values(), now),
        ),
        (
            "endpoint-slice-controller",
            [services, pods, nodes, slices],
            lambda _, chance: plan_endpoint_slices(
                services.objects.values(),
                pods.objects.values(),
                nodes_by_name(),
                slices.objects.values(),
                chance,
            ),
        ),
        (
            "endpoint-controller",
            [services, pods, nodes, endpoints],
            lambda _now, _chance: plan_endpoints(
                services.objects.values(),
                list(pods.objects.values()),
                nodes_by_name(),
                endpoints.objects,
            ),
        ),
        (
            "service-controller",
            [services],
            lambda _now, _chance: plan_load_balancers(services.objects.values(), pools),
        ),
        (
            "node-controller",
            [nodes, leases, pods],
            lambda now, _: plan_node_lifecycle(
                nodes.objects.values(), leases.objects, pods.objects.values(), now, started, patience
            ),
        ),
        (
            "garbage-collector",
            [deployments, services, pods, slices],
            lambda _now, _chance: plan_owner_collection(
                [*deployments.objects.values(), *services.objects.values()],
                [*pods.objects.values(), *slices.objects.values()],
            ),
        ),
        (
            "pod-garbage-collector",
            [pods, nodes],
            lambda _now, _chance: plan_pod_collection(pods.objects.values(), nodes_by_name()),
        ),
    ]
    async with asyncio.TaskGroup() as tasks:
        for mirror in mirrors:
            tasks.create_task(mirror.run(), name=f"mirror of {mirror.resource.plural}")
        for name, reads, plan in planners:
            recorder = EventRecorder(client, name, clock=clock)
            controller = Controller(name, plan, reads, client, recorder, chance, clock)
            tasks.create_task(recorder.run(), name=f"events of {name}")
            tasks.create_task(controller.run(), name=name)
        tasks.create_task(delete_namespaces(client, namespaces, [pods]), name="namespace-controller")
        if announce is not None:
            tasks.create_task(_announcing(announce, services, slices, nodes), name="route-controller")


async def _announcing(
    announce: Announce, services: Mirror[Any], slices: Mirror[Any], nodes: Mirror[Any]
) -> None:
    changed = asyncio.Event()
    for mirror in (services, slices, nodes):
        mirror.subscribe(changed.set)
    for mirror in (services, slices, nodes):
        await mirror.synced()
    announced: Announcement | None = None
    while True:
        changed.clear()
        due = announcement(services.objects.values(), slices.objects.values(), nodes.objects.values())
        if due != announced:
            await announce(due)
            announced = due
        await changed.wait()
