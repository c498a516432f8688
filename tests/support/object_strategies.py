"""Hypothesis strategies: API objects as decoding may hand them over, right in type and of any value."""

from __future__ import annotations

from typing import Any, TypeVar

from hypothesis import strategies as st

from userspace_proxy.core import objects
from userspace_proxy.core.endpoint import SERVICE_NAME_LABEL

_T = TypeVar("_T")

_NAMES = st.sampled_from(["web", "dns", "default", "", "Bad Name", "a\nb"])
_ADDRESSES = st.sampled_from(
    ["10.96.0.1", "10.244.1.2", "fd00::a", "FD00:0::A", "::ffff:10.0.0.1", "127.0.0.1", "fe80::1%eth0"]
) | st.sampled_from(["fd00::a%\n-j ACCEPT", "None", "", "10.96.0.300", "010.96.0.1"])
_NUMBERS = st.sampled_from([-(2**31), -1, 0, 1, 53, 80, 65535, 65536, 2**31 - 1])
_PROTOCOLS = st.sampled_from(["TCP", "UDP", "SCTP", "tcp", ""])
_POLICIES = st.sampled_from(["Cluster", "Local", ""])
_RANGES = st.sampled_from(["192.0.2.0/24", "10.0.0.1/8", "10.96.0.1", "2001:DB8::/32", " fd00::a/64 "]) | (
    st.sampled_from(["0.0.0.0/0", "10.0.0.0/33", "fd00::%\n-j ACCEPT/64", "", "none"])
)
_ANY_TEXT = st.text(max_size=8)
_ANNOTATIONS = (
    st.sampled_from(["removed-endpoints", "", "a\nb"]).map("userspace-proxy.io/".__add__) | _ANY_TEXT
)
_SETTINGS = st.sampled_from(["keep", "reset", "drain=30s", "drain=", "drain=25h", "drain=1s\n"])


def _maybe(values: st.SearchStrategy[_T]) -> st.SearchStrategy[_T | None]:
    return st.none() | values


def _maybe_some(values: st.SearchStrategy[_T]) -> st.SearchStrategy[list[_T] | None]:
    return st.none() | st.lists(values, max_size=4)


def _metadata(labels: dict[str, st.SearchStrategy[str]]) -> st.SearchStrategy[objects.ObjectMeta]:
    return st.builds(
        objects.ObjectMeta,
        name=_NAMES | _ANY_TEXT,
        namespace=_NAMES | _ANY_TEXT,
        creation_timestamp=_maybe(_ANY_TEXT),
        labels=_maybe(st.fixed_dictionaries({}, optional=labels)),
        annotations=_maybe(st.dictionaries(_ANNOTATIONS, _SETTINGS | _ANY_TEXT, max_size=2)),
    )


def services() -> st.SearchStrategy[objects.Service]:
    ports = st.builds(
        objects.ServicePortSpec,
        port=_NUMBERS,
        name=_maybe(_NAMES | _ANY_TEXT),
        protocol=_maybe(_PROTOCOLS | _ANY_TEXT),
        node_port=_maybe(_NUMBERS),
    )
    client_ip = st.builds(objects.ClientIPConfig, timeout_seconds=_maybe(_NUMBERS))
    spec: st.SearchStrategy[Any] = st.builds(
        objects.ServiceSpec,
        type=_maybe(st.sampled_from(["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"])),
        cluster_ip=_maybe(_ADDRESSES | _ANY_TEXT),
        cluster_ips=_maybe_some(_ADDRESSES | _ANY_TEXT),
        ports=_maybe_some(ports),
        session_affinity=_maybe(st.sampled_from(["None", "ClientIP", "Cookie"])),
        session_affinity_config=_maybe(st.builds(objects.SessionAffinityConfig, client_ip=_maybe(client_ip))),
        internal_traffic_policy=_maybe(_POLICIES | _ANY_TEXT),
        external_traffic_policy=_maybe(_POLICIES | _ANY_TEXT),
        external_ips=_maybe_some(_ADDRESSES | _ANY_TEXT),
        health_check_node_port=_maybe(_NUMBERS),
        load_balancer_source_ranges=_maybe_some(_RANGES | _ANY_TEXT) | _RANGES | st.integers(),
    )
    ingress = st.builds(
        objects.LoadBalancerIngress,
        ip=_maybe(_ADDRESSES | _ANY_TEXT),
        ip_mode=_maybe(st.sampled_from(["VIP", "Proxy", ""]) | _ANY_TEXT),
    )
    load_balancer = st.builds(objects.LoadBalancerStatus, ingress=_maybe_some(ingress))
    status = _maybe(st.builds(objects.ServiceStatus, load_balancer=_maybe(load_balancer)))
    labels = {"service.kubernetes.io/headless": _ANY_TEXT}
    return st.builds(objects.Service, metadata=_metadata(labels), spec=spec, status=status)


def endpoint_slices() -> st.SearchStrategy[objects.EndpointSlice]:
    conditions = st.builds(
        objects.EndpointConditions, *(_maybe(st.booleans()) for _ in ("ready", "serving", "terminating"))
    )
    hints = st.builds(
        objects.EndpointHints,
        for_nodes=_maybe_some(st.builds(objects.ForNode, name=_NAMES)),
        for_zones=_maybe_some(st.builds(objects.ForZone, name=_NAMES)),
    )
    endpoints = st.builds(
        objects.SliceEndpoint,
        addresses=st.lists(_ADDRESSES | _ANY_TEXT, max_size=2),
        conditions=_maybe(conditions),
        hints=_maybe(hints),
        node_name=_maybe(_NAMES),
    )
    ports = st.builds(
        objects.EndpointPort,
        name=_maybe(_NAMES),
        port=_maybe(_NUMBERS),
        protocol=_maybe(_PROTOCOLS),
    )
    return st.builds(
        objects.EndpointSlice,
        metadata=_metadata({SERVICE_NAME_LABEL: _NAMES}),
        address_type=st.sampled_from(["IPv4", "IPv6", "FQDN", ""]),
        endpoints=_maybe_some(endpoints),
        ports=_maybe_some(ports),
    )


def nodes() -> st.SearchStrategy[objects.Node]:
    addresses = st.builds(
        objects.NodeAddress, type=st.sampled_from(["InternalIP", "Hostname", ""]), address=_ADDRESSES
    )
    spec = st.builds(
        objects.NodeSpec, pod_cidr=_maybe(_RANGES | _ANY_TEXT), pod_cidrs=_maybe_some(_RANGES | _ANY_TEXT)
    )
    return st.builds(
        objects.Node,
        metadata=_metadata({"topology.kubernetes.io/zone": _NAMES}),
        spec=_maybe(spec),
        status=st.builds(objects.NodeStatus, addresses=_maybe_some(addresses)),
    )


def events() -> st.SearchStrategy[objects.Event]:
    """Any change of anything."""
    items: st.SearchStrategy[objects.ApiObject] = st.one_of(services(), endpoint_slices(), nodes())
    kinds = st.sampled_from(objects.Kind)
    by_kind = {
        objects.Kind.SERVICE: services(),
        objects.Kind.ENDPOINT_SLICE: endpoint_slices(),
        objects.Kind.NODE: nodes(),
    }
    listed = kinds.flatmap(
        lambda kind: st.builds(
            objects.Listed,
            kind=st.just(kind),
            objects=st.lists(by_kind[kind], max_size=3).map(tuple),
        )
    )
    deleted = st.builds(objects.Deleted, kind=kinds, namespace=_NAMES, name=_NAMES)
    return st.one_of(listed, st.builds(objects.Upserted, object=items), deleted)
