"""What each question is answered with, on paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.query
import dns.rcode
import pytest
from dns.message import Message
from dns.rcode import Rcode
from hypothesis import given
from hypothesis import strategies as st

from tests.demo.controllers.simulation import service, struct
from userspace_proxy.demo.controllers.objects import EndpointSlice
from userspace_proxy.demo.dns.answer import MAX_UDP_BYTES, answer, reply_to
from userspace_proxy.demo.dns.records import cluster_records

ZONE = "cluster.local"
HTTP = [{"name": "http", "port": 80, "targetPort": 8080}, {"port": 9, "protocol": "UDP"}]


def slice_of(name: str, *endpoints: Any, family: str = "IPv4", ports: Any = ()) -> EndpointSlice:
    item = {
        "metadata": {
            "name": f"{name}-{family}",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": family,
        "endpoints": list(endpoints),
        "ports": list(ports),
    }
    converted: EndpointSlice = struct(EndpointSlice, item)
    return converted


def endpoint(address: str, ready: bool | None = True, **fields: Any) -> Any:
    return {"addresses": [address], "conditions": {"ready": ready}, **fields}


RECORDS = cluster_records(
    [
        service("web", clusterIP="10.96.0.10", clusterIPs=["10.96.0.10", "fd00:96::a"], ports=HTTP),
        service("old", clusterIP="10.96.0.11", ports=HTTP),
        service("pending", type="LoadBalancer", ports=HTTP),
        service("db", clusterIP="None", ports=[{"name": "sql", "port": 5432}]),
        service("nobody", clusterIP="None"),
        service("shop", type="ExternalName", externalName="shop.example.com"),
        service("alias", type="ExternalName", externalName="web.default.svc.cluster.local"),
        service("loop", type="ExternalName", externalName="loop.default.svc.cluster.local"),
        service("lost", type="ExternalName", externalName="nowhere.example"),
        service("bad", type="ExternalName", externalName="a..b"),
        service("none", type="ExternalName", externalName="."),
        service("many", clusterIP="None"),
    ],
    [
        slice_of(
            "db",
            endpoint("10.244.0.1", hostname="db-0"),
            endpoint("10.244.0.2", None),
            endpoint("10.244.0.3", False),
            ports=[{"name": "sql", "port": 5432}],
        ),
        slice_of("db", endpoint("fd00:244::1", hostname="db-0"), family="IPv6"),
        slice_of("nobody", endpoint("10.244.0.9", False)),
        slice_of("many", *(endpoint(f"10.245.{n // 200}.{n % 200 + 1}") for n in range(300))),
        slice_of("stranger", endpoint("10.244.9.9")),
    ],
    zone=ZONE,
    serial=7,
    names={"shop.example.com": ["192.0.2.1", "2001:db8::1"], "broken.example.com": ["no address"]},
)


def ask(name: str, type_: str = "A", **options: Any) -> Message:
    return answer(dns.message.make_query(name, type_, **options), RECORDS)


def texts(reply: Message, section: str = "answer") -> list[str]:
    """Name, type and value of a section's records, sorted."""
    sets: Sequence[Any] = getattr(reply, section)
    return sorted(
        f"{rrset.name} {dns.rdatatype.to_text(rrset.rdtype)} {rdata}" for rrset in sets for rdata in rrset
    )


WEB, DB = "web.default.svc.cluster.local.", "db.default.svc.cluster.local."


@pytest.mark.parametrize(
    ("name", "type_", "expected"),
    [
        (WEB, "A", [f"{WEB} A 10.96.0.10"]),
        (WEB, "AAAA", [f"{WEB} AAAA fd00:96::a"]),
        (WEB, "ANY", [f"{WEB} A 10.96.0.10", f"{WEB} AAAA fd00:96::a"]),
        (f"_http._tcp.{WEB}", "SRV", [f"_http._tcp.{WEB} SRV 0 100 80 {WEB}"]),
        ("10.0.96.10.in-addr.arpa.", "PTR", [f"10.0.96.10.in-addr.arpa. PTR {WEB}"]),
        ("10.0.96.10.IN-ADDR.ARPA.", "PTR", [f"10.0.96.10.IN-ADDR.ARPA. PTR {WEB}"]),
        ("11.0.96.10.in-addr.arpa.", "PTR", ["11.0.96.10.in-addr.arpa. PTR old.default.svc.cluster.local."]),
        (DB, "A", [f"{DB} A 10.244.0.1", f"{DB} A 10.244.0.2"]),
        (DB, "AAAA", [f"{DB} AAAA fd00:244::1"]),
        (f"db-0.{DB}", "A", [f"db-0.{DB} A 10.244.0.1"]),
        (f"db-0.{DB}", "AAAA", [f"db-0.{DB} AAAA fd00:244::1"]),
        (f"10-244-0-2.{DB}", "A", [f"10-244-0-2.{DB} A 10.244.0.2"]),
        (
            f"_sql._tcp.{DB}",
            "SRV",
            [f"_sql._tcp.{DB} SRV 0 100 5432 10-244-0-2.{DB}", f"_sql._tcp.{DB} SRV 0 100 5432 db-0.{DB}"],
        ),
        ("1.0.244.10.in-addr.arpa.", "PTR", [f"1.0.244.10.in-addr.arpa. PTR db-0.{DB}"]),
        ("dns-version.cluster.local", "TXT", ['dns-version.cluster.local. TXT "1.1.0"']),
        (
            "cluster.local",
            "SOA",
            ["cluster.local. SOA ns.dns.cluster.local. hostmaster.cluster.local. 7 7200 1800 86400 5"],
        ),
        ("10-1-2-3.anything.pod.cluster.local.", "A", ["10-1-2-3.anything.pod.cluster.local. A 10.1.2.3"]),
        ("fd00--7.anything.pod.cluster.local.", "AAAA", ["fd00--7.anything.pod.cluster.local. AAAA fd00::7"]),
        ("shop.example.com.", "A", ["shop.example.com. A 192.0.2.1"]),
    ],
)
def test_what_there_is(name: str, type_: str, expected: list[str]) -> None:
    reply = ask(name, type_)
    assert reply.rcode() == Rcode.NOERROR
    assert texts(reply) == expected
    assert reply.flags & dns.flags.AA
    assert reply.flags & dns.flags.QR
    assert not reply.authority


@pytest.mark.parametrize(
    ("name", "type_", "rcode"),
    [
        ("old.default.svc.cluster.local", "AAAA", Rcode.NOERROR),
        ("default.svc.cluster.local", "A", Rcode.NOERROR),
        ("svc.cluster.local", "A", Rcode.NOERROR),
        ("_tcp.web.default.svc.cluster.local", "SRV", Rcode.NOERROR),
        ("10-1-2-3.anything.pod.cluster.local", "AAAA", Rcode.NOERROR),
        ("anything.pod.cluster.local", "A", Rcode.NOERROR),
        ("pod.cluster.local", "A", Rcode.NOERROR),
        ("pending.default.svc.cluster.local", "A", Rcode.NXDOMAIN),
        ("bad.default.svc.cluster.local", "A", Rcode.NXDOMAIN),
        ("none.default.svc.cluster.local", "A", Rcode.NXDOMAIN),
        ("nobody.default.svc.cluster.local", "A", Rcode.NXDOMAIN),
        ("10-244-0-3.db.default.svc.cluster.local", "A", Rcode.NXDOMAIN),
        ("stranger.default.svc.cluster.local", "A", Rcode.NXDOMAIN),
        ("_udp.web.default.svc.cluster.local", "SRV", Rcode.NXDOMAIN),
        # What a resolver makes of a name by its search path.
        ("web.default.svc.cluster.local.svc.cluster.local", "A", Rcode.NXDOMAIN),
        ("no-ip.anything.pod.cluster.local", "A", Rcode.NXDOMAIN),
        ("fe80--1%1.anything.pod.cluster.local", "AAAA", Rcode.NXDOMAIN),
        ("a.10-1-2-3.anything.pod.cluster.local", "A", Rcode.NXDOMAIN),
    ],
)
def test_what_there_is_not(name: str, type_: str, rcode: Rcode) -> None:
    reply = ask(name, type_)
    assert (reply.rcode(), reply.answer) == (rcode, [])
    (soa,) = reply.authority
    assert (str(soa.name), soa.ttl, soa[0].minimum) == ("cluster.local.", 5, 5)


def test_nothing_exists_outside() -> None:
    reply = ask("www.example.com")
    assert reply.rcode() == Rcode.NXDOMAIN
    assert str(reply.authority[0].name) == "."


@pytest.mark.parametrize(
    ("name", "rcode", "expected"),
    [
        ("shop", Rcode.NOERROR, ["shop CNAME shop.example.com.", "shop.example.com. A 192.0.2.1"]),
        ("alias", Rcode.NOERROR, [f"alias CNAME {WEB}", f"{WEB} A 10.96.0.10"]),
        ("lost", Rcode.NXDOMAIN, ["lost CNAME nowhere.example."]),
    ],
)
def test_an_external_name_is_followed(name: str, rcode: Rcode, expected: list[str]) -> None:
    reply = ask(f"{name}.default.svc.cluster.local")
    said = [text.replace(f"{name}.default.svc.cluster.local. ", f"{name} ") for text in texts(reply)]
    assert (reply.rcode(), said) == (rcode, expected)


def test_an_external_name_is_not_followed_for_ever() -> None:
    assert len(ask("loop.default.svc.cluster.local").answer) == 8


def test_an_external_name_itself_can_be_asked_for() -> None:
    reply = ask("shop.default.svc.cluster.local", "CNAME")
    assert texts(reply) == ["shop.default.svc.cluster.local. CNAME shop.example.com."]


def test_addresses_of_locations_come_along() -> None:
    assert texts(ask(f"_sql._tcp.{DB}", "SRV"), "additional") == [
        f"10-244-0-2.{DB} A 10.244.0.2",
        f"db-0.{DB} A 10.244.0.1",
        f"db-0.{DB} AAAA fd00:244::1",
    ]


def test_letters_are_the_same_in_either_case_and_come_back_as_they_were() -> None:
    assert texts(ask("wEb.Default.SVC.cluster.LOCAL.")) == ["wEb.Default.SVC.cluster.LOCAL. A 10.96.0.10"]


def refused(query: Message) -> Rcode:
    wire = reply_to(query.to_wire(), RECORDS, over_tcp=False)
    assert wire is not None
    reply = dns.message.from_wire(wire)
    assert reply.id == query.id
    assert not reply.answer
    return reply.rcode()


def test_what_is_not_done_is_said() -> None:
    notify = dns.message.make_query("cluster.local", "SOA")
    notify.set_opcode(dns.opcode.NOTIFY)
    two = dns.message.make_query(WEB, "A")
    two.question.append(two.question[0])
    assert refused(notify) == Rcode.NOTIMP
    assert refused(two) == Rcode.FORMERR
    assert refused(dns.message.make_query(WEB, "A", "CH")) == Rcode.REFUSED
    assert refused(dns.message.make_query("cluster.local", "AXFR")) == Rcode.REFUSED
    assert refused(dns.message.make_query(WEB, "A", use_edns=1)) == Rcode.BADVERS


def test_before_anything_is_known_the_server_has_failed() -> None:
    assert answer(dns.message.make_query(WEB, "A"), None).rcode() == Rcode.SERVFAIL


@pytest.mark.parametrize(
    ("edns", "over_tcp", "most", "is_whole"),
    [
        ({"use_edns": False}, False, 512, False),
        ({"use_edns": 0, "payload": 100}, False, 512, False),
        ({"use_edns": 0, "payload": 1000}, False, 1000, False),
        ({"use_edns": 0, "payload": 65000}, False, MAX_UDP_BYTES, False),
        ({"use_edns": False}, True, 65535, True),
    ],
)
def test_what_is_too_long_for_udp_says_so(edns: Any, over_tcp: bool, most: int, is_whole: bool) -> None:
    query = dns.message.make_query("many.default.svc.cluster.local", "A", **edns)
    wire = reply_to(query.to_wire(), RECORDS, over_tcp=over_tcp)
    assert wire is not None
    assert len(wire) <= most
    reply = dns.message.from_wire(wire)
    assert bool(reply.flags & dns.flags.TC) is not is_whole
    assert (len(reply.answer) == 1 and len(reply.answer[0]) == 300) is is_whole
    assert reply.edns == (0 if edns["use_edns"] == 0 and edns["use_edns"] is not False else -1)


def test_replies_and_scraps_are_not_answered() -> None:
    reply = dns.message.make_response(dns.message.make_query(WEB, "A")).to_wire()
    for unanswered in (b"", reply[:11], reply, reply[:14]):
        assert reply_to(unanswered, RECORDS, over_tcp=False) is None


@given(st.binary(max_size=100))
def test_whatever_comes_is_answered_or_not(request: bytes) -> None:
    reply = reply_to(request, RECORDS, over_tcp=False)
    if reply is not None:
        assert reply[:2] == request[:2]


LABELS = st.one_of(
    st.binary(min_size=1, max_size=20), st.sampled_from([b"pod", b"svc", b"fe80--1%1", b"::1"])
)


@given(
    st.lists(LABELS, max_size=5), st.booleans(), st.sampled_from(["A", "AAAA", "SRV", "PTR", "ANY", "OPT"])
)
def test_whatever_name_is_asked_for(labels: list[bytes], is_ours: bool, type_: str) -> None:
    zone = (b"cluster", b"local", b"") if is_ours else (b"",)
    wire = dns.message.make_query(dns.name.Name((*labels, *zone)), type_).to_wire()
    reply = reply_to(wire, RECORDS, over_tcp=False)
    assert reply is not None
    assert dns.message.from_wire(reply).rcode() in (Rcode.NOERROR, Rcode.NXDOMAIN)


@given(st.binary(max_size=40), st.integers(0, 45))
def test_whatever_is_amiss_in_a_question_is_survived(scrap: bytes, at: int) -> None:
    query = dns.message.make_query(WEB, "A", use_edns=0).to_wire()
    spoilt = bytearray(query[:at] + scrap + query[at + len(scrap) :])
    spoilt[2:3] = bytes([spoilt[2] & 0x7F]) if len(spoilt) > 2 else b""
    reply = reply_to(bytes(spoilt), RECORDS, over_tcp=False)
    assert (reply is None) == (len(spoilt) < 12)
