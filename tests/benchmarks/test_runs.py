"""Who does which works."""

from __future__ import annotations

from typing import Any

from benchmarks.peer import Peer
from benchmarks.peers import PEERS, Nginx
from benchmarks.plots import _COLOURS
from benchmarks.runs import Progress, alternate
from benchmarks.targets import TARGETS
from benchmarks.works import Figures, Work


def measure(peer: Peer, seconds: int) -> Figures:
    return {"rate": float(seconds)}


def test_each_peer_does_the_works_that_it_is_for() -> None:
    nowhere: Any = None
    works = [Work("tcp", "", (), measure), Work("udp", "", (), measure, needs_udp=True)]
    peers = {name: peer(nowhere) for name, peer in PEERS.items()}
    samples, failures = alternate(peers, works, rounds=2, seconds=1, progress=Progress())
    done = {work.name: {name for name in PEERS if any(samples.of(work.name, "rate", name))} for work in works}
    assert PEERS.keys() - done["tcp"] == {"nginx-default"}
    assert PEERS.keys() - done["udp"] == {"haproxy", "asyncio"}
    assert not failures


def test_every_peer_has_a_colour_and_targets_name_no_others() -> None:
    assert _COLOURS.keys() == PEERS.keys()
    assert {name for target in TARGETS for name in target.peers} <= PEERS.keys()


def test_nginx_takes_part_as_one_would_configure_it_and_as_it_is() -> None:
    assert "proxy_responses 1;" in Nginx.dns_options
    assert "proxy_responses" not in PEERS["nginx-default"].dns_options  # type: ignore[attr-defined]
