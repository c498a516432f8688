from __future__ import annotations

from userspace_proxy.configuration.changes import follow
from userspace_proxy.configuration.kube_proxy_file import read_file
from userspace_proxy.configuration.precedence import Words, weigh

HEAD = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"


def words(fields: str, **flags: str) -> Words:
    return weigh(flags, {}, read_file("f.conf", f"{HEAD}{fields}".encode()))


def test_what_differs_is_applied_or_waits_and_what_waits_keeps_its_word() -> None:
    running = words("nodePortAddresses: [primary]\nportRange: 12000-12999\n", workers="2")
    fresh = words("clusterCIDR: 10.1.0.0/16\nuserspaceProxy: {workers: 3, maxUdpFlowsPerClient: 7}\n")
    change = follow(running, fresh)
    assert change.applied == (
        "f.conf: nodePortAddresses",
        "f.conf: clusterCIDR",
        "f.conf: userspaceProxy.maxUdpFlowsPerClient",
    )
    assert change.waiting == ("f.conf: portRange", "f.conf: userspaceProxy.workers")
    values = change.words.read([])
    assert values["nodeport_addresses"] == ()
    assert values["cluster_cidr"] == ("10.1.0.0/16",)
    assert values["max_udp_flows_per_client"] == 7
    assert values["workers"] == 2
    assert (values["proxy_port_range"].first, values["proxy_port_range"].last) == (12000, 12999)


def test_what_waits_goes_on_waiting_and_can_be_taken_back() -> None:
    running, fresh = words(""), words("portRange: 12000-12999\n")
    change = follow(follow(running, fresh).words, fresh)
    assert (change.applied, change.waiting) == ((), ("f.conf: portRange",))
    assert follow(change.words, running).waiting == ()


def test_another_spelling_of_the_same_is_no_change() -> None:
    change = follow(words("iptables: {syncPeriod: 1m}\n"), words("iptables: {syncPeriod: 60s}\n"))
    assert (change.applied, change.waiting) == ((), ())
