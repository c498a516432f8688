"""Whatever an object holds: no exception, no rule that iptables would not read, and no harm to others."""

from __future__ import annotations

import ipaddress
import itertools
import json
import re
import shlex
from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.iptables.fake_tables import FakeTables
from tests.support import objects
from tests.support.cluster_objects import manifest_of
from tests.support.fuzzed_objects import VALID, Json, any_json, fuzzed_objects
from userspace_proxy.core.cluster_state import ClusterState
from userspace_proxy.core.decoding import convert, decode
from userspace_proxy.core.endpoint_selection import Outcome
from userspace_proxy.core.ip_addresses import why_not_dialled
from userspace_proxy.core.object_names import is_dns_subdomain
from userspace_proxy.core.objects import STRUCTS, ApiObject, Kind, Listed, Upserted, kind_of
from userspace_proxy.core.port_claims import PortRange
from userspace_proxy.core.proxy_plan import PlannedDestination, ProxyPlan
from userspace_proxy.core.service_port import IPFamily, ProxyPort
from userspace_proxy.iptables.iptables_restore import restore_input
from userspace_proxy.iptables.portal_rules import CaptureSettings, Destination, Portal, PortalRules, Refusal
from userspace_proxy.iptables.rule_changes import plan_changes
from userspace_proxy.sources.manifest_file import UnreadableManifestError, parse_manifest

GOOD: tuple[ApiObject, ...] = (
    objects.service("good", at=["10.96.9.9", "fd00::9:9"], ports=["http:80"], created="2020-01-01T00:00:00Z"),
    objects.endpoint_slice("good-1", of="good", ports=["http:8080"], endpoints=["10.244.9.9"]),
    objects.endpoint_slice(
        "good-2", of="good", ports=["http:8080"], endpoints=["fd00::9:1"], address_type="IPv6"
    ),
)
RANGE = PortRange(11000, 29999)
REFUSALS = {Outcome.SERVE: None, Outcome.REFUSE: Refusal.REJECT, Outcome.DROP: Refusal.DROP}
heavy = settings(max_examples=max(25, settings().max_examples // 4))
"""For what takes a tenth of a second."""
WORDS = {
    *("-A", "-I", "-D", "-s", "-d", "-i", "-p", "-m", "-j", "!", "--comment", "--dport", "--dst-type"),
    *("--ctstate", "--ctorigdst", "--to-ports", "--reject-with", "--to-destination", "tcp", "udp"),
    *("comment", "addrtype", "conntrack", "LOCAL"),
}
LIMITED = re.compile(r"[A-Z][A-Za-z0-9-]{0,27}|[a-z0-9:.,/\[\]-]{1,60}|[A-Z]+(,[A-Z]+)*|[0-9]+")


def state_of(items: Iterable[ApiObject]) -> tuple[ClusterState, ProxyPlan]:
    state, plan = ClusterState("node-1", RANGE), ProxyPlan(frozenset(IPFamily))
    state.apply(Listed(Kind.NODE, ()), str)
    for item in items:
        state.apply(Upserted(item), str)
    for kind in (Kind.SERVICE, Kind.ENDPOINT_SLICE):
        state._listed.add(kind)
    plan.update(state, sorted(state.take_dirty()))
    return state, plan


def portals_of(plan: ProxyPlan, family: IPFamily) -> list[Portal]:
    """As the proxier makes them, with a proxy port of its own for each listener."""
    ports: dict[object, ProxyPort] = {}

    def destination(planned: PlannedDestination) -> Destination:
        port = ports.setdefault(planned.listener, ProxyPort(RANGE.first + 2 + len(ports)))
        return Destination(port, REFUSALS[planned.outcome])

    return [
        Portal(frontend, str(it.owner), destination(it.outside), destination(it.inside), it.source_ranges)
        for frontend, it in plan.portals.items()
        if it.owner.family is family
    ]


def rules_text(plan: ProxyPlan, family: IPFamily) -> str:
    settings = CaptureSettings(family, RANGE, ProxyPort(11000), ProxyPort(11001))
    tables = FakeTables()
    changes = plan_changes(tables.read(), PortalRules().rule_set(portals_of(plan, family), settings))
    for change in changes:
        tables.commit(change)
    return "".join(map(restore_input, changes))


def check_rules(text: str, family: IPFamily) -> None:
    """Known words, addresses of the family, and nothing that ends a line or a quotation."""
    for line in text.splitlines():
        assert line.isascii() and line.isprintable()
        if line in ("*filter", "*nat", "COMMIT") or re.fullmatch(r":KUBE-[A-Z0-9-]{1,23} - \[0:0\]", line):
            continue
        words = shlex.split(line)
        assert words[0] in ("-A", "-I") and words.count("-j") == 1
        for before, word in itertools.pairwise(words):
            if before == "--comment":
                assert 0 < len(word) <= 255
            elif before in ("-s", "-d"):
                network = ipaddress.ip_network(word, strict=False)
                assert network.version == (4 if family is IPFamily.IPV4 else 6)
            else:
                assert word in WORDS or LIMITED.fullmatch(word), (word, line)


def decoded(item: Json) -> ApiObject | None:
    kind = item.get("kind") if isinstance(item, dict) else None
    if not isinstance(kind, str) or kind not in {each.value for each in Kind}:
        return None
    return decode(STRUCTS[Kind(kind)], json.dumps(item).encode(), "API server").object


def check_decoding(data: bytes, value: Json) -> None:
    for struct in STRUCTS.values():
        results = [decode(struct, data, "API server")]
        if value is not None:
            results.append(convert(struct, value, "file.yaml"))
        for result in results:
            assert result.object is not None or result.problems
            if result.object is not None:
                assert is_dns_subdomain(result.object.metadata.name)
            for problem in result.problems:
                assert len(str(problem)) < 1500


@given(fuzzed_objects())
def test_a_decoder_names_what_is_wrong_and_raises_nothing(item: Json) -> None:
    check_decoding(json.dumps(item).encode(), item)


@given(any_json())
def test_a_decoder_takes_any_json(item: Json) -> None:
    check_decoding(json.dumps(item).encode(), item)


@given(st.sampled_from(VALID).map(json.dumps).map(str.encode), st.data())
def test_a_decoder_takes_cut_and_garbled_bytes(text: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(text)))
    check_decoding(
        text[:at] + data.draw(st.binary(max_size=5)) + text[at + data.draw(st.integers(0, 9)) :], None
    )


@heavy
@given(st.lists(fuzzed_objects(), min_size=1, max_size=3))
def test_a_manifest_gives_what_is_good_in_it(items: list[Json]) -> None:
    document = {"kind": "List", "apiVersion": "v1", "items": [*items, *map(manifest_of, GOOD)]}
    for name in ("file.json", "file.yaml"):
        try:
            manifest = parse_manifest(name, json.dumps(document).encode())
        except UnreadableManifestError:
            assert name == "file.yaml"  # YAML knows fewer texts than JSON
        else:
            assert set(map(str, GOOD)) <= set(map(str, manifest.objects))


@heavy
@given(st.lists(fuzzed_objects(), min_size=1, max_size=5))
def test_from_objects_to_rules(items: list[Json]) -> None:
    bad = [item for each in items if (item := decoded(each)) is not None]
    _, alone = state_of(GOOD)
    _, plan = state_of((*bad, *GOOD))
    for family in IPFamily:
        check_rules(rules_text(plan, family), family)
    for name, planned in alone.service_ports.items():
        assert plan.service_ports[name].selections == planned.selections
        assert plan.service_ports[name].exposures == planned.exposures
    for frontend, portal in alone.portals.items():
        assert plan.portals[frontend] == portal
    for planned in plan.service_ports.values():
        for _, selection in planned.selections:
            for endpoint in selection.endpoints:
                assert why_not_dialled(ipaddress.ip_address(endpoint.address)) is None
                assert 1 <= endpoint.port <= 65535


@heavy
@given(st.lists(st.lists(fuzzed_objects(), min_size=1, max_size=3), min_size=2, max_size=4))
def test_whatever_came_before_the_plan_is_that_of_the_last_objects(rounds: list[list[Json]]) -> None:
    state, plan = state_of(())
    last: list[ApiObject] = []
    for items in rounds:
        last = [item for each in items if (item := decoded(each)) is not None]
        for kind in Kind:
            of_kind = tuple(item for item in last if kind_of(item) is kind)
            state.apply(Listed(kind, of_kind), str)
        plan.update(state, sorted(state.take_dirty()))
    by_id = {(kind_of(item), item.metadata.namespace, item.metadata.name): item for item in last}
    _, afresh = state_of(by_id.values())
    assert plan.service_ports == afresh.service_ports
    assert plan.portals == afresh.portals
