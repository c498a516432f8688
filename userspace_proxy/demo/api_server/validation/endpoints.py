"""What an EndpointSlice, or the older Endpoints, may say.

Source: https://kubernetes.io/docs/reference/kubernetes-api/service-resources/endpoint-slice-v1/
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from userspace_proxy.demo.api_server.objects import Object
from userspace_proxy.demo.api_server.statuses import (
    Cause,
    is_duplicate,
    is_invalid,
    is_required,
    is_unsupported,
)
from userspace_proxy.demo.api_server.validation import names
from userspace_proxy.demo.api_server.validation.services import PROTOCOLS

MOST_ENDPOINTS: Final = 1_000
MOST_ADDRESSES: Final = 100
MOST_PORTS: Final = 20_000


def slice_causes(item: Object) -> Iterator[Cause]:
    """What is wrong with an EndpointSlice."""
    kind = item.get("addressType", "")
    if not kind:
        yield is_required("addressType")
    elif kind not in _ADDRESS_RULES:
        yield is_unsupported("addressType", kind, tuple(_ADDRESS_RULES))
    endpoints = item.get("endpoints", [])
    if len(endpoints) > MOST_ENDPOINTS:
        yield _too_many("endpoints", len(endpoints), MOST_ENDPOINTS)
        return
    for index, endpoint in enumerate(endpoints):
        yield from _endpoint_causes(endpoint, f"endpoints[{index}]", kind)
    yield from _port_causes(item.get("ports", []), "ports", names_may_repeat=False)


def slice_change_causes(before: Object, after: Object) -> Iterator[Cause]:
    """What of an EndpointSlice may not change."""
    if before.get("addressType") != after.get("addressType"):
        yield is_invalid("addressType", after.get("addressType"), "field is immutable")


def _endpoint_causes(endpoint: Object, path: str, kind: str) -> Iterator[Cause]:
    addresses = endpoint.get("addresses", [])
    if not addresses:
        yield is_required(f"{path}.addresses", "must contain at least 1 address")
    elif len(addresses) > MOST_ADDRESSES:
        yield _too_many(f"{path}.addresses", len(addresses), MOST_ADDRESSES)
    elif rule := _ADDRESS_RULES.get(kind):
        for index, address in enumerate(addresses):
            if wrong := rule(address):
                yield is_invalid(f"{path}.addresses[{index}]", address, wrong)
    if "hostname" in endpoint and (wrong := names.dns_label(endpoint["hostname"])):
        yield is_invalid(f"{path}.hostname", endpoint["hostname"], wrong)
    if "nodeName" in endpoint and (wrong := names.dns_subdomain(endpoint["nodeName"])):
        yield is_invalid(f"{path}.nodeName", endpoint["nodeName"], wrong)


def _of_family(family: type, name: str) -> Callable[[str], str | None]:
    def check(address: str) -> str | None:
        if not isinstance(names.parsed_ip(address), family):
            return f"must be a valid {name} address"
        return names.reachable_ip(address)

    return check


_ADDRESS_RULES: Final[dict[str, Callable[[str], str | None]]] = {
    "IPv4": _of_family(IPv4Address, "IPv4"),
    "IPv6": _of_family(IPv6Address, "IPv6"),
    "FQDN": names.dns_subdomain,
}


def _port_causes(ports: list[Object], path: str, *, names_may_repeat: bool) -> Iterator[Cause]:
    if len(ports) > MOST_PORTS:
        yield _too_many(path, len(ports), MOST_PORTS)
        return
    seen: set[str] = set()
    for index, port in enumerate(ports):
        name = port.get("name", "")
        if name and (wrong := names.dns_label(name)):
            yield is_invalid(f"{path}[{index}].name", name, wrong)
        if name in seen and not names_may_repeat:
            yield is_duplicate(f"{path}[{index}].name", name)
        seen.add(name)
        if (protocol := port.get("protocol")) not in PROTOCOLS:
            yield is_unsupported(f"{path}[{index}].protocol", protocol, PROTOCOLS)
        if "port" in port and (wrong := names.port_number(port["port"])):
            yield is_invalid(f"{path}[{index}].port", port["port"], wrong)


def endpoints_causes(item: Object) -> Iterator[Cause]:
    """What is wrong with an Endpoints object."""
    for index, subset in enumerate(item.get("subsets", ())):
        path = f"subsets[{index}]"
        if not subset.get("addresses") and not subset.get("notReadyAddresses"):
            yield is_required(path, "must specify `addresses` or `notReadyAddresses`")
        for field in ("addresses", "notReadyAddresses"):
            for at, address in enumerate(subset.get(field, ())):
                if wrong := names.reachable_ip(address.get("ip", "")):
                    yield is_invalid(f"{path}.{field}[{at}].ip", address.get("ip", ""), wrong)
        ports = subset.get("ports", [])
        yield from _port_causes(ports, f"{path}.ports", names_may_repeat=False)
        for at, port in enumerate(ports):
            if not port.get("name") and len(ports) > 1:
                yield is_required(f"{path}.ports[{at}].name")


def _too_many(path: str, count: int, most: int) -> Cause:
    return Cause("FieldValueTooMany", path, f"Too many: {count}: must have at most {most} items")
