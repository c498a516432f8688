"""Takes back everything that a run left in the kernel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from userspace_proxy.admin.socket_file import remove_left
from userspace_proxy.agent.host import require_privileges
from userspace_proxy.agent.single_instance import SingleInstance, end_running_agent, running_agent
from userspace_proxy.core.service_port import IPFamily, Protocol
from userspace_proxy.dataplane.control_sockets import ControlSockets
from userspace_proxy.dataplane.orphans import end_orphans
from userspace_proxy.errors import AgentRunningError
from userspace_proxy.iptables.capture import Capture
from userspace_proxy.iptables.portal_rules import read_portals
from userspace_proxy.iptables.variant import installed_backends
from userspace_proxy.netlink.conntrack import delete_stale_entries


def clean_up(*, force: bool, state_directory: Path) -> Iterator[str]:
    """Remove rules, chains and UDP conntrack entries of ours, and end workers; yields what was done.

    Looks at every variant of iptables that this host has, whichever wrote the rules. Repeatable. Raises
    `AgentRunningError` beside a live agent, unless `force` ends that first.
    """
    require_privileges("userspace-proxy cleanup")
    if force:
        ended = end_running_agent()
        if ended is not None:
            yield f"ended the agent, pid {ended}"
    pid = running_agent()
    if pid is not None:
        raise AgentRunningError(
            pid,
            f"an agent serves this network namespace: pid {pid or 'unknown'}. Stop it first, or say --force",
        )
    instance = SingleInstance()
    instance.hold()  # so that no agent starts meanwhile
    try:
        control_sockets = ControlSockets(state_directory)
        # Before the rules go: without them the resets may not find their way back to the clients.
        workers = end_orphans(control_sockets)
        if workers:
            yield f"ended workers without an agent: {workers}"
        remove_left(control_sockets.folder)
        control_sockets.remove()
        for family in IPFamily:
            yield from _clean_up_family(family)
    finally:
        instance.close()


def _clean_up_family(family: IPFamily) -> Iterator[str]:
    removed = False
    frontends = set()
    for backend in installed_backends(family):
        capture = Capture(backend)
        frontends |= {f for f in read_portals(capture.read(), family) if f.protocol is Protocol.UDP}
        removed |= bool(capture.remove_everything().changes)
    deleted = delete_stale_entries(family, dict.fromkeys(frontends, ())) if frontends else 0
    if removed or deleted:
        yield f"{family.value}: removed every rule and chain of ours, and {deleted} UDP conntrack entries"
    else:
        yield f"{family.value}: nothing of ours was there"
