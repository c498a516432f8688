"""`kube-proxy`, called as kubeadm's DaemonSet calls it."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from userspace_proxy.cli import kube_proxy as module
from userspace_proxy.cli.kube_proxy import kube_proxy
from userspace_proxy.cli.table_options import load
from userspace_proxy.configuration.agent_configuration import Configuration

CONFIG = Path(__file__).parents[1] / "support" / "kubeadm_config.conf"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("USERSPACE_PROXY_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """/var/lib/kube-proxy as kubelet mounts the ConfigMap there: symbolic links through `..data`."""
    data = tmp_path / "..2026_01_01"
    data.mkdir()
    kubeconfig = tmp_path / "kubeconfig.conf"
    text = CONFIG.read_text().replace("/var/lib/kube-proxy/kubeconfig.conf", str(kubeconfig))
    (data / "config.conf").write_text(text)
    (data / "kubeconfig.conf").write_text("apiVersion: v1\nkind: Config\n")
    (tmp_path / "..data").symlink_to(data.name)
    for name in ("config.conf", "kubeconfig.conf"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    return tmp_path


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What `run` was called with, instead of running."""
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(module, "run_as", calls.append)
    return calls


def call(*arguments: str) -> Result:
    return CliRunner().invoke(kube_proxy, arguments, catch_exceptions=False)


def configuration_of(given: dict[str, Any]) -> Configuration:
    return load(given).configuration


def test_the_arguments_and_the_config_map_that_kubeadm_writes(
    folder: Path, ran: list[dict[str, Any]]
) -> None:
    result = call(f"--config={folder}/config.conf", "--hostname-override=Node-1")
    assert (result.exit_code, result.output) == (0, "")
    loaded = load(ran[0]).loaded
    assert loaded.notes == ()
    assert loaded.configuration.node_name == "node-1"
    assert loaded.configuration.kubeconfig == folder / "kubeconfig.conf"
    assert loaded.configuration.detect_local.cluster_cidrs == ("10.244.0.0/16",)


@pytest.mark.parametrize("cleanup", ["--cleanup", "--cleanup=true"])
def test_cleanup_means_cleanup(
    cleanup: str, ran: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from userspace_proxy.agent import cleanup as agent_cleanup

    def clean_up(*, force: bool, state_directory: Path) -> list[str]:
        assert not force
        return [f"cleaned up {state_directory}"]

    monkeypatch.setattr(agent_cleanup, "clean_up", clean_up)
    result = call(cleanup, "--hostname-override=n", "--state-directory=/run/there")
    assert result.output == "cleaned up /run/there\n"
    assert ran == []


def test_init_only_sets_the_sysctls_and_nothing_else(
    ran: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from userspace_proxy.agent import node_sysctls
    from userspace_proxy.logs import log

    class Silent:
        def start(self) -> None: ...

    initialized: list[Configuration] = []
    monkeypatch.setattr(node_sysctls, "set_node_sysctls", initialized.append)
    monkeypatch.setattr(log, "configure_logging", lambda *_: Silent())
    assert call("--init-only", "--hostname-override=n", "--conntrack-min=7").exit_code == 0
    assert [configuration.conntrack.min for configuration in initialized] == [7]
    assert ran == []


FLAGS_OF_KUBE_PROXY = """
--bind-address --bind-address-hard-fail --cleanup --cluster-cidr --config --config-sync-period
--conntrack-max-per-core --conntrack-min --conntrack-tcp-be-liberal --conntrack-tcp-timeout-close-wait
--conntrack-tcp-timeout-established --conntrack-udp-timeout --conntrack-udp-timeout-stream --detect-local-mode
--feature-gates --healthz-bind-address --healthz-port --help --hostname-override --init-only
--iptables-localhost-nodeports --iptables-masquerade-bit --iptables-min-sync-period --iptables-sync-period
--ipvs-exclude-cidrs --ipvs-min-sync-period --ipvs-scheduler --ipvs-strict-arp --ipvs-sync-period
--ipvs-tcp-timeout --ipvs-tcpfin-timeout --ipvs-udp-timeout --kube-api-burst --kube-api-content-type
--kube-api-qps --kubeconfig --log-flush-frequency --log-json-info-buffer-size --log-json-split-stream
--log-text-info-buffer-size --log-text-split-stream --logging-format --masquerade-all --master
--metrics-bind-address --metrics-port --nodeport-addresses --oom-score-adj --pod-bridge-interface
--pod-interface-name-prefix --profiling --proxy-mode --proxy-port-range --show-hidden-metrics-for-version
--udp-timeout --v --version --vmodule --write-config-to
--nftables-masquerade-all --nftables-masquerade-bit --nftables-min-sync-period --nftables-sync-period
--add-dir-header --alsologtostderr --log-backtrace-at --log-dir --log-file --log-file-max-size --logtostderr
--one-output --skip-headers --skip-log-headers --stderrthreshold
--boot-id-file --machine-id-file
"""
"""Of 1.25 and of later ones; the last of them are klog's and cAdvisor's, which are gone since."""


@pytest.mark.parametrize("flag", FLAGS_OF_KUBE_PROXY.split())
def test_every_flag_of_kube_proxy_is_known(flag: str) -> None:
    known = {name for option in kube_proxy.params for name in option.opts} | {"--help"}
    assert flag in known


def test_no_cleanup_means_run(ran: list[dict[str, Any]]) -> None:
    assert call("--cleanup=false", "--hostname-override=n", "--v=2").exit_code == 0
    assert configuration_of(ran[0]).verbosity == 2


def test_version_is_said() -> None:
    assert call("--version").output == f"userspace-proxy, version {version('userspace-proxy')}\n"


def test_the_configuration_is_written_and_read_again(folder: Path, ran: list[dict[str, Any]]) -> None:
    written = folder / "written.conf"
    command = [sys.executable, "-c", "from userspace_proxy.cli.kube_proxy import main; main()"]
    arguments = [f"--config={folder}/config.conf", "--hostname-override=n", f"--write-config-to={written}"]
    completed = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=60)
    assert (completed.returncode, completed.stdout) == (0, "")
    for path in (folder / "config.conf", written):
        call(f"--config={path}", "--hostname-override=n")
    before, after = map(configuration_of, ran)
    assert before == after


def test_what_is_wrong_ends_it_in_a_line() -> None:
    command = [sys.executable, "-c", "from userspace_proxy.cli.kube_proxy import main; main()"]
    completed = subprocess.run(
        [*command, "--proxy-mode=ipvs", "--config=/nowhere"], capture_output=True, text=True, timeout=60
    )
    assert completed.returncode == 2
    assert completed.stderr == "kube-proxy: --config: /nowhere cannot be read: No such file or directory\n"


def test_it_is_installed_by_that_name() -> None:
    (script,) = entry_points(group="console_scripts", name="kube-proxy")
    assert script.value == "userspace_proxy.cli.kube_proxy:main"
