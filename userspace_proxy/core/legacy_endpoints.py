"""`v1 Endpoints`, the older form of EndpointSlice, which manifests may still hold.

Source: the core/v1 Endpoints reference. A subset is the product of its addresses and its ports.
"""

from __future__ import annotations

import msgspec

from userspace_proxy.core.endpoint import SERVICE_NAME_LABEL
from userspace_proxy.core.objects import (
    EndpointConditions,
    EndpointPort,
    EndpointSlice,
    ObjectMeta,
    SliceEndpoint,
)


class EndpointAddress(msgspec.Struct, frozen=True, rename="camel", gc=False):
    ip: str
    node_name: str | None = None


class EndpointSubset(msgspec.Struct, frozen=True, rename="camel", gc=False):
    addresses: list[EndpointAddress] | None = None
    not_ready_addresses: list[EndpointAddress] | None = None
    ports: list[EndpointPort] | None = None


class Endpoints(msgspec.Struct, frozen=True, gc=False):
    metadata: ObjectMeta
    subsets: list[EndpointSubset] | None = None


def endpoint_slices(endpoints: Endpoints) -> list[EndpointSlice]:
    """The slices that say the same: one for each subset and IP family.

    Addresses are not judged here: what holds a colon counts as IPv6. The slices' names (`web.endpoints.0`)
    cannot be those of slices that somebody wrote beside the Endpoints, as the control plane's mirror does.
    """
    slices: list[EndpointSlice] = []
    for subset in endpoints.subsets or ():
        every = [(address, True) for address in subset.addresses or ()]
        every += [(address, False) for address in subset.not_ready_addresses or ()]
        for address_type in ("IPv4", "IPv6"):
            of_family = [
                SliceEndpoint(
                    addresses=[address.ip],
                    conditions=EndpointConditions(ready=is_ready),
                    node_name=address.node_name,
                )
                for address, is_ready in every
                if (":" in address.ip) == (address_type == "IPv6")
            ]
            if of_family:
                metadata = msgspec.structs.replace(
                    endpoints.metadata,
                    name=f"{endpoints.metadata.name}.endpoints.{len(slices)}",
                    labels={**(endpoints.metadata.labels or {}), SERVICE_NAME_LABEL: endpoints.metadata.name},
                )
                slices.append(EndpointSlice(metadata, address_type, of_family, subset.ports))
    return slices
