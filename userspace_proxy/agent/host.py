"""What an agent needs of the process it runs in, checked before anything is touched."""

from __future__ import annotations

import logging
import resource
from pathlib import Path
from typing import Final

from userspace_proxy.core.port_claims import PortRange
from userspace_proxy.dataplane.descriptor_reserve import reserved_descriptors
from userspace_proxy.dataplane.privileges import Capability, keep_capabilities, permitted_capabilities
from userspace_proxy.errors import PrivilegeError

RESERVED_DESCRIPTORS: Final = 512
"""What an agent may need beside its listeners, at most."""

logger = logging.getLogger(__name__)

KEPT_CAPABILITIES: Final = frozenset(Capability) - {Capability.SYS_MODULE}
_LEGACY_TABLES: Final = Path("/proc/net/ip_tables_names")
_OOM_SCORE_ADJ: Final = Path("/proc/self/oom_score_adj")
_TCP_TW_REUSE: Final = Path("/proc/sys/net/ipv4/tcp_tw_reuse")


def require_privileges(command: str) -> None:
    """Raise `PrivilegeError` unless this process may change rules; capabilities(7)."""
    permitted = permitted_capabilities()
    missing = [
        f"CAP_{capability.name}"
        for capability in (Capability.NET_ADMIN, Capability.NET_RAW)
        if not permitted >> capability & 1
    ]
    if missing:
        raise PrivilegeError(
            f"`{command}` changes iptables rules and lacks {' and '.join(missing)}: run it as root, "
            "or give its container these capabilities"
        )


def give_up_capabilities(iptables_backend: str) -> None:
    """Keep only what an agent needs; docs/security.md says what for. Programs that it starts get no more.

    To load the module of the legacy tables takes a capability that is as good as all of them, so it is kept
    only where the configuration asks for these tables and the kernel has none yet.
    """
    kept = set(KEPT_CAPABILITIES)
    if iptables_backend in ("legacy", "python-iptables") and not _LEGACY_TABLES.exists():
        kept.add(Capability.SYS_MODULE)
    keep_capabilities(kept)


def raise_descriptor_limit() -> int:
    """Use all the descriptors that this process may have; returns how many that is.

    Raises `PrivilegeError` if no listener would fit in, whatever the cluster has.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard <= RESERVED_DESCRIPTORS:
        raise PrivilegeError(
            f"{RESERVED_DESCRIPTORS} descriptors are needed beside those of listeners, but this process may "
            f"have only {hard} open: raise the limit (LimitNOFILE= in a systemd unit, ulimit -n in a shell)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def udp_flows_per_worker(workers: int, max_descriptors: int, ephemeral_ports: int) -> int:
    """A worker's share of the node's UDP flows.

    A flow holds a descriptor of its worker, where TCP connections need as many and listeners to come have a
    reserve, and one of the ephemeral ports that all processes of the network namespace share: a quarter of
    those is left to the others.
    """
    unreserved = max_descriptors - reserved_descriptors(max_descriptors)
    return max(1, min(unreserved // 2, ephemeral_ports * 3 // 4 // workers))


def ephemeral_ports() -> PortRange:
    """The ports that the kernel hands out by itself; ip_local_port_range in ip(7)."""
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    return PortRange(first, last)


def adjust_oom_score(score: int) -> None:
    """Tell the kernel how soon to end this process, and those it starts, when memory is short; proc(5).

    To lower the score takes CAP_SYS_RESOURCE. Where it may not be set, the log says so.
    """
    try:
        if int(_OOM_SCORE_ADJ.read_text()) != score:
            _OOM_SCORE_ADJ.write_text(str(score))
    except (OSError, ValueError) as error:
        logger.warning("The OOM score cannot be set: oom_score_adj=%d reason=%s", score, error)


def reuse_ports_in_time_wait() -> None:
    """Let a new connection have the port of one that ended a second ago; tcp_tw_reuse in tcp(7).

    Whoever closes first keeps the port for a minute, and towards an endpoint that is us where clients close
    first: without this, 28,232 ephemeral ports are 470 such connections a second to one endpoint. Holds for
    the network namespace, IPv6 too. Where it may not be written, the log says so.
    """
    try:
        if _TCP_TW_REUSE.read_text().strip() != "1":
            _TCP_TW_REUSE.write_text("1")
    except OSError as error:
        logger.warning(
            "Ports of ended connections stay taken for a minute, net.ipv4.tcp_tw_reuse cannot be set: %s",
            error,
        )
