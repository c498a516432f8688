"""Which traffic comes from the node's own pods (`detectLocalMode`), and where NodePorts are open.

Source: the kubeproxy.config.k8s.io/v1alpha1 reference (detectLocalMode, detectLocal, clusterCIDR,
nodePortAddresses).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, assert_never

from userspace_proxy.core.ip_addresses import family_of, read_network
from userspace_proxy.core.service_port import IPFamily

PRIMARY: Final = "primary"
"""`nodePortAddresses: [primary]`: the addresses that the Node object states first."""


class DetectLocalMode(Enum):
    """How pods of this node are told from everybody else, spelled as kube-proxy spells it."""

    CLUSTER_CIDR = "ClusterCIDR"
    NODE_CIDR = "NodeCIDR"
    BRIDGE_INTERFACE = "BridgeInterface"
    INTERFACE_NAME_PREFIX = "InterfaceNamePrefix"


@dataclass(frozen=True, slots=True)
class DetectLocal:
    """The mode and what it needs; `cluster_cidrs` empty: pods cannot be told apart and count as outside."""

    mode: DetectLocalMode = DetectLocalMode.CLUSTER_CIDR
    cluster_cidrs: tuple[str, ...] = ()
    bridge_interface: str = ""
    interface_name_prefix: str = ""


@dataclass(frozen=True, slots=True)
class LocalTraffic:
    """Packets of the node's pods: those from `source` (a CIDR), or those that come in by `in_interface`.

    An interface that ends in "+" stands for all whose names begin so, as in iptables(8).
    """

    source: str | None = None
    in_interface: str | None = None


def local_traffic(
    detect: DetectLocal, family: IPFamily, pod_cidrs: Iterable[str]
) -> tuple[LocalTraffic, ...]:
    """What to match; `pod_cidrs` are the node's own (`spec.podCIDRs`), which mode NodeCIDR goes by."""
    match detect.mode:
        case DetectLocalMode.CLUSTER_CIDR:
            return tuple(LocalTraffic(source=cidr) for cidr in cidrs_of(family, detect.cluster_cidrs))
        case DetectLocalMode.NODE_CIDR:
            return tuple(LocalTraffic(source=cidr) for cidr in cidrs_of(family, pod_cidrs))
        case DetectLocalMode.BRIDGE_INTERFACE:
            return (LocalTraffic(in_interface=detect.bridge_interface),)
        case DetectLocalMode.INTERFACE_NAME_PREFIX:
            return (LocalTraffic(in_interface=f"{detect.interface_name_prefix}+"),)
        case _:
            assert_never(detect.mode)


def nodeport_cidrs(
    stated: Sequence[str], family: IPFamily, node_addresses: Sequence[str]
) -> tuple[str, ...] | None:
    """The CIDRs in which NodePorts of a family are open; None: on every address of the node.

    `node_addresses` are of the family, the primary one first; where there is none, `primary` is nowhere. A
    list that has no CIDR of the family leaves that family open, as kube-proxy does.
    """
    if PRIMARY in stated:
        return cidrs_of(family, node_addresses[:1])
    return cidrs_of(family, stated) or None


def cidrs_of(family: IPFamily, texts: Iterable[str]) -> tuple[str, ...]:
    """Those of a family, each once, in canonical spelling; what is no CIDR is left out."""
    found: dict[str, None] = {}
    for text in texts:
        try:
            network = read_network(text)
        except ValueError:
            continue
        if family_of(network) is family:
            found[str(network)] = None
    return tuple(found)
