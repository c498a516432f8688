"""A node on which kubeadm put kube-proxy, and this agent takes its place with the same arguments."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.api_servers import running_api_server
from tests.support.certificates import Authority
from tests.support.clients import who_greets
from tests.support.cluster_objects import ApiServerObjects
from tests.support.kernel_state import installed_rules
from tests.support.service_node import ServiceNode

KUBEADM = (Path(__file__).parents[1] / "support" / "kubeadm_config.conf").read_text()
KUBE_PROXY = (sys.executable, "-c", "from userspace_proxy.cli.kube_proxy import main; main()")
WITHOUT_VARIABLES = ("env", "--unset=USERSPACE_PROXY_OOM_SCORE_ADJ")
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def test_what_kubeadm_starts_serves_and_cleans_up(tmp_path: Path) -> None:
    with running_api_server("fake", tmp_path) as server:
        cluster = ApiServerObjects(server)
        config = tmp_path / "config.conf"
        config.write_text(KUBEADM.replace("/var/lib/kube-proxy/kubeconfig.conf", str(server.kubeconfig)))
        with ServiceNode(tmp_path, cluster=cluster) as node, cluster.reachable_inside(node.node):
            node.agent.flags = (f"--config={config}", "--hostname-override=node-1")
            node.agent.start(prefix=WITHOUT_VARIABLES, program=KUBE_PROXY, verbs=())
            service = node.serve("greet")
            assert len(set(who_greets(node.client, service["greet"], 3))) == 3
            assert node.agent.lines_with("Ignored") == []
            node.agent.stop()
            completed = node.node.run(*KUBE_PROXY, "--cleanup", *node.agent.flags, check=False)
            assert completed.returncode == 0, completed.stderr
            assert "removed every rule and chain of ours" in completed.stdout
            assert [rule for rule in installed_rules(node.node, "nft") if "KUBE-" in rule] == []


@contextmanager
def service_account(folder: Path) -> Iterator[None]:
    """What kubelet gives to a pod; the place is this test run's own."""
    SERVICE_ACCOUNT.mkdir(parents=True)
    try:
        (SERVICE_ACCOUNT / "token").write_text("token")
        shutil.copy(Authority(folder, "cluster").certificate, SERVICE_ACCOUNT / "ca.crt")
        yield
    finally:
        shutil.rmtree(SERVICE_ACCOUNT)


def test_a_pod_that_asks_for_the_api_server_at_its_own_service_is_told_so(tmp_path: Path) -> None:
    variables = {
        "KUBERNETES_SERVICE_HOST": "10.96.0.1",
        "KUBERNETES_SERVICE_PORT": "443",
        "KUBERNETES_PORT_443_TCP_ADDR": "10.96.0.1",
    }
    with service_account(tmp_path), ServiceNode(tmp_path, endpoints=0) as node:
        node.agent.flags = ("--hostname-override=node-1", "--workers=1")
        node.agent.start(
            prefix=("env", *(f"{name}={value}" for name, value in variables.items())),
            until="API server does not answer:",
        )
        (told,) = node.agent.lines_with("API server does not answer:")
        assert "KUBERNETES_SERVICE_HOST=10.96.0.1 is the address of the Service default/kubernetes" in told
        assert "--master=https://" in told
        assert node.agent.is_running


def test_the_conntrack_sysctls_of_the_node_are_as_kube_proxy_has_them(tmp_path: Path) -> None:
    folder = Path("/proc/sys/net/netfilter")
    with ServiceNode(tmp_path, "--conntrack-tcp-timeout-established=12h", endpoints=0) as node:
        before = node.node.call((folder / "nf_conntrack_max").read_text)
        node.agent.start()
        names = ("nf_conntrack_tcp_timeout_established", "nf_conntrack_tcp_timeout_close_wait")
        present = [int(node.node.call((folder / name).read_text)) for name in names]
        assert present == [12 * 3600, 3600]
        assert node.node.call((folder / "nf_conntrack_max").read_text) == before
