"""All names of the cluster, and what they stand for.

Source: "Kubernetes DNS-Based Service Discovery", version 1.1.0.
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.reversename
from dns.name import Name
from dns.rdata import Rdata
from dns.rdatatype import RdataType

from userspace_proxy.demo.controllers.endpoint_slices import SERVICE_NAME
from userspace_proxy.demo.controllers.objects import Endpoint, EndpointSlice, Service

SCHEMA_VERSION: Final = "1.1.0"
TTL_SECONDS: Final = 5
"""Of every record, and of the news that there is none: pods come and go."""

RecordSets: TypeAlias = Mapping[RdataType, Sequence[Rdata]]
"""What one name stands for, by type."""


@dataclass(frozen=True, slots=True)
class Records:
    """`sets` has every name that exists, also those that only others stand under: with nothing then."""

    zone: Name
    soa: Rdata
    sets: Mapping[Name, RecordSets]

    def find(self, name: Name) -> RecordSets | None:
        """What a name stands for; None if it does not exist. Letters are the same in either case."""
        found = self.sets.get(name)
        return found if found is not None else _pod_sets(name, self.zone)


def cluster_records(
    services: Iterable[Service],
    slices: Iterable[EndpointSlice],
    *,
    zone: str,
    serial: int,
    names: Mapping[str, Sequence[str]] | None = None,
) -> Records:
    """The records of a cluster whose domain is `zone`.

    `names` are other names of this world with their addresses, outside of the zone as a rule. `serial` grows
    whenever something changes. What cannot be a name or an address is left out.
    """
    building = _Building(dns.name.from_text(zone))
    building.add(f"dns-version.{zone}", "TXT", f'"{SCHEMA_VERSION}"')
    soa = f"ns.dns.{zone}. hostmaster.{zone}. {serial} 7200 1800 86400 {TTL_SECONDS}"
    building.add(zone, "SOA", soa)
    of_service: dict[tuple[str, str], list[EndpointSlice]] = defaultdict(list)
    for slice_ in slices:
        service_name = (slice_.metadata.labels or {}).get(SERVICE_NAME, "")
        of_service[slice_.metadata.namespace, service_name].append(slice_)
    for service in services:
        name = f"{service.metadata.name}.{service.metadata.namespace}.svc.{zone}"
        if service.spec.type == "ExternalName":
            if target := (service.spec.external_name or "").rstrip("."):
                building.add(name, "CNAME", f"{target}.")
        elif service.is_headless:
            key = service.metadata.namespace, service.metadata.name
            for slice_ in of_service[key]:
                _add_endpoints(building, name, slice_)
        else:
            _add_service(building, name, service)
    for other, addresses in (names or {}).items():
        for address in addresses:
            building.add_address(other, address)
    return Records(building.zone, building.sets[building.zone][RdataType.SOA][0], building.sets)


@dataclass(slots=True)
class _Building:
    zone: Name
    sets: dict[Name, dict[RdataType, list[Rdata]]] = field(default_factory=dict)

    def add(self, name: str, type_: str, value: str) -> None:
        """Add a record, and the names above it up to the zone's."""
        try:
            owner = dns.name.from_text(name)
            rdata = dns.rdata.from_text(dns.rdataclass.IN, type_, value)
        except (dns.exception.DNSException, ValueError):
            return
        known = self.sets.setdefault(owner, {}).setdefault(rdata.rdtype, [])
        if rdata not in known:
            known.append(rdata)
        while owner != self.zone and owner.is_subdomain(self.zone):
            owner = owner.parent()
            self.sets.setdefault(owner, {})

    def add_address(self, name: str, address: str) -> None:
        """A or AAAA, as the address is."""
        self.add(name, "AAAA" if ":" in address else "A", address)

    def add_pointer(self, address: str, name: str) -> None:
        """From an address back to a name."""
        try:
            reverse = dns.reversename.from_address(address)
        except (dns.exception.DNSException, ValueError):
            return
        self.add(str(reverse), "PTR", f"{name}.")

    def add_service_location(self, port_name: str, protocol: str, name: str, port: int, target: str) -> None:
        """Where a named port is served."""
        self.add(f"_{port_name}._{protocol.lower()}.{name}", "SRV", f"0 100 {port} {target}.")


def _add_service(building: _Building, name: str, service: Service) -> None:
    """A Service with addresses of its own. One that has none yet has no name either."""
    addresses = service.spec.cluster_ips or [service.spec.cluster_ip or ""]
    for address in filter(None, addresses):
        building.add_address(name, address)
        building.add_pointer(address, name)
        for port in service.spec.ports or ():
            if port.name:
                building.add_service_location(port.name, port.protocol or "TCP", name, port.port, name)


def _add_endpoints(building: _Building, name: str, slice_: EndpointSlice) -> None:
    """The ready endpoints of a headless Service, all together and each by its own name."""
    for endpoint in slice_.endpoints or ():
        if endpoint.conditions is not None and endpoint.conditions.ready is False:
            continue
        for address in endpoint.addresses[:1]:
            own_name = f"{endpoint_label(endpoint)}.{name}"
            building.add_address(name, address)
            building.add_address(own_name, address)
            building.add_pointer(address, own_name)
            for port in slice_.ports or ():
                if port.name and port.port is not None:
                    building.add_service_location(port.name, port.protocol, name, port.port, own_name)


def endpoint_label(endpoint: Endpoint) -> str:
    """What an endpoint is called under its Service: its host name, or its address with dashes."""
    return endpoint.hostname or endpoint.addresses[0].replace(".", "-").replace(":", "-")


def _pod_sets(name: Name, zone: Name) -> RecordSets | None:
    """`10-244-0-7.default.pod.cluster.local`: an address that spells itself, whether or not it is a pod's.

    The specification calls these deprecated, and requires them all the same.
    """
    if not name.is_subdomain(zone):
        return None
    labels = [label.decode("latin-1").lower() for label in name.relativize(zone).labels]
    if not labels or labels[-1] != "pod" or len(labels) > 3:
        return None
    if len(labels) < 3:
        return {}
    for text, type_ in ((labels[0].replace("-", "."), "A"), (labels[0].replace("-", ":"), "AAAA")):
        try:
            ipaddress.ip_address(text)
            rdata = dns.rdata.from_text(dns.rdataclass.IN, type_, text)
        except (ValueError, dns.exception.DNSException):
            continue
        return {rdata.rdtype: [rdata]}
    return None
