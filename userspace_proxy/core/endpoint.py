"""An endpoint as the proxy uses it, and how an EndpointSlice becomes some of them.

Source: the discovery.k8s.io/v1 EndpointSlice reference.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from sys import intern
from typing import Final

import msgspec

from userspace_proxy.core.decoding import describe
from userspace_proxy.core.event_reasons import INVALID_ENDPOINT
from userspace_proxy.core.ip_addresses import family_of, is_ordinary_ipv4, shown, why_not_dialled
from userspace_proxy.core.objects import EndpointPort, EndpointSlice, SliceEndpoint
from userspace_proxy.core.problem import Problem
from userspace_proxy.core.service_checks import Complaints, is_port
from userspace_proxy.core.service_port import IPFamily, Port, Protocol, ServiceName, host_port

SERVICE_NAME_LABEL: Final = "kubernetes.io/service-name"
_ENDPOINT: Final = re.compile(
    r"(?:\[(?P<bracketed>[^]]*)\]|(?P<host>[^:]*))(?::(?P<port>\d{1,5}))?", re.ASCII
)


class Endpoint(msgspec.Struct, frozen=True, order=True, gc=False):
    """Where a connection can go. `address` is an IP in its canonical spelling.

    There may be 100,000 of them: a struct costs a third of a dataclass, in memory and in the making.
    """

    address: str
    port: Port

    def __str__(self) -> str:
        return host_port(self.address, self.port)


def parse_endpoint(text: str) -> tuple[str, int | None]:
    """The address, in its canonical spelling, and the port of `192.0.2.1:80`, `[2001:db8::1]:80`, or of
    either without a port. Raises `ValueError`.
    """
    match = _ENDPOINT.fullmatch(text)
    host = text if match is None else match["bracketed"] or match["host"]
    try:
        address = str(ipaddress.ip_address(host))
    except ValueError:
        raise ValueError(
            f"{text!r} is no endpoint such as 192.0.2.1:80, [2001:db8::1]:80 or 192.0.2.1"
        ) from None
    return address, int(match["port"]) if match and match["port"] else None


class EndpointHost(msgspec.Struct, frozen=True, gc=False):
    """One entry of a slice: an address and what is known of it. Its ports are the slice's."""

    address: str
    ready: bool
    serving: bool
    terminating: bool
    node_name: str | None
    hint_nodes: frozenset[str]
    hint_zones: frozenset[str]


@dataclass(frozen=True, slots=True)
class SlicePort:
    name: str
    protocol: Protocol
    number: Port


@dataclass(frozen=True, slots=True)
class CheckedSlice:
    """An EndpointSlice of one Service, checked: every host with every port is an endpoint."""

    service: ServiceName
    family: IPFamily
    hosts: tuple[EndpointHost, ...]
    ports: tuple[SlicePort, ...]


def read_endpoint_slice(item: EndpointSlice, origin: str) -> tuple[CheckedSlice | None, tuple[Problem, ...]]:
    """The slice's usable part (None if it belongs to no Service or has names for addresses), and problems."""
    meta = item.metadata
    service = (meta.labels or {}).get(SERVICE_NAME_LABEL)
    if not service or item.address_type == "FQDN":
        return None, ()
    complaints = Complaints(origin, "EndpointSlice", meta.namespace, meta.name, INVALID_ENDPOINT)
    try:
        family = IPFamily(item.address_type)
    except ValueError:
        complaints.add("addressType", f"{describe(item.address_type)} is none of IPv4, IPv6 and FQDN")
        return None, tuple(complaints.problems)
    ports = [
        port
        for index, entry in enumerate(item.ports or [])
        if (port := _read_port(entry, f"ports[{index}]", complaints)) is not None
    ]
    hosts = [
        host
        for index, endpoint in enumerate(item.endpoints or [])
        if (host := _read_host(endpoint, f"endpoints[{index}]", family, complaints)) is not None
    ]
    checked = CheckedSlice(ServiceName(meta.namespace, service), family, tuple(hosts), tuple(ports))
    return checked, tuple(complaints.problems)


def _read_port(entry: EndpointPort, where: str, complaints: Complaints) -> SlicePort | None:
    if entry.port is None:
        return None  # "all ports", which a Service port cannot mean
    if not is_port(entry.port):
        complaints.add(f"{where}.port", f"{entry.port} is not a port (1-65535)")
        return None
    try:
        protocol = Protocol(entry.protocol or "TCP")
    except ValueError:
        return None  # named already where the Service has it
    return SlicePort(entry.name or "", protocol, Port(entry.port))


def _read_host(
    endpoint: SliceEndpoint, where: str, family: IPFamily, complaints: Complaints
) -> EndpointHost | None:
    if not endpoint.addresses:
        return None
    text = endpoint.addresses[0]  # all of one entry's addresses are the same host; the API promises the first
    if family is IPFamily.IPV4 and is_ordinary_ipv4(text):
        address = text
    else:
        read = _read_address(text, f"{where}.addresses[0]", family, complaints)
        if read is None:
            return None
        address = read
    conditions = endpoint.conditions
    ready = serving = True
    terminating = False
    if conditions is not None:
        ready = conditions.ready is not False
        serving = ready if conditions.serving is None else conditions.serving
        terminating = conditions.terminating is True
    hints = endpoint.hints
    return EndpointHost(
        address=address,
        ready=ready,
        serving=serving,
        terminating=terminating,
        node_name=intern(endpoint.node_name) if endpoint.node_name is not None else None,
        hint_nodes=frozenset(hint.name for hint in (hints.for_nodes if hints else None) or ()),
        hint_zones=frozenset(hint.name for hint in (hints.for_zones if hints else None) or ()),
    )


def _read_address(text: str, where: str, family: IPFamily, complaints: Complaints) -> str | None:
    """The canonical spelling; `text` itself, and no copy, where it has that already."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        complaints.add(where, f"{describe(text)} is not an IP address")
        return None
    if family_of(address) is not family:
        complaints.add(
            where, f"{shown(address)} is not an {family.value} address as the slice's addressType says"
        )
        return None
    if reason := why_not_dialled(address):
        complaints.add(where, f"{shown(address)} {reason}")
        return None
    canonical = str(address)
    return text if text == canonical else canonical
