"""Addresses and ports of Services: what one asks for, and what it is given.

Pure: what others have is an argument, and so is the chance that chooses among the free. As with Kubernetes,
the lower part of a range is left to those who ask for an address by number, while there is room above it.
Source: https://kubernetes.io/docs/concepts/services-networking/cluster-ip-allocation/
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, NoReturn, TypeAlias

from userspace_proxy.demo.api_server.objects import Object
from userspace_proxy.demo.api_server.statuses import Cause, is_duplicate, is_invalid, is_unsupported
from userspace_proxy.demo.api_server.validation import names
from userspace_proxy.demo.api_server.validation.services import (
    needs_cluster_ip,
    needs_health_check_node_port,
    needs_node_ports,
)

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

HEADLESS: Final = "None"


@dataclass(frozen=True, slots=True)
class Ranges:
    """What Services are given of: a network of each family, the default's first, and node ports."""

    networks: tuple[Network, ...]
    node_ports: range

    @classmethod
    def parse(cls, cidrs: Sequence[str], node_ports: range) -> Ranges:
        """From text. Raises ValueError for what is no network."""
        return cls(tuple(ipaddress.ip_network(cidr) for cidr in cidrs), node_ports)

    @property
    def families(self) -> tuple[str, ...]:
        """The families of the cluster: `IPv4`, `IPv6`."""
        return tuple(_family(network) for network in self.networks)

    def network(self, family: str) -> Network | None:
        """The network of a family."""
        return next((network for network in self.networks if _family(network) == family), None)


def _family(network: Network | ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    return f"IPv{network.version}"


def claims(service: Object) -> frozenset[str]:
    """What a Service has for itself: its addresses, and its node ports as digits."""
    spec = service.get("spec", {})
    ports = [port["nodePort"] for port in spec.get("ports", ()) if "nodePort" in port]
    if "healthCheckNodePort" in spec:
        ports.append(spec["healthCheckNodePort"])
    addresses = (address for address in spec.get("clusterIPs", ()) if address != HEADLESS)
    return frozenset((*addresses, *(str(port) for port in ports)))


class AllocationError(Exception):
    """A Service's wish that cannot be: `cause` says which and why."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(str(cause))
        self.cause = cause


def allocate(
    service: Object, before: Object | None, taken: Collection[str], ranges: Ranges, chance: random.Random
) -> None:
    """Give a Service the addresses and ports it needs; `taken` are the `claims` of all there are.

    Raises AllocationError for the first of its wishes that cannot be.
    """
    spec = service.get("spec", {})
    own = claims(before) if before is not None else frozenset()
    if needs_cluster_ip(spec):
        _agree_on_addresses(spec)
        _settle_families(spec, before.get("spec", {}) if before is not None else {}, ranges)
        if spec.get("clusterIP") != HEADLESS:
            _give_addresses(spec, own, taken, ranges, chance)
    _give_ports(spec, own, taken, ranges.node_ports, chance)


def _refuse(field: str, value: object, detail: str) -> NoReturn:
    raise AllocationError(is_invalid(field, value, detail))


def _agree_on_addresses(spec: Object) -> None:
    """clusterIP is the first of clusterIPs, whichever was written."""
    addresses = spec.get("clusterIPs", [])
    if first := spec.get("clusterIP"):
        addresses = addresses or [first]
        if addresses[0] != first:
            _refuse("spec.clusterIPs", addresses, "first value must match `clusterIP`")
    for index, address in enumerate(addresses):
        is_headless = address == HEADLESS and index == 0
        if not is_headless and (wrong := names.ip_address(address)):
            _refuse(f"spec.clusterIPs[{index}]", address, wrong)
    if len(addresses) > 2 or (HEADLESS in addresses and len(addresses) > 1):
        _refuse("spec.clusterIPs", addresses, "may only hold up to 2 values, or 'None' alone")
    if addresses:
        spec["clusterIP"], spec["clusterIPs"] = addresses[0], addresses


def _settle_families(spec: Object, old: Object, ranges: Ranges) -> None:
    """Which families it has, by what it asks for, by its addresses, or by the cluster's first."""
    families, addresses = list(spec.get("ipFamilies", ())), spec.get("clusterIPs", [])
    for index, parsed in enumerate(map(names.parsed_ip, addresses)):
        if parsed is None:
            continue
        if index >= len(families):
            families.append(_family(parsed))
        elif families[index] != _family(parsed):
            detail = f"expected an {families[index]} value as indicated by `ipFamilies[{index}]`"
            _refuse(f"spec.clusterIPs[{index}]", addresses[index], detail)
    _check_families(families, ranges)
    policy = spec.get("ipFamilyPolicy") or _usual_policy(spec, ranges)
    if policy == "SingleStack":
        if families == old.get("ipFamilies") and addresses == old.get("clusterIPs"):
            del families[1:], addresses[1:]  # it had two, and its owner wants one from now on
        _check_one(families, "ipFamilies")
        _check_one(addresses, "clusterIPs")
    if policy == "RequireDualStack" and len(ranges.families) < 2:
        detail = "this cluster is not configured for dual-stack services"
        _refuse("spec.ipFamilyPolicy", policy, detail)
    families = families or [ranges.families[0]]
    if policy != "SingleStack":
        families += [family for family in ranges.families if family not in families]
    spec["ipFamilyPolicy"], spec["ipFamilies"] = policy, families


def _check_families(families: list[str], ranges: Ranges) -> None:
    for index, family in enumerate(families):
        field = f"spec.ipFamilies[{index}]"
        if family not in ("IPv4", "IPv6"):
            raise AllocationError(is_unsupported(field, family, ("IPv4", "IPv6")))
        if family not in ranges.families:
            _refuse(field, family, "not configured on this cluster")
        if family in families[:index]:
            raise AllocationError(is_duplicate(field, family))


def _check_one(values: list[str], name: str) -> None:
    if len(values) > 1:
        detail = f"must be RequireDualStack or PreferDualStack when multiple {name} are specified"
        _refuse("spec.ipFamilyPolicy", "SingleStack", detail)


def _usual_policy(spec: Object, ranges: Ranges) -> str:
    """SingleStack, but for a headless Service without a selector, whose endpoints somebody else writes."""
    is_anybodys = spec.get("clusterIP") == HEADLESS and not spec.get("selector")
    return "RequireDualStack" if is_anybodys and len(ranges.families) > 1 else "SingleStack"


def _give_addresses(
    spec: Object, own: Collection[str], taken: Collection[str], ranges: Ranges, chance: random.Random
) -> None:
    addresses = spec.setdefault("clusterIPs", [])
    for index, family in enumerate(spec["ipFamilies"]):
        network = ranges.network(family)
        assert network is not None, "families were compared with those of the cluster"
        if index < len(addresses):
            addresses[index] = str(ipaddress.ip_address(addresses[index]))
            if addresses[index] not in own:
                _check_address(addresses, index, network, taken)
        else:
            addresses.append(_free_address(network, addresses, taken, chance))
    spec["clusterIP"] = addresses[0]


def _free_address(
    network: Network, addresses: list[str], taken: Collection[str], chance: random.Random
) -> str:
    free = _free(_hosts(network), lambda index: str(network[index]), taken, chance)
    if free is None:
        detail = f"failed to allocate a serviceIP: the range {network} is full"
        _refuse("spec.clusterIPs", addresses, detail)
    return free


def _check_address(addresses: list[str], index: int, network: Network, taken: Collection[str]) -> None:
    text = addresses[index]
    address = ipaddress.ip_address(text)
    if address not in network or int(address) - int(network.network_address) not in _hosts(network):
        detail = (
            f"failed to allocate IP {text}: the provided IP ({text}) is not in the valid range. "
            f"The range of valid IPs is {network}"
        )
        _refuse("spec.clusterIPs", addresses, detail)
    if text in taken:
        detail = f"failed to allocate IP {text}: provided IP is already allocated"
        _refuse("spec.clusterIPs", addresses, detail)


def _hosts(network: Network) -> range:
    """Which of a network's addresses a Service can have; the first, at 0, is the network's own."""
    return range(1, network.num_addresses - (1 if network.version == 4 else 0))


def _give_ports(
    spec: Object, own: Collection[str], taken: Collection[str], node_ports: range, chance: random.Random
) -> None:
    ports = spec.get("ports", []) if needs_node_ports(spec) or spec.get("type") == "LoadBalancer" else []
    asked = {str(port["nodePort"]) for port in ports if "nodePort" in port}
    for index, port in enumerate(ports):
        if "nodePort" in port:
            _check_port(f"spec.ports[{index}].nodePort", port["nodePort"], own, taken, node_ports)
    given: dict[int, int] = {}
    for index, port in enumerate(ports):
        number = port.get("port", 0)
        if "nodePort" not in port and needs_node_ports(spec):
            # TCP and UDP of one port are reached at one port of the node, where nobody asked for another.
            free = given.get(number) or _free_port(node_ports, {*taken, *asked}, chance)
            if free is None:
                _refuse(f"spec.ports[{index}].nodePort", 0, "failed to allocate a nodePort: range is full")
            port["nodePort"] = free
            asked.add(str(free))
        if "nodePort" in port:
            given.setdefault(number, port["nodePort"])
    if needs_health_check_node_port(spec):
        if port := spec.get("healthCheckNodePort"):
            _check_port("spec.healthCheckNodePort", port, own, taken, node_ports)
        else:
            free = _free_port(node_ports, {*taken, *asked}, chance)
            if free is None:
                _refuse("spec.healthCheckNodePort", 0, "failed to allocate requested HealthCheck NodePort")
            spec["healthCheckNodePort"] = free


def _check_port(
    field: str, port: int, own: Collection[str], taken: Collection[str], node_ports: range
) -> None:
    if str(port) in own:
        return
    if port not in node_ports:
        detail = (
            "provided port is not in the valid range. The range of valid ports is "
            f"{node_ports.start}-{node_ports.stop - 1}"
        )
        _refuse(field, port, detail)
    if str(port) in taken:
        _refuse(field, port, "provided port is already allocated")


def _free_port(node_ports: range, taken: Collection[str], chance: random.Random) -> int | None:
    free = _free(node_ports, str, taken, chance)
    return None if free is None else int(free)


def _free(
    numbers: range, spell: Callable[[int], str], taken: Collection[str], chance: random.Random
) -> str | None:
    """One of the numbers, as text, that nobody has: from above the reserved ones, or else from among them."""
    count = numbers.stop - numbers.start
    reserved = numbers.start + (min(max(16, count // 16), 256) if count > 16 else 0)
    for part in (range(reserved, numbers.stop), range(numbers.start, reserved)):
        if part:
            start = chance.randrange(part.start, part.stop)
            for number in chain(range(start, part.stop), range(part.start, start)):
                if (text := spell(number)) not in taken:
                    return text
    return None
