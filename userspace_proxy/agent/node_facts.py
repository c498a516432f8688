"""Looks up what `core.node_checks` judges. Changes nothing: rules are tried in a network namespace apart."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import ip_network
from pathlib import Path
from typing import Final

from userspace_proxy.agent.host import RESERVED_DESCRIPTORS, ephemeral_ports
from userspace_proxy.agent.single_instance import running_agent
from userspace_proxy.configuration.agent_configuration import Configuration
from userspace_proxy.core.node_checks import NodeFacts
from userspace_proxy.core.port_claims import PortRange
from userspace_proxy.core.service_port import IPFamily
from userspace_proxy.dataplane.privileges import Capability, permitted_capabilities
from userspace_proxy.errors import StartupError
from userspace_proxy.iptables.iptables_restore import HiddenTableError, Variant, find_program, program
from userspace_proxy.iptables.other_variant import OtherVariant
from userspace_proxy.iptables.variant import detect_variant, saved_by, why_unavailable
from userspace_proxy.netlink.listening_ports import listening_ports

_SYS: Final = Path("/proc/sys")
_SYSCTLS: Final = (
    "net.ipv4.ip_forward",
    "net.ipv4.tcp_tw_reuse",
    "net.bridge.bridge-nf-call-iptables",
    "net.netfilter.nf_conntrack_max",
)
_KUBE_PROXY_CHAINS: Final = ("KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-PROXY-CANARY")
_SECONDS: Final = 15.0
_RULES: Final = """*nat
-A PREROUTING -m comment --comment try -m addrtype --dst-type LOCAL -p tcp --dport 1 -j REDIRECT --to-ports 2
-A OUTPUT -p udp --dport 1 -j REDIRECT --to-ports 2
COMMIT
*filter
-A INPUT -p tcp --dport 2 -m conntrack --ctstate DNAT -j ACCEPT
-A INPUT -p tcp --dport 2 -j REJECT
COMMIT
"""


def read_node_facts(configuration: Configuration, service_cidrs: Iterable[str]) -> NodeFacts:
    """Look. Blocks, for some seconds at most."""
    unavailable = {family: why for family in IPFamily if (why := why_unavailable(family))}
    variants = {family: variant for family in IPFamily if (variant := _variant(family, configuration))}
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    routed = {address: _is_routed(address) for address in _addresses(service_cidrs, unavailable)}
    agent = running_agent()
    permitted = permitted_capabilities()
    return NodeFacts(
        capabilities=frozenset(each.name for each in Capability if permitted >> each & 1),
        unavailable=unavailable,
        variants={family: variant.value for family, variant in variants.items()},
        foreign_rules=tuple(_foreign_rules(variants)),
        kube_proxy_chains=tuple(_kube_proxy_chains(variants)),
        rules_tried=_try_rules(variants),
        sysctls=_sysctls(),
        is_proc_sys_writable=os.access(_SYS / "net/ipv4/tcp_tw_reuse", os.W_OK),
        unrouted=tuple(address for address, is_routed in routed.items() if not is_routed),
        routed=tuple(address for address, is_routed in routed.items() if is_routed),
        descriptors=hard,
        descriptors_needed=RESERVED_DESCRIPTORS,
        conntrack_entries=_number(_SYS / "net/netfilter/nf_conntrack_count"),
        proxy_ports=configuration.proxy_port_range,
        ephemeral_ports=ephemeral_ports(),
        stranger_ports=_strangers(configuration.proxy_port_range) if agent is None else (),
        running_agent=agent,
        state_directory_problem=_state_directory_problem(configuration.state_directory),
    )


def _variant(family: IPFamily, configuration: Configuration) -> Variant | None:
    match configuration.iptables_backend:
        case "nft":
            return Variant.NFT
        case "legacy" | "python-iptables":
            return Variant.LEGACY
    with suppress(StartupError):
        return detect_variant(family)
    return None


def _foreign_rules(variants: dict[IPFamily, Variant]) -> Iterable[str]:
    for family, variant in variants.items():
        if warning := OtherVariant(variant, family).warning():
            yield warning.rpartition(": ")[2]


def _kube_proxy_chains(variants: dict[IPFamily, Variant]) -> Iterable[str]:
    for family in variants:
        for variant in Variant:
            save = program(variant, family, "save")
            if find_program(save) is None:
                continue
            with suppress(HiddenTableError):
                saved = saved_by(variant, family)
                yield from (f"{chain} ({save})" for chain in _KUBE_PROXY_CHAINS if f"\n:{chain} " in saved)
    if (nft := shutil.which("nft")) is not None:
        tables = subprocess.run(
            [nft, "list", "tables"], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
        yield from (f"{line} (nft)" for line in tables.stdout.splitlines() if line.endswith(" kube-proxy"))


def _try_rules(variants: dict[IPFamily, Variant]) -> str | None:
    """Why rules like ours cannot be; "" if they can, None where that cannot be tried."""
    unshare = shutil.which("unshare")
    restore = (
        program(variants[IPFamily.IPV4], IPFamily.IPV4, "restore") if variants.get(IPFamily.IPV4) else ""
    )
    if unshare is None or find_program(restore) is None or os.geteuid() != 0:
        return None
    tried = subprocess.run(
        [unshare, "--net", restore],
        input=_RULES,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    if tried.returncode == 0:
        return ""
    if "unshare" in tried.stderr:
        return None
    return tried.stderr.strip().replace("\n", "; ") or f"{restore} ended with {tried.returncode}"


def _sysctls() -> dict[str, str]:
    names = {name: _SYS / name.replace(".", "/") for name in _SYSCTLS}
    for path in sorted((_SYS / "net/ipv4/conf").glob("*/rp_filter")):
        if path.parent.name not in ("default", "lo"):
            names[f"net.ipv4.conf.{path.parent.name}.rp_filter"] = path
    found = {}
    for name, path in names.items():
        with suppress(OSError):
            found[name] = path.read_text().strip()
    return found


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _addresses(service_cidrs: Iterable[str], unavailable: dict[IPFamily, str]) -> Iterable[str]:
    """The first address of each range whose family there is: that of the Service `kubernetes`."""
    for cidr in service_cidrs:
        network = ip_network(cidr)
        if (IPFamily.IPV4 if network.version == 4 else IPFamily.IPV6) not in unavailable:
            yield str(network.network_address + 1)


def _is_routed(address: str) -> bool:
    """Whether the kernel would know where to; a UDP socket's connect(2) sends nothing."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((address, 9))
        except OSError:
            return False
    return True


def _strangers(port_range: PortRange) -> tuple[int, ...]:
    return tuple(sorted({port for _, port in listening_ports() if port in port_range}))


def _state_directory_problem(directory: Path) -> str:
    existing = directory
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        return f"{existing} is no directory"
    return "" if os.access(existing, os.W_OK) else f"{existing} cannot be written"
