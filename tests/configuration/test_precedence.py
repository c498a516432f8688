from __future__ import annotations

import re

import pytest

from userspace_proxy.configuration.kube_proxy_file import read_file
from userspace_proxy.configuration.options import OPTIONS, Option
from userspace_proxy.configuration.precedence import Words, weigh

HEAD = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"


def with_file(
    fields: str, flags: dict[str, str] | None = None, environment: dict[str, str] | None = None
) -> Words:
    return weigh(flags or {}, environment or {}, read_file("f.conf", f"{HEAD}{fields}".encode()))


def value(words: Words, name: str) -> object:
    problems: list[str] = []
    values = words.read(problems)
    assert problems == []
    return values[name]


def test_without_a_file_flags_go_before_the_environment_and_that_before_defaults() -> None:
    environment = {"USERSPACE_PROXY_WORKERS": "2", "USERSPACE_PROXY_CLUSTER_CIDR": "10.1.0.0/16"}
    words = weigh({"workers": "3"}, environment)
    assert value(words, "workers") == 3
    assert value(words, "cluster_cidr") == ("10.1.0.0/16",)
    assert value(words, "iptables_backend") == "auto"
    assert words.overruled == []


def test_with_a_file_its_word_and_its_silence_count_for_what_kube_proxy_has() -> None:
    flags = {"cluster_cidr": "10.1.0.0/16", "proxy_port_range": "12000-12999"}
    environment = {"USERSPACE_PROXY_NODEPORT_ADDRESSES": "primary"}
    words = with_file("clusterCIDR: 10.2.0.0/16\nnodePortAddresses: null\n", flags, environment)
    assert value(words, "cluster_cidr") == ("10.2.0.0/16",)
    assert value(words, "nodeport_addresses") == ()
    assert value(words, "proxy_port_range") == OPTIONS["proxy_port_range"].read("")
    assert words.overruled == [
        "USERSPACE_PROXY_NODEPORT_ADDRESSES",
        "--cluster-cidr",
        "--proxy-port-range",
    ]


def test_the_nodes_name_and_the_log_are_the_flags_to_say_even_with_a_file() -> None:
    fields = "hostnameOverride: from-file\nlogging: {verbosity: 1}\n"
    words = with_file(fields, {"hostname_override": "from-flag", "verbosity": "4"})
    assert value(words, "hostname_override") == "from-flag"
    assert value(words, "verbosity") == 4
    assert words.overruled == []
    assert value(with_file(fields), "hostname_override") == "from-file"
    assert value(with_file(fields), "verbosity") == 1


def test_what_is_ours_counts_beside_a_file_that_does_not_say_it() -> None:
    flags = {"workers": "3", "drain_seconds": "1"}
    words = with_file("userspaceProxy: {drainSeconds: 0}\n", flags)
    assert value(words, "workers") == 3
    assert value(words, "drain_seconds") == 0
    assert words.overruled == ["--drain-seconds"]


def test_an_empty_text_says_nothing_but_where_nowhere_is_a_word() -> None:
    flags = {"workers": "", "bind_address": "", "metrics_bind_address": ""}
    words = weigh(flags, {"USERSPACE_PROXY_WORKERS": "2"})
    assert value(words, "workers") == 2
    assert value(words, "bind_address") is None
    assert value(words, "metrics_bind_address") is None
    assert value(words, "healthz_bind_address") == ("0.0.0.0", 10256)


def test_a_problem_says_where_its_text_stands() -> None:
    problems: list[str] = []
    weigh({"workers": "0"}, {"USERSPACE_PROXY_BIND_ADDRESS": "x"}).read(problems)
    with_file("nodePortAddresses: [10.0.0.0/8, x, primary]\nmode: ipvs\n").read(problems)
    assert [problem.partition(" is not ")[0] for problem in problems] == [
        "USERSPACE_PROXY_BIND_ADDRESS: 'x'",
        "--workers: 0",
        "f.conf: mode: 'ipvs'",
        "f.conf: nodePortAddresses[1]: 'x'",
        "f.conf: nodePortAddresses[2]: 'primary'",
    ]


def test_what_is_not_said_is_named_where_it_would_be() -> None:
    assert weigh({}, {}).where("pod_bridge_interface") == "--pod-bridge-interface"
    assert with_file("").where("pod_bridge_interface") == "f.conf: detectLocal.bridgeInterface"
    assert with_file("").where("master") == "--master"


@pytest.mark.parametrize("option", OPTIONS.values(), ids=OPTIONS)
def test_no_variable_is_one_that_kubelet_makes_of_a_service_of_that_name(option: Option) -> None:
    of_services = r"[A-Z0-9_]+_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT|PORT_\d+_(TCP|UDP)(_[A-Z]+)?)"
    assert re.fullmatch(of_services, option.variable) is None
