"""What becomes of a client's packet: which rules it meets, where it ends, who would be next."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address, ip_network
from typing import Final

from userspace_proxy.core.answers.endpoints import EndpointHealth, health_of
from userspace_proxy.core.answers.services import ServingWorker
from userspace_proxy.core.answers.shape import Parameters, Shape
from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.ip_addresses import family_of
from userspace_proxy.core.live_traffic import LiveServicePort
from userspace_proxy.core.local_traffic import LocalTraffic
from userspace_proxy.core.proxy_plan import PlannedPortal
from userspace_proxy.core.selection_reasons import Use
from userspace_proxy.core.service_port import (
    EVERY_LOCAL_ADDRESS,
    Frontend,
    IPFamily,
    Port,
    Protocol,
    TrafficPolicy,
)

OUTSIDE: Final = "outside"
NODE: Final = "node"

SOMEBODY_OUTSIDE: Final = {IPFamily.IPV4: "203.0.113.1", IPFamily.IPV6: "2001:db8::1"}
"""Who `outside` is: addresses that documentation uses, and so nobody has (RFC 5737, RFC 3849)."""


class TraceQuestion(Parameters, frozen=True):
    """`client` is an IP address, `outside` or `node`. `frontend` is `address:port`, of IPv6 `[address]:port`,
    for UDP with `/udp` behind it; or the name of a Service port (see `named_services`): its clusterIP.
    """

    client: str
    frontend: str


class StepAnswer(Shape, frozen=True):
    """A rule that the packet meets and that matches. `rule` is what follows `-A CHAIN`."""

    table: str
    chain: str
    rule: str
    reason: str


class CandidateAnswer(Shape, frozen=True):
    """An endpoint. `is_left_out`: for its `health` it gets nothing, on some worker, while others can be had.

    `is_next`: the client's connection goes there, or may, where chance decides.
    """

    endpoint: str
    is_used: bool
    reason: str
    is_left_out: bool = False
    is_next: bool = False
    health: EndpointHealth = EndpointHealth()


class Outcome(Enum):
    SERVED = "served"
    REFUSED = "refused"
    DROPPED = "dropped"
    PASSED_ON = "passed-on"
    """No rule captures it: it goes where it was sent to."""


class TraceAnswer(Shape, frozen=True):
    """`origin`, `conclusion` and `source_ranges` are for people. What follows `conclusion` is there if a
    Service port captures the packet. The client is `bound_to` endpoints by affinity: none, or one on each
    worker.
    """

    client: str
    origin: str
    is_inside: bool
    frontend: str
    steps: tuple[StepAnswer, ...]
    outcome: Outcome
    conclusion: str
    service_port: str | None = None
    traffic_policy: str | None = None
    source_ranges: str | None = None
    proxy_port: int | None = None
    workers: tuple[ServingWorker, ...] = ()
    balancing: str | None = None
    affinity_timeout_seconds: int | None = None
    bound_to: tuple[str, ...] = ()
    endpoints: tuple[CandidateAnswer, ...] = ()


def read_frontend(text: str) -> Frontend | None:
    """The frontend that `text` writes; None if it names a Service.

    Raises `ValueError`, with a sentence, if it is an address, and no port that can be captured goes with it.
    """
    place, _, protocol = text.partition("/")
    host, _, port = place.rpartition(":")
    address = _read_address(host)
    if address is None and _read_address(place) is None:
        return None
    try:
        number, transport = int(port), Protocol((protocol or "TCP").upper())
    except ValueError:
        address = None
    if address is None or not 1 <= number <= 65535:
        raise ValueError(f"{text} is no frontend: that is an address with a port, and /udp if it is not TCP")
    return Frontend(address, transport, Port(number))


def _read_address(text: str) -> str | None:
    """In its canonical spelling; None if it is none."""
    try:
        return str(ip_address(text.removeprefix("[").removesuffix("]")))
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class Origin:
    """Who sends: from which address, by which interface (None: the node itself), and what makes it so."""

    address: str
    came_in_by: str | None
    is_inside: bool
    sentence: str


def origin_of(
    client: str, came_in_by: str | None, local_traffic: Iterable[LocalTraffic], *, is_anybody: bool = False
) -> Origin:
    """Which class of traffic a client's is; `is_anybody`: its address stands for any outside."""
    who = f"somebody outside, such as {client}," if is_anybody else client
    if came_in_by is None:
        return Origin(client, None, True, f"{client} is this node itself, which counts as inside")
    coming = f"{who} comes in by {came_in_by}"
    for local in local_traffic:
        if local.in_interface is not None and _is_named(came_in_by, local.in_interface):
            return Origin(client, came_in_by, True, f"{coming}, as this node's pods do: inside")
        if local.source is not None and ip_address(client) in ip_network(local.source, strict=False):
            return Origin(client, came_in_by, True, f"{coming}, and is in the pods' {local.source}: inside")
    return Origin(client, came_in_by, False, f"{coming}, and is no pod of this cluster: outside")


def explain_source_ranges(ranges: Collection[str], client: str) -> str:
    """Whether the source ranges of a load balancer's address let the client in."""
    address = ip_address(client)
    for text in ranges:
        network = ip_network(text, strict=False)
        if network.version == address.version and address in network:
            return f"{client} is in {text}, and so let in"
    return f"{client} is in none of {', '.join(ranges) or 'none'}"


def explain_not_captured(
    frontend: Frontend, portals: Mapping[Frontend, PlannedPortal], own_addresses: Collection[str]
) -> str:
    """Why no rule captures what is sent there."""
    everywhere = EVERY_LOCAL_ADDRESS[family_of(ip_address(frontend.address))]
    node_port = portals.get(Frontend(everywhere, frontend.protocol, frontend.port))
    there = [
        f"{known.port}/{known.protocol.value} ({portal.owner})"
        for known, portal in portals.items()
        if known.address == frontend.address
    ]
    if frontend in portals:
        return f"No rule captures it yet: {frontend} is {portals[frontend].owner}'s; rules are to follow."
    if there:
        return f"No Service has that port: {frontend.address} has {', '.join(sorted(there))}."
    if frontend.address in own_addresses:
        port = f"{frontend.port}/{frontend.protocol.value}"
        if node_port is not None:
            return f"The NodePort {port} of {node_port.owner} is not open there: see --nodeport-addresses."
        return f"No Service has the NodePort {port}: the node itself gets it."
    return f"No Service has the address {frontend.address}: it is routed on, unless it is this node's."


def _is_named(interface: str, pattern: str) -> bool:
    """As iptables takes names: one that ends in "+" stands for all that begin so."""
    return interface.startswith(pattern[:-1]) if pattern.endswith("+") else interface == pattern


def candidate_answers(
    uses: Mapping[Endpoint, Use], live: LiveServicePort, policy: TrafficPolicy
) -> tuple[CandidateAnswer, ...]:
    """What becomes of each endpoint under a traffic policy; `live` is what the workers say."""
    traffic = live.classes.get(policy)
    left_out = traffic.left_out if traffic is not None else ()
    following = traffic.next if traffic is not None else ()
    return tuple(
        CandidateAnswer(
            endpoint=str(endpoint),
            is_used=use.is_used,
            reason=use.reason,
            is_left_out=endpoint in left_out,
            is_next=endpoint in following,
            health=health_of(endpoint, live),
        )
        for endpoint, use in uses.items()
    )


def conclude_served(name: str, policy: str, port: int, following: Sequence[Endpoint]) -> str:
    """What happens to a connection that a listener gets."""
    taken = f"{name} takes it at proxy port {port}, with the endpoints of traffic policy {policy}"
    match [str(each) for each in following]:
        case []:
            return f"{taken}; no worker says which of them would be next."
        case [one]:
            return f"{taken}; {one} is next."
        case several:
            return f"{taken}; one of {', '.join(several)} is next."
