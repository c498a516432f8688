from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userspace_proxy.configuration.agent_configuration import Configuration, ConntrackSettings
from userspace_proxy.configuration.loading import default_workers, load_configuration
from userspace_proxy.core.admission import UNLIMITED
from userspace_proxy.core.local_traffic import DetectLocal, DetectLocalMode
from userspace_proxy.core.port_claims import DEFAULT_PROXY_PORT_RANGE, PortRange
from userspace_proxy.core.service_annotations import ServiceSettings
from userspace_proxy.core.service_port import IPFamily
from userspace_proxy.errors import UsageError


def read_configuration(**texts: str) -> Configuration:
    return load_configuration(texts, environment={}).configuration


def test_nothing_said_is_an_agent_in_a_cluster_with_a_worker_for_each_core() -> None:
    assert read_configuration(hostname_override="node-1") == Configuration(
        node_name="node-1",
        manifests=None,
        kubeconfig=None,
        bind_address=None,
        nodeport_addresses=(),
        detect_local=DetectLocal(),
        proxy_port_range=DEFAULT_PROXY_PORT_RANGE,
        udp_timeout_seconds=None,
        tcp_tw_reuse=True,
        workers=len(os.sched_getaffinity(0)),
        iptables_backend="auto",
        state_directory=Path("/run/userspace-proxy"),
        orphan_seconds=60,
        drain_seconds=300,
        takes_over=True,
        service_settings=ServiceSettings(drain_removed_seconds=None),
        tcp_peer_timeout_seconds=120,
        tcp_user_timeout_seconds=0,
        healthz_bind_address=("0.0.0.0", 10256),
        metrics_bind_address=("127.0.0.1", 10249),
        events=True,
        metrics_service_ports=1000,
        metrics_endpoints=5000,
        master=None,
        iptables_sync_seconds=30,
        iptables_min_sync_seconds=1,
        config_sync_seconds=900,
        kube_api_qps=5,
        kube_api_burst=10,
        oom_score_adj=-999,
        conntrack=ConntrackSettings(
            max_per_core=32768,
            min=131072,
            tcp_established_seconds=86400,
            tcp_close_wait_seconds=3600,
            tcp_be_liberal=False,
            udp_seconds=0,
            udp_stream_seconds=0,
        ),
        logging_format="text",
        verbosity=0,
    )


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (2, 2), (8, 8), (96, 8)])
def test_a_worker_for_each_core_as_far_as_that_makes_sense(
    cores: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(cores)))
    assert default_workers() == workers


def test_everything_said_is_taken(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text("{}")
    assert read_configuration(
        kubeconfig=str(kubeconfig),
        hostname_override="node-1",
        bind_address="10.0.0.1",
        nodeport_addresses="10.0.0.0/8, 2001:db8::/32",
        detect_local_mode="BridgeInterface",
        cluster_cidr="10.244.0.0/16,fd00:244::/48",
        pod_bridge_interface="cni0",
        pod_interface_name_prefix="veth",
        proxy_port_range="20000-20999",
        udp_timeout="250ms",
        tcp_tw_reuse="false",
        workers="3",
        iptables_backend="nft",
        state_directory="/run/elsewhere",
        orphan_seconds="0",
        drain_seconds="5",
        takes_over="false",
        removed_endpoints="drain=1m30s",
        tcp_peer_timeout="0s",
        tcp_user_timeout="30s",
        healthz_bind_address="[::1]:10256",
        metrics_bind_address="",
        events="false",
        metrics_service_ports="0",
        metrics_endpoints="10",
        iptables_sync_period="1m",
        iptables_min_sync_period="0s",
        config_sync_period="1h",
        kube_api_qps="-1",
        kube_api_burst="100",
        oom_score_adj="0",
        conntrack_max_per_core="0",
        conntrack_min="0",
        conntrack_tcp_timeout_established="0s",
        conntrack_tcp_timeout_close_wait="2m",
        conntrack_tcp_be_liberal="true",
        conntrack_udp_timeout="10s",
        conntrack_udp_timeout_stream="20s",
        logging_format="json",
        verbosity="4",
        master="https://192.0.2.10:6443",
        max_connections="100",
        max_connections_per_client="none",
    ) == Configuration(
        node_name="node-1",
        manifests=None,
        kubeconfig=kubeconfig,
        bind_address="10.0.0.1",
        nodeport_addresses=("10.0.0.0/8", "2001:db8::/32"),
        detect_local=DetectLocal(
            DetectLocalMode.BRIDGE_INTERFACE, ("10.244.0.0/16", "fd00:244::/48"), "cni0", "veth"
        ),
        proxy_port_range=PortRange(20000, 20999),
        udp_timeout_seconds=0.25,
        tcp_tw_reuse=False,
        workers=3,
        iptables_backend="nft",
        state_directory=Path("/run/elsewhere"),
        orphan_seconds=0,
        drain_seconds=5,
        takes_over=False,
        service_settings=ServiceSettings(
            drain_removed_seconds=90, max_connections=100, max_connections_per_client=UNLIMITED
        ),
        tcp_peer_timeout_seconds=0,
        tcp_user_timeout_seconds=30,
        healthz_bind_address=("::1", 10256),
        metrics_bind_address=None,
        events=False,
        metrics_service_ports=0,
        metrics_endpoints=10,
        master="https://192.0.2.10:6443",
        iptables_sync_seconds=60,
        iptables_min_sync_seconds=0,
        config_sync_seconds=3600,
        kube_api_qps=-1,
        kube_api_burst=100,
        oom_score_adj=0,
        conntrack=ConntrackSettings(0, 0, 0, 120, True, 10, 20),
        logging_format="json",
        verbosity=4,
    )


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.1:80", ("10.0.0.1", 80)),
        ("10.0.0.1", ("10.0.0.1", 10249)),
        ("::", ("::", 10249)),
        ("[fd00:0::1]:9", ("fd00::1", 9)),
        ("", None),
    ],
)
def test_an_address_to_serve_on_may_do_without_its_port(text: str, address: tuple[str, int] | None) -> None:
    said = read_configuration(hostname_override="n", metrics_bind_address=text)
    assert said.metrics_bind_address == address


@pytest.mark.parametrize("text", ["localhost:80", ":80", "10.0.0.1:", "10.0.0.1:0", "10.0.0.1:65536", "[::1"])
def test_what_nobody_can_listen_on_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--healthz-bind-address: '"):
        read_configuration(hostname_override="n", healthz_bind_address=text)


def test_nothing_else_is_served_within_the_proxy_ports() -> None:
    with pytest.raises(UsageError, match=r"^--healthz-bind-address: 11000 is within --proxy-port-range"):
        read_configuration(hostname_override="n", healthz_bind_address="0.0.0.0:11000")


def test_what_has_metrics_of_its_own_is_bounded() -> None:
    with pytest.raises(UsageError, match=r"--metrics-endpoints: 100001 is not within 0-100000"):
        read_configuration(hostname_override="n", metrics_endpoints="100001")


def test_a_limit_is_a_number_or_none() -> None:
    with pytest.raises(UsageError, match=r"^--max-udp-flows-per-client: '0' is not a number from 1 to"):
        read_configuration(hostname_override="n", max_udp_flows_per_client="0")


def test_what_becomes_of_connections_to_removed_endpoints_is_one_of_three() -> None:
    with pytest.raises(UsageError, match=r"^--removed-endpoints: 'drain' is not keep, reset, or drain= and"):
        read_configuration(hostname_override="n", removed_endpoints="drain")


@pytest.mark.parametrize("text", ["1900ms", "43201s"])
def test_timeouts_of_tcp_are_never_or_within_what_the_kernel_takes(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--tcp-peer-timeout: .* is neither 0s .*; --tcp-user-timeout: "):
        read_configuration(hostname_override="n", tcp_peer_timeout=text, tcp_user_timeout=text)


def test_manifests_are_a_directory(tmp_path: Path) -> None:
    assert read_configuration(hostname_override="n", manifests=str(tmp_path)).manifests == tmp_path


@pytest.mark.parametrize(
    ("override", "name"), [("Node-1.Example", "node-1.example"), (" node-1\n", "node-1")]
)
def test_a_node_name_is_trimmed_and_lower_case(override: str, name: str) -> None:
    assert read_configuration(hostname_override=override).node_name == name


def test_the_hosts_name_is_the_nodes_unless_another_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Host-1")
    assert read_configuration().node_name == "host-1"
    assert read_configuration(hostname_override="").node_name == "host-1"


def test_a_hosts_name_that_no_node_can_have_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "host_1")
    with pytest.raises(UsageError, match=r"^--hostname-override: the host's name 'host_1' is not one"):
        read_configuration()


@pytest.mark.parametrize(
    ("stated", "ipv4", "ipv6"),
    [("::", None, None), ("10.0.0.1", "10.0.0.1", None), ("2001:DB8::1", None, "2001:db8::1")],
)
def test_a_bind_address_is_for_its_family_alone(stated: str, ipv4: str | None, ipv6: str | None) -> None:
    configuration = read_configuration(hostname_override="n", bind_address=stated)
    assert configuration.bind_address_of(IPFamily.IPV4) == ipv4
    assert configuration.bind_address_of(IPFamily.IPV6) == ipv6


def test_node_ports_on_the_primary_address() -> None:
    configuration = read_configuration(hostname_override="n", nodeport_addresses="primary")
    assert configuration.nodeport_addresses == ("primary",)


@pytest.mark.parametrize(
    ("flags", "detect"),
    [
        ({"cluster_cidr": "10.244.0.0/16"}, DetectLocal(cluster_cidrs=("10.244.0.0/16",))),
        ({"detect_local_mode": "NodeCIDR"}, DetectLocal(DetectLocalMode.NODE_CIDR)),
        (
            {"detect_local_mode": "BridgeInterface", "pod_bridge_interface": "fifteen-letters"},
            DetectLocal(DetectLocalMode.BRIDGE_INTERFACE, bridge_interface="fifteen-letters"),
        ),
        (
            {"detect_local_mode": "InterfaceNamePrefix", "pod_interface_name_prefix": "cali"},
            DetectLocal(DetectLocalMode.INTERFACE_NAME_PREFIX, interface_name_prefix="cali"),
        ),
    ],
)
def test_pods_are_known_as_it_is_said(flags: dict[str, str], detect: DetectLocal) -> None:
    assert read_configuration(hostname_override="n", **flags).detect_local == detect


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
        pytest.param("20000-20003", PortRange(20000, 20003), id="as few as it may be"),
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
            {"bind_address": "224.0.0.1"}, "--bind-address: 224.0.0.1 is a multicast address", id="multicast"
        ),
        pytest.param(
            {"bind_address": "2001:db8::1%eth0"},
            "--bind-address: 2001:db8::1%eth0 is an address with a zone",
            id="zone",
        ),
        pytest.param(
            {"proxy_port_range": "20000"}, "--proxy-port-range: '20000' has fewer than 4 ports", id="one port"
        ),
        pytest.param(
            {"proxy_port_range": "20000-20002"},
            "--proxy-port-range: '20000-20002' has fewer than 4 ports",
            id="too few ports",
        ),
        pytest.param(
            {"nodeport_addresses": "primary,10.0.0.0/8"},
            "--nodeport-addresses: 'primary' is not a CIDR such as 10.0.0.0/8 (or `primary`, alone)",
            id="primary and more",
        ),
        pytest.param(
            {"nodeport_addresses": "10.0.0.0/33"},
            "--nodeport-addresses: '10.0.0.0/33' is not a CIDR such as 10.0.0.0/8 (or `primary`, alone)",
            id="no CIDR",
        ),
        pytest.param(
            {"cluster_cidr": "10.244.0.0/16,pods"},
            "--cluster-cidr: 'pods' is not a CIDR such as 10.244.0.0/16",
            id="cluster CIDR",
        ),
        pytest.param(
            {"cluster_cidr": "fd00::%eth0/64"},
            "--cluster-cidr: 'fd00::%eth0/64' is not a CIDR such as 10.244.0.0/16",
            id="cluster CIDR with a zone",
        ),
        pytest.param(
            {"detect_local_mode": "clustercidr"},
            "--detect-local-mode: 'clustercidr' is none of ClusterCIDR, NodeCIDR, BridgeInterface, "
            "InterfaceNamePrefix",
            id="detect-local mode",
        ),
        pytest.param(
            {"detect_local_mode": "BridgeInterface"},
            "--pod-bridge-interface: is needed with --detect-local-mode BridgeInterface",
            id="no bridge",
        ),
        pytest.param(
            {"detect_local_mode": "InterfaceNamePrefix"},
            "--pod-interface-name-prefix: is needed with --detect-local-mode InterfaceNamePrefix",
            id="no prefix",
        ),
        pytest.param(
            {"pod_bridge_interface": "cni0 -j ACCEPT"},
            "--pod-bridge-interface: 'cni0 -j ACCEPT' is not a name that an interface can have",
            id="bridge",
        ),
        pytest.param(
            {"pod_bridge_interface": "sixteen-letters1"},
            "--pod-bridge-interface: 'sixteen-letters1' is not a name that an interface can have",
            id="bridge with too long a name",
        ),
        pytest.param(
            {"pod_interface_name_prefix": "fifteen-letters"},
            "--pod-interface-name-prefix: 'fifteen-letters' is not what an interface's name can begin with",
            id="prefix of a whole name",
        ),
        pytest.param({"workers": "0"}, "--workers: 0 is not within 1-256", id="no worker"),
        pytest.param({"workers": "257"}, "--workers: 257 is not within 1-256", id="too many workers"),
        pytest.param(
            {"udp_timeout": "0s"},
            "--udp-timeout: 0s is not more than 0 s and at most 86400 s",
            id="no UDP timeout",
        ),
        pytest.param(
            {"udp_timeout": "86401s"},
            "--udp-timeout: 86401s is not more than 0 s and at most 86400 s",
            id="UDP timeout of more than a day",
        ),
        pytest.param(
            {"udp_timeout": "nan"},
            "--udp-timeout: 'nan' is not a duration such as 250ms, 30s or 1m30s",
            id="UDP timeout that is no number",
        ),
        pytest.param(
            {"iptables_backend": "ipvs"},
            "--iptables-backend: 'ipvs' is none of auto, nft, legacy, python-iptables",
            id="backend",
        ),
    ],
)
def test_a_wrong_flag_is_named_with_its_value_and_the_reason(flags: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        read_configuration(**{"hostname_override": "node-1", **flags})
    assert str(raised.value) == message
    assert raised.value.exit_code == 2


@pytest.mark.parametrize(
    "text", ["a", "1-", "-5", "1-2-3", "1+2+3", "+5", "5-4", "0-10", "1-65536", "65000+600", "20000-20002"]
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
        read_configuration(
            hostname_override="n",
            bind_address="::1",
            proxy_port_range="x",
            workers="0",
            nodeport_addresses="x",
            cluster_cidr="x",
            detect_local_mode="x",
            pod_bridge_interface="/",
            pod_interface_name_prefix="/",
        )
    named = [part.partition(":")[0] for part in str(raised.value).split("; ")]
    assert named == [
        "--bind-address",
        "--nodeport-addresses",
        "--detect-local-mode",
        "--cluster-cidr",
        "--pod-bridge-interface",
        "--pod-interface-name-prefix",
        "--proxy-port-range",
        "--workers",
    ]


@given(
    bind_address=st.text(max_size=12),
    proxy_port_range=st.text(alphabet="0123456789+-_ ٣x", max_size=12),
    workers=st.integers().map(str),
    udp_timeout=st.text(alphabet="0123456789.hmsn", max_size=6),
    iptables_backend=st.text(max_size=5),
    nodeport_addresses=st.text(alphabet="0123456789abcdef:./%,", max_size=12),
    cluster_cidr=st.text(max_size=12),
    pod_bridge_interface=st.text(max_size=16),
)
def test_whatever_is_said_is_taken_or_refused_with_a_reason(**flags: str) -> None:
    try:
        configuration = read_configuration(hostname_override="n", **flags)
    except UsageError as error:
        assert str(error).startswith("--")
    else:
        ports = configuration.proxy_port_range
        assert 1 <= ports.first <= ports.last <= 65535
