"""How a node captures, by its configuration, its interfaces, and its Node object. Pure."""

from __future__ import annotations

from userspace_proxy.configuration.agent_configuration import Configuration
from userspace_proxy.core.cluster_state import NodeFacts
from userspace_proxy.core.local_traffic import local_traffic, nodeport_cidrs
from userspace_proxy.core.service_port import IPFamily, ProxyPort
from userspace_proxy.iptables.portal_rules import CaptureSettings
from userspace_proxy.netlink.node_network import NodeNetwork


def capture_settings(
    configuration: Configuration,
    family: IPFamily,
    network: NodeNetwork,
    facts: NodeFacts,
    *,
    refusing_port: ProxyPort,
    silent_port: ProxyPort,
    before: CaptureSettings | None,
) -> CaptureSettings:
    """The settings for one family; `before` are those that hold now, if any do."""
    stated = facts.addresses_of(family)
    addresses = stated or local_addresses(network)
    return CaptureSettings(
        family,
        configuration.proxy_port_range,
        refusing_port=refusing_port,
        silent_port=silent_port,
        bind_address=configuration.bind_address_of(family),
        node_address=_node_address(network, stated, before.node_address if before else None),
        local_traffic=local_traffic(configuration.detect_local, family, facts.pod_cidrs),
        nodeport_addresses=nodeport_cidrs(configuration.nodeport_addresses, family, addresses),
        node_ip=next(iter(addresses), None),
    )


def _node_address(network: NodeNetwork, stated: tuple[str, ...], before: str | None) -> str | None:
    """Where traffic goes that comes in by an interface without an address; None: there is no such interface.

    An address that the Node object states, if that is really here. Once it was so it stays so: interfaces of
    pods come and go, and rules should not.
    """
    if not network.unnumbered and before is None:
        return None
    local = local_addresses(network)
    here = [address for address in stated if address in local]
    if before in local and not here:
        return before
    return next(iter([*here, *local]), None)


def local_addresses(network: NodeNetwork) -> tuple[str, ...]:
    """The node's addresses that others can reach."""
    return tuple(
        entry.address
        for entry in network.addresses
        if entry.interface != "lo" and not entry.address.startswith("fe80:")
    )
