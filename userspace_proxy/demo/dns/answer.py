"""From a question to a reply, without anything in between but the records.

A name that is not in them does not exist, whichever zone it would be of: REFUSED would be as true, but a
resolver takes that for a broken server, asks again, and tells its user of a "temporary failure".
Sources: RFC 1035, 2308 (negative answers), 6604 (a chain's status is its last name's), 6891 (EDNS).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
from dns.message import Message
from dns.name import Name
from dns.rcode import Rcode
from dns.rdata import Rdata
from dns.rdatatype import RdataType

from userspace_proxy.demo.dns.records import TTL_SECONDS, Records

MAX_UDP_BYTES: Final = 1232
"""What no common path fragments."""
MIN_UDP_BYTES: Final = 512
MAX_TCP_BYTES: Final = 65535
_HEADER_BYTES: Final = 12
_IS_REPLY: Final = 0x80
_MAX_CHAIN: Final = 8
_TRANSFERS: Final = (RdataType.AXFR, RdataType.IXFR)


def reply_to(request: bytes, records: Records | None, *, over_tcp: bool) -> bytes | None:
    """What to send back for what came; None for what must not be answered.

    Without records, because they are not known yet, the server has failed. A reply that is too long for UDP
    says so (TC), and the resolver comes again over TCP.
    """
    try:
        query = dns.message.from_wire(request)
    except (dns.exception.DNSException, ValueError):
        return _malformed(request)
    if query.flags & dns.flags.QR:
        return None
    reply = answer(query, records)
    limit = MAX_TCP_BYTES if over_tcp else max(MIN_UDP_BYTES, min(query.payload, MAX_UDP_BYTES))
    # The records of a set are shuffled as they are written, so that clients spread over them.
    wire: bytes = reply.to_wire(max_size=limit, prefer_truncation=True)
    return wire


def answer(query: Message, records: Records | None) -> Message:
    """The reply to a query."""
    reply = dns.message.make_response(query, recursion_available=True, our_payload=MAX_UDP_BYTES)
    status = _why_not(query)
    if status is not None:
        reply.set_rcode(status)
    elif records is None:
        reply.set_rcode(Rcode.SERVFAIL)
    else:
        _look_up(reply, query.question[0].name, query.question[0].rdtype, records)
    return reply


def _why_not(query: Message) -> Rcode | None:
    if query.edns > 0:
        return Rcode.BADVERS
    if query.opcode() != dns.opcode.QUERY:
        return Rcode.NOTIMP
    if len(query.question) != 1:
        return Rcode.FORMERR
    question = query.question[0]
    if question.rdclass != dns.rdataclass.IN or question.rdtype in _TRANSFERS:
        return Rcode.REFUSED
    return None


def _look_up(reply: Message, name: Name, type_: RdataType, records: Records) -> None:
    reply.flags |= dns.flags.AA
    for _ in range(_MAX_CHAIN):
        sets = records.find(name)
        if sets is None:
            reply.set_rcode(Rcode.NXDOMAIN)
            break
        aliases = sets.get(RdataType.CNAME, ())
        if aliases and type_ not in (RdataType.CNAME, RdataType.ANY):
            reply.answer.append(_rrset(name, aliases))
            name = _target(aliases[0])
            continue
        found = [rdatas for each, rdatas in sets.items() if type_ in (each, RdataType.ANY)]
        reply.answer.extend(_rrset(name, rdatas) for rdatas in found)
        if found:
            _add_targets(reply, (rdata for rdatas in found for rdata in rdatas), records)
            return
        break
    # Nothing of the kind, and for how long that may be remembered.
    apex = records.zone if name.is_subdomain(records.zone) else dns.name.root
    reply.authority.append(_rrset(apex, [records.soa]))


def _add_targets(reply: Message, rdatas: Iterable[Rdata], records: Records) -> None:
    """The addresses of what an SRV record names, so that nobody has to ask for them."""
    targets = {_target(rdata) for rdata in rdatas if rdata.rdtype == RdataType.SRV}
    for target in sorted(targets):
        sets = records.find(target) or {}
        for type_ in (RdataType.A, RdataType.AAAA):
            if addresses := sets.get(type_):
                reply.additional.append(_rrset(target, addresses))


def _target(rdata: Rdata) -> Name:
    """The name that a CNAME or SRV record points at."""
    target: Name = getattr(rdata, "target")  # noqa: B009  each type of record is a class of its own
    return target


def _rrset(name: Name, rdatas: Iterable[Rdata]) -> dns.rrset.RRset:
    return dns.rrset.from_rdata_list(name, TTL_SECONDS, list(rdatas))


def _malformed(request: bytes) -> bytes | None:
    """Say so to who asked in a way that cannot be read, if it was a question at all."""
    if len(request) < _HEADER_BYTES or request[2] & _IS_REPLY:
        return None
    reply = Message(id=int.from_bytes(request[:2]))
    reply.flags |= dns.flags.QR
    reply.set_rcode(Rcode.FORMERR)
    wire: bytes = reply.to_wire()
    return wire
