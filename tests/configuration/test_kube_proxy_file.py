from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userspace_proxy.configuration.accepted_options import ACCEPTED_FIELDS, Why
from userspace_proxy.configuration.kube_proxy_file import ConfigurationFile, read_file, write_file
from userspace_proxy.configuration.loading import load_configuration
from userspace_proxy.configuration.options import OPTIONS
from userspace_proxy.configuration.precedence import weigh

KUBEADM = (Path(__file__).parents[1] / "support" / "kubeadm_config.conf").read_text()
HEAD = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"


def read(fields: str) -> ConfigurationFile:
    return read_file("f.conf", f"{HEAD}{dedent(fields)}".encode())


def problems_of(fields: str) -> list[str]:
    return [str(problem) for problem in read(fields).problems]


def test_what_kubeadm_writes_says_where_the_api_server_and_the_pods_are_and_nothing_else() -> None:
    found = read_file("config.conf", KUBEADM.encode())
    assert found.problems == []
    assert found.ignored == {}
    assert found.texts == {
        "kubeconfig": "/var/lib/kube-proxy/kubeconfig.conf",
        "bind_address": "0.0.0.0",
        "cluster_cidr": "10.244.0.0/16",
    }


def test_every_field_is_taken() -> None:
    found = read(
        """
        mode: userspace
        hostnameOverride: node-1
        bindAddress: "10.0.0.1"
        healthzBindAddress: "0.0.0.0:10256"
        nodePortAddresses: [10.0.0.0/8, fd00::/8]
        portRange: 12000-12999
        udpIdleTimeout: 10s
        detectLocalMode: BridgeInterface
        detectLocal: {bridgeInterface: cni0}
        logging: {format: json, verbosity: 4}
        userspaceProxy:
          workers: 3
          tcpTwReuse: false
          takeOver: false
          orphanSeconds: 90
          drainSeconds: 1m30s
          maxConnectionsPerService: 100
          maxConnectionsPerClient: none
          removedEndpoints: reset
        """
    )
    assert found.problems == []
    assert found.texts == {
        "proxy_mode": "userspace",
        "hostname_override": "node-1",
        "bind_address": "10.0.0.1",
        "healthz_bind_address": "0.0.0.0:10256",
        "nodeport_addresses": "10.0.0.0/8,fd00::/8",
        "proxy_port_range": "12000-12999",
        "udp_timeout": "10s",
        "detect_local_mode": "BridgeInterface",
        "pod_bridge_interface": "cni0",
        "logging_format": "json",
        "verbosity": "4",
        "workers": "3",
        "tcp_tw_reuse": "false",
        "takes_over": "false",
        "orphan_seconds": "90",
        "drain_seconds": "1m30s",
        "max_connections": "100",
        "max_connections_per_client": "none",
        "removed_endpoints": "reset",
    }


def test_json_is_yaml_too() -> None:
    content = (
        b'{"apiVersion":"kubeproxy.config.k8s.io/v1alpha1","kind":"KubeProxyConfiguration","portRange":"0-0"}'
    )
    found = read_file("f.json", content)
    assert (found.problems, found.texts) == ([], {"proxy_port_range": "0-0"})


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "f.conf: holds nothing, where one KubeProxyConfiguration is expected"),
        ("---\n# only a comment\n", "f.conf: holds nothing, where one KubeProxyConfiguration is expected"),
        ("[]", "f.conf: holds a list, where one KubeProxyConfiguration is expected"),
        ("just text", "f.conf: holds 'just text', where one KubeProxyConfiguration is expected"),
        (f"{HEAD}---\n{HEAD}", "f.conf: holds 2 documents, where one KubeProxyConfiguration is expected"),
        ("kind: KubeProxyConfiguration", "f.conf: apiVersion: is missing, and should be kubeproxy.config"),
        (HEAD.replace("v1alpha1", "v1beta1"), "f.conf: apiVersion: 'kubeproxy.config.k8s.io/v1beta1' is not"),
        (HEAD.replace("KubeProxy", "Kubelet"), "f.conf: kind: 'KubeletConfiguration' is not KubeProxyConfig"),
        ("a: [", "f.conf: cannot be read as YAML: "),
    ],
)
def test_what_is_no_such_file_is_named(content: str, problem: str) -> None:
    found = read_file("f.conf", content.encode())
    assert [str(named)[: len(problem)] for named in found.problems] == [problem]
    assert found.texts == {}


def test_everything_wrong_is_named_at_once_with_its_path_and_what_is_expected() -> None:
    fields = """
        bindAdress: 10.0.0.1
        mode: [userspace]
        nodePortAddresses: [10.0.0.0/8, 7]
        nodeportAddresses: []
        iptables: 30s
        ipvs: {schedular: rr}
        conntrackk: {}
        udpIdleTimeout: 250
        userspaceProxy: {workers: "2", tcpTwReuse: yes please, orphanSeconds: {}, worker: 1}
        """
    assert problems_of(fields) == [
        "f.conf: bindAdress: is no field of KubeProxyConfiguration; did you mean bindAddress?",
        "f.conf: mode: a list is not a string",
        "f.conf: nodePortAddresses[1]: 7 is not a string",
        "f.conf: nodeportAddresses: is no field of KubeProxyConfiguration; did you mean nodePortAddresses?",
        "f.conf: iptables: '30s' is not an object",
        "f.conf: ipvs.schedular: is no field of KubeProxyConfiguration; did you mean ipvs.scheduler?",
        "f.conf: conntrackk: is no field of KubeProxyConfiguration; did you mean conntrack?",
        "f.conf: udpIdleTimeout: 250 is not a duration such as 30s",
        "f.conf: userspaceProxy.workers: '2' is not an integer",
        "f.conf: userspaceProxy.tcpTwReuse: 'yes please' is not true or false",
        "f.conf: userspaceProxy.orphanSeconds: an object is not a number of seconds, or a duration such as "
        "30s",
        "f.conf: userspaceProxy.worker: is no field of KubeProxyConfiguration; did you mean "
        "userspaceProxy.workers?",
    ]


def test_fields_of_other_modes_are_ignored_and_named_if_they_ask_for_something() -> None:
    found = read(
        """
        ipvs: {scheduler: rr, strictARP: false, excludeCIDRs: [10.0.0.0/8], tcpTimeout: 0s}
        nftables: {masqueradeBit: 14, masqueradeAll: false}
        iptables: {masqueradeAll: true}
        featureGates: {SomeGate: true}
        winkernel: null
        """
    )
    assert found.problems == []
    assert found.ignored == dict.fromkeys(
        [
            "ipvs.scheduler",
            "ipvs.excludeCIDRs",
            "nftables.masqueradeBit",
            "iptables.masqueradeAll",
            "featureGates",
        ],
        Why.OTHER_MODES,
    )


def test_what_is_written_is_read_as_it_was() -> None:
    flags = {
        "hostname_override": "node-1",
        "nodeport_addresses": "10.0.0.0/8,fd00::/8",
        "workers": "3",
        "takes_over": "false",
        "orphan_seconds": "1m30s",
        "drain_seconds": "7",
        "max_udp_flows": "none",
        "udp_timeout": "10s",
    }
    words = weigh(flags, {})
    written = write_file(words.texts())
    again = weigh({}, {}, read_file("f.conf", written.encode()))
    problems: list[str] = []
    assert again.read(problems) == words.read(problems)
    assert problems == []
    assert write_file(again.texts()) == written


def test_what_is_written_has_every_field(tmp_path: Path) -> None:
    path = tmp_path / "config.conf"
    path.write_text(load_configuration({"hostname_override": "n"}, environment={}).written())
    found = read_file(str(path), path.read_bytes())
    assert found.problems == []
    zeros = ("", "0", "0s", "false")
    unsaid = {name for name, option in OPTIONS.items() if option.default in zeros or not option.field}
    assert OPTIONS.keys() - unsaid <= found.texts.keys()


def test_no_field_is_two_options() -> None:
    fields = [option.field for option in OPTIONS.values() if option.field]
    assert len(fields) == len(set(fields))
    assert not ACCEPTED_FIELDS.keys() & set(fields)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.dictionaries(
        st.sampled_from([option.field for option in OPTIONS.values() if option.field] + ["ipvs", "x"]),
        _JSON,
        max_size=4,
    )
)
def test_whatever_stands_in_a_file_is_taken_or_named(fields: dict[str, object]) -> None:
    content: dict[str, object] = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
    }
    for path, value in fields.items():
        *sections, name = path.split(".")
        holder = content
        for section in sections:
            inner = holder.setdefault(section, {})
            holder = inner if isinstance(inner, dict) else {}
        holder[name] = value
    problems: list[str] = []
    weigh({}, {}, read_file("f.conf", json.dumps(content).encode())).read(problems)
    assert all(problem.startswith("f.conf: ") for problem in problems)
