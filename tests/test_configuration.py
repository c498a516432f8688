from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userspace_proxy.configuration import (
    Configuration,
    default_workers,
    parse_duration,
    read_configuration,
)
from userspace_proxy.core.port_claims import DEFAULT_PROXY_PORT_RANGE, PortRange
from userspace_proxy.errors import UsageError


def test_nothing_said_is_an_agent_in_a_cluster_with_a_worker_for_each_core() -> None:
    assert read_configuration(hostname_override="node-1") == Configuration(
        node_name="node-1",
        manifests=None,
        kubeconfig=None,
        bind_address=None,
        proxy_port_range=DEFAULT_PROXY_PORT_RANGE,
        udp_timeout_seconds=None,
        workers=len(os.sched_getaffinity(0)),
        iptables_backend="auto",
    )
    assert default_workers() >= 1


def test_everything_said_is_taken(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text("{}")
    assert read_configuration(
        kubeconfig=str(kubeconfig),
        hostname_override="node-1",
        bind_address="10.0.0.1",
        proxy_port_range="20000-20999",
        udp_timeout_seconds=0.25,
        workers=3,
        iptables_backend="nft",
    ) == Configuration(
        node_name="node-1",
        manifests=None,
        kubeconfig=kubeconfig,
        bind_address="10.0.0.1",
        proxy_port_range=PortRange(20000, 20999),
        udp_timeout_seconds=0.25,
        workers=3,
        iptables_backend="nft",
    )


def test_manifests_are_a_directory(tmp_path: Path) -> None:
    assert read_configuration(hostname_override="n", manifests=str(tmp_path)).manifests == tmp_path


@pytest.mark.parametrize(
    ("override", "name"), [("Node-1.Example", "node-1.example"), (" node-1\n", "node-1")]
)
def test_a_node_name_is_trimmed_and_lower_case(override: str, name: str) -> None:
    assert read_configuration(hostname_override=override).node_name == name


@pytest.mark.parametrize("override", [None, ""])
def test_the_hosts_name_is_the_nodes_unless_another_is_said(
    override: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Host-1")
    assert read_configuration(hostname_override=override).node_name == "host-1"


@pytest.mark.parametrize("everywhere", ["0.0.0.0", "::"])
def test_an_unspecified_bind_address_means_all(everywhere: str) -> None:
    assert read_configuration(hostname_override="n", bind_address=everywhere).bind_address is None


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        pytest.param("", DEFAULT_PROXY_PORT_RANGE, id="empty"),
        pytest.param("0-0", DEFAULT_PROXY_PORT_RANGE, id="as kubeadm writes the default"),
        pytest.param("0", DEFAULT_PROXY_PORT_RANGE, id="zero"),
        pytest.param("20000-20999", PortRange(20000, 20999), id="first-last"),
        pytest.param("20000+999", PortRange(20000, 20999), id="first+offset"),
        pytest.param("20000-20003", PortRange(20000, 20003), id="the fewest"),
        pytest.param("1-65535", PortRange(1, 65535), id="all ports"),
    ],
)
def test_port_ranges_are_written_as_for_kube_proxy(text: str, ports: PortRange) -> None:
    assert read_configuration(hostname_override="n", proxy_port_range=text).proxy_port_range == ports


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        pytest.param(
            {"hostname_override": "n", "proxy_port_range": "20000"},
            "--proxy-port-range: '20000' has fewer than 4 ports",
            id="one proxy port",
        ),
        pytest.param(
            {"hostname_override": "node_1"},
            "--hostname-override: 'node_1' is not a name that a node can have",
            id="node name",
        ),
        pytest.param(
            {"hostname_override": "  "},
            "--hostname-override: '' is not a name that a node can have",
            id="blank node name",
        ),
        pytest.param(
            {"manifests": "/nowhere"}, "--manifests: /nowhere is not a directory", id="no directory"
        ),
        pytest.param(
            {"kubeconfig": "/nowhere"},
            "--kubeconfig: /nowhere cannot be read: No such file or directory",
            id="no kubeconfig",
        ),
        pytest.param(
            {"kubeconfig": "/"},
            "--kubeconfig: / cannot be read: Is a directory",
            id="kubeconfig is a directory",
        ),
        pytest.param(
            {"bind_address": "localhost"}, "--bind-address: 'localhost' is not an IP address", id="no address"
        ),
        pytest.param(
            {"bind_address": "127.0.0.1"},
            "--bind-address: 127.0.0.1 is a loopback address, where no pod could reach the proxy",
            id="loopback",
        ),
        pytest.param(
            {"bind_address": "::1"},
            "--bind-address: ::1 is a loopback address, where no pod could reach the proxy",
            id="IPv6 loopback",
        ),
        pytest.param(
            {"bind_address": "fd00::1"}, "--bind-address: fd00::1 is not an IPv4 address", id="IPv6"
        ),
        pytest.param({"workers": 0}, "--workers: 0 is not within 1-256", id="no worker"),
        pytest.param({"workers": 257}, "--workers: 257 is not within 1-256", id="too many workers"),
        pytest.param(
            {"udp_timeout_seconds": 0.0}, "--udp-timeout: 0 s is not within 0-86400 s", id="no UDP timeout"
        ),
        pytest.param(
            {"udp_timeout_seconds": 86401.0},
            "--udp-timeout: 86401 s is not within 0-86400 s",
            id="UDP timeout of more than a day",
        ),
        pytest.param(
            {"udp_timeout_seconds": float("nan")},
            "--udp-timeout: nan s is not within 0-86400 s",
            id="UDP timeout that is no number",
        ),
        pytest.param(
            {"iptables_backend": "ipvs"},
            "--iptables-backend: 'ipvs' is none of auto, nft, legacy, python-iptables",
            id="backend",
        ),
    ],
)
def test_a_wrong_flag_is_named_with_its_value_and_the_reason(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        read_configuration(**{"hostname_override": "node-1", **flags})
    assert str(raised.value) == message
    assert raised.value.exit_code == 2


@pytest.mark.parametrize(
    "text", ["a", "1-", "-5", "1-2-3", "1+2+3", "+5", "5-4", "0-10", "1-65536", "65000+600"]
)
def test_a_range_that_is_none_is_named(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--proxy-port-range: ") as raised:
        read_configuration(hostname_override="n", proxy_port_range=text)
    assert repr(text) in str(raised.value)


def test_two_sources_are_one_too_many(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text("{}")
    with pytest.raises(UsageError, match="--manifests: cannot be used together with --kubeconfig"):
        read_configuration(hostname_override="n", manifests=str(tmp_path), kubeconfig=str(kubeconfig))


def test_every_wrong_flag_is_named_at_once() -> None:
    with pytest.raises(UsageError) as raised:
        read_configuration(hostname_override="n", bind_address="::1", proxy_port_range="x", workers=0)
    named = [part.partition(":")[0] for part in str(raised.value).split("; ")]
    assert named == ["--bind-address", "--proxy-port-range", "--workers"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("30s", 30.0), ("1m30s", 90.0), ("1.5h", 5400.0), ("1h2m3s4ms", 3723.004), ("0s", 0.0)],
)
def test_durations_are_written_as_in_go(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "30", "s", "-1s", "1 s", "1d", "1s ", "1s\n", "1..5s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration such as") as raised:
        parse_duration(text)
    assert repr(text) in str(raised.value)


@given(
    bind_address=st.text(max_size=12),
    proxy_port_range=st.text(alphabet="0123456789+-_ ٣x", max_size=12),
    workers=st.integers(),
    udp_timeout_seconds=st.floats(),
    iptables_backend=st.text(max_size=5),
)
def test_whatever_is_said_is_taken_or_refused_with_a_reason(**flags: Any) -> None:
    try:
        configuration = read_configuration(hostname_override="n", **flags)
    except UsageError as error:
        assert str(error).startswith("--")
    else:
        ports = configuration.proxy_port_range
        assert 1 <= ports.first <= ports.last <= 65535
