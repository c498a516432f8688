"""Objects that were valid once: a few of their fields are removed, doubled, or any JSON at all."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import strategies as st

from tests.support import objects
from tests.support.cluster_objects import manifest_of

Json = Any

HOSTILE_TEXTS = (
    *("", " ", "\n", "a\nb", "\0", "\x1b[31m", "\u202e", "☃", "a" * 253, "a" * 3000, "-" * 30, "/etc"),
    *('"', "'; rm -rf /", "%n%s", "$(id)", "-j ACCEPT", '" -j ACCEPT', "web\nCOMMIT\n*filter", "None"),
    *("127.0.0.1", "::1", "169.254.169.254", "fd00:ec2::254", "::ffff:127.0.0.1", "0.0.0.0", "224.0.0.1"),
    *("010.0.0.1", "fe80::1%eth0", "fd00::1%\n-j ACCEPT", "10.0.0.0/8", "255.255.255.255", "10.96.0.10"),
    *("TCP", "UDP", "SCTP", "Local", "Cluster", "ClientIP", "LoadBalancer", "NodePort", "IPv6", "null"),
)
HOSTILE_NUMBERS = (
    *(-(2**63), -1, 0, 1, 53, 80, 11000, 30080, 65535, 65536, 2**31 - 1, 2**31, 2**64, 1e308, -0.5),
)

VALID: tuple[Json, ...] = tuple(
    manifest_of(item)
    for item in (
        objects.service(
            "fuzzed",
            at=["10.96.0.77", "fd00::77"],
            ports=["http:80@30077/TCP", "dns:53@30053/UDP"],
            type="LoadBalancer",
            affinity="ClientIP",
            affinity_timeout_seconds=60,
            internal_traffic_policy="Cluster",
            external_traffic_policy="Local",
            external_ips=["198.51.100.7", "2001:db8::7"],
            ingress=["203.0.113.7"],
            source_ranges=["192.0.2.0/24"],
            health_check_node_port=30999,
            created="2026-01-01T00:00:00Z",
            labels={"app": "fuzzed"},
        ),
        objects.endpoint_slice(
            "fuzzed-1",
            of="fuzzed",
            ports=["http:8080/TCP", "dns:5353/UDP"],
            endpoints=[
                objects.endpoint(
                    "10.244.7.1", ready=True, node="node-1", for_zones=["a"], for_nodes=["node-1"]
                ),
                objects.endpoint("10.244.7.2", ready=False, serving=True, terminating=True),
            ],
        ),
        objects.endpoint_slice(
            "fuzzed-2", of="fuzzed", ports=["http:8080"], endpoints=["fd00::7:1"], address_type="IPv6"
        ),
        objects.node("node-1", zone="a", internal_ips=["192.0.2.10"], pod_cidrs=["10.244.1.0/24"]),
    )
)


def any_json() -> st.SearchStrategy[Json]:
    scalars = st.one_of(
        st.none(),
        st.booleans(),
        st.sampled_from(HOSTILE_NUMBERS),
        st.sampled_from(HOSTILE_TEXTS),
        st.text(max_size=20),
    )
    return st.recursive(
        scalars,
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(HOSTILE_TEXTS), inner, max_size=3)
        ),
        max_leaves=6,
    )


@st.composite
def fuzzed_objects(draw: st.DrawFn) -> Json:
    """One of `VALID` with one to four changes, anywhere in it."""
    item = copy.deepcopy(draw(st.sampled_from(VALID)))
    for _ in range(draw(st.integers(1, 4))):
        places = list(_places(item))
        container, key = draw(st.sampled_from(places))
        match draw(st.sampled_from(("replace", "replace", "replace", "remove", "double", "wrap"))):
            case "replace":
                container[key] = draw(any_json())
            case "remove":
                del container[key]
            case "double" if isinstance(container, list):
                container.append(copy.deepcopy(container[key]))
            case "double":
                container[draw(st.sampled_from(HOSTILE_TEXTS))] = copy.deepcopy(container[key])
            case _:
                container[key] = [container[key]]
        if not item:
            break
    return item


def _places(value: Json) -> list[tuple[Any, Any]]:
    """Every place of a value inside a value: its container and the key or index there."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    found = [(value, key) for key in keys]
    for key in keys:
        found += _places(value[key])
    return found
