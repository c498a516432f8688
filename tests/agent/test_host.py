from __future__ import annotations

from userspace_proxy.agent.host import udp_flows_per_worker
from userspace_proxy.dataplane.descriptor_reserve import RESERVED_DESCRIPTORS


def test_flows_have_half_of_the_descriptors_that_are_not_reserved() -> None:
    assert udp_flows_per_worker(1, 20_000, ephemeral_ports=60_000) == (20_000 - RESERVED_DESCRIPTORS) // 2
    assert udp_flows_per_worker(1, 256, ephemeral_ports=60_000) == (256 - 64) // 2


def test_workers_share_three_quarters_of_the_ephemeral_ports() -> None:
    assert udp_flows_per_worker(4, 1_000_000, ephemeral_ports=28_000) == 28_000 * 3 // 4 // 4


def test_there_is_room_for_one_flow_at_least() -> None:
    assert udp_flows_per_worker(256, 4, ephemeral_ports=1) == 1
