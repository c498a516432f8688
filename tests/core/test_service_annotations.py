from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from userspace_proxy.core.admission import UNLIMITED
from userspace_proxy.core.balancing import Balancing
from userspace_proxy.core.service_annotations import ServiceSettings, read_settings

DEFAULT = ServiceSettings(drain_removed_seconds=7)


def settings(annotations: dict[str, str]) -> tuple[ServiceSettings, list[str]]:
    complaints: list[str] = []
    read = read_settings(annotations, DEFAULT, lambda field, reason: complaints.append(f"{field}: {reason}"))
    return read, complaints


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("keep", None),
        ("reset", 0),
        ("drain=30s", 30),
        ("drain=1m30s", 90),
        ("drain=0s", 0),
        ("drain=24h", 86400),
    ],
)
def test_what_becomes_of_connections_to_removed_endpoints(text: str, seconds: float | None) -> None:
    read, complaints = settings({"userspace-proxy.io/removed-endpoints": text})
    assert read.drain_removed_seconds == seconds
    assert complaints == []


@pytest.mark.parametrize(
    "text", ["", "Keep", "drain", "drain=30", "drain=-1s", "drain=25h", "reset=1s", "keep "]
)
def test_what_cannot_be_used_is_named_with_what_can_and_the_default_holds(text: str) -> None:
    assert settings({"userspace-proxy.io/removed-endpoints": text}) == (
        DEFAULT,
        [
            f"metadata.annotations['userspace-proxy.io/removed-endpoints']: {text!r} is not keep, reset, "
            "or drain= and a duration of at most 24h such as drain=30s; the default is used"
        ],
    )


@pytest.mark.parametrize(
    "name",
    ["max_connections", "max_connections_per_client", "max_udp_flows", "max_udp_flows_per_client"],
)
@pytest.mark.parametrize(("text", "limit"), [("1", 1), ("999999999", 999999999), ("none", UNLIMITED)])
def test_limits(name: str, text: str, limit: int) -> None:
    expected: dict[str, Any] = {name: limit}
    read, complaints = settings({f"userspace-proxy.io/{name.replace('_', '-')}": text})
    assert (read, complaints) == (replace(DEFAULT, **expected), [])


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "007", "1e3", "1000000000", "None", " 1", "\u0661"])
def test_what_is_no_limit_is_named_and_the_default_holds(text: str) -> None:
    read, [complaint] = settings({"userspace-proxy.io/max-connections": text})
    assert read == DEFAULT
    assert complaint.endswith("is not a number from 1 to 999999999, or none; the default is used")


@pytest.mark.parametrize(("text", "workers"), [("1", 1), ("4", 4), ("256", 256)])
def test_workers(text: str, workers: int) -> None:
    assert settings({"userspace-proxy.io/workers": text}) == (replace(DEFAULT, workers=workers), [])


@pytest.mark.parametrize("text", ["", "0", "257", "all", "2.0"])
def test_what_is_no_number_of_workers_is_named_and_one_serves(text: str) -> None:
    read, [complaint] = settings({"userspace-proxy.io/workers": text})
    assert read == DEFAULT
    assert complaint.endswith("is not a number from 1 to 256; the default is used")


def test_a_misspelled_annotation_is_named() -> None:
    assert settings({"userspace-proxy.io/remove-endpoints": "reset"}) == (
        DEFAULT,
        [
            "metadata.annotations['userspace-proxy.io/remove-endpoints']: is no annotation of ours; "
            "these are removed-endpoints, max-connections, max-connections-per-client, max-udp-flows, "
            "max-udp-flows-per-client, balancing, proxy-protocol, workers"
        ],
    )


def test_annotations_of_others_are_theirs() -> None:
    assert settings({"example.com/removed-endpoints": "reset", "removed-endpoints": "x"}) == (DEFAULT, [])


def test_what_is_named_fits_into_a_line() -> None:
    _, [complaint] = settings({"userspace-proxy.io/" + "x" * 1000 + "\n": "y"})
    assert len(complaint) < 300
    assert complaint.isprintable()


@pytest.mark.parametrize("balancing", Balancing)
def test_balancing(balancing: Balancing) -> None:
    read = settings({"userspace-proxy.io/balancing": balancing.value})
    assert read == (replace(DEFAULT, balancing=balancing), [])


def test_an_unknown_balancing_is_named_and_the_default_holds() -> None:
    read, [complaint] = settings({"userspace-proxy.io/balancing": "maglev"})
    assert read == DEFAULT
    assert complaint.endswith(
        "is not one of round-robin, random, least-connections, source-hash; the default is used"
    )


@pytest.mark.parametrize(("text", "is_sent"), [("v2", True), ("none", False)])
def test_proxy_protocol(text: str, is_sent: bool) -> None:
    read = settings({"userspace-proxy.io/proxy-protocol": text})
    assert read == (replace(DEFAULT, sends_proxy_protocol=is_sent), [])


def test_an_unknown_version_of_the_proxy_protocol_is_named() -> None:
    read, [complaint] = settings({"userspace-proxy.io/proxy-protocol": "v1"})
    assert read == DEFAULT
    assert complaint.endswith("'v1' is not v2 or none; the default is used")
