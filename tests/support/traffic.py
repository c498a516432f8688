"""What the workers of a pool have carried together."""

from __future__ import annotations

from userspace_proxy.core.traffic_counters import ServicePortCounters
from userspace_proxy.core.traffic_totals import TrafficTotals
from userspace_proxy.dataplane.worker_pool import WorkerPool


async def carried(pool: WorkerPool) -> dict[str, ServicePortCounters]:
    """By the keys of Service ports, as a new agent would count it."""
    totals = TrafficTotals(max_service_ports=10_000, max_endpoints=10_000)
    totals.take(await pool.read_counters(), (), lambda _key: ())
    return {key: each.counters for key, each in totals}
