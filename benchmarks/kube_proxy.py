"""kube-proxy in userspace mode, which release 1.25 was the last to have, with an API server of its own.

`KUBE_PROXY` names the binary, `KUBEBUILDER_ASSETS` a folder with kube-apiserver and etcd, as `setup-envtest`
lays it out. Both run in the node's namespace, and are frozen once kube-proxy serves, so that they do not
disturb the others.
"""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import ClassVar, Final

from benchmarks.generators import MeasurementError
from benchmarks.peer import Peer
from benchmarks.testbed import SERVICE_ADDRESS, Testbed, wait_until
from userspace_proxy.errors import StartupError

_API_PORT: Final = 6443
_ETCD: Final = "http://127.0.0.1:2379"
_TOKEN: Final = "token-of-the-benchmarks"
_START_SECONDS: Final = 60.0


class KubeProxy(Peer):
    """Writes its own rules, and tunes the node as it does on any."""

    name = "kube-proxy"
    title = "kube-proxy userspace"
    programs: ClassVar = {"openssl": "openssl"}

    @classmethod
    def unavailable(cls) -> str | None:
        binary, assets = os.environ.get("KUBE_PROXY", ""), Path(os.environ.get("KUBEBUILDER_ASSETS", "/-"))
        if not os.access(binary, os.X_OK):
            return "KUBE_PROXY names no binary of kube-proxy 1.25"
        if not all(os.access(assets / program, os.X_OK) for program in ("kube-apiserver", "etcd")):
            return "KUBEBUILDER_ASSETS names no folder with kube-apiserver and etcd"
        return None

    def __init__(self, testbed: Testbed) -> None:
        super().__init__(testbed)
        self._api: list[subprocess.Popen[str]] = []

    def start(self) -> None:
        super().start()
        for process in self._api:
            process.send_signal(signal.SIGSTOP)

    def launch(self) -> None:
        folder = self.testbed.folder / "kubernetes"
        folder.mkdir()
        self._start_api(folder)
        for path, item in self._objects():
            self._post(path, item)
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text(_KUBECONFIG)
        self.process = self.testbed.start_proxy(
            os.environ["KUBE_PROXY"],
            "--proxy-mode=userspace",
            f"--kubeconfig={kubeconfig}",
            "--hostname-override=node-1",
            # Limits of connection tracking that belong to the whole machine are left as they are.
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0s",
            "--conntrack-tcp-timeout-close-wait=0s",
        )
        self.testbed.node.sysctl("net.ipv4.tcp_tw_reuse", "1")

    def _start_api(self, folder: Path) -> None:
        assets, key, tokens = Path(os.environ["KUBEBUILDER_ASSETS"]), folder / "key", folder / "tokens.csv"
        generated = subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], capture_output=True)
        if generated.returncode:
            raise StartupError(f"openssl made no key: {generated.stderr.decode(errors='replace').strip()}")
        tokens.write_text(f"{_TOKEN},benchmarks,benchmarks,system:masters\n")
        self._run_beside(
            folder / "etcd.log",
            *(str(assets / "etcd"), f"--data-dir={folder / 'etcd'}", "--unsafe-no-fsync"),
            *(f"--listen-client-urls={_ETCD}", f"--advertise-client-urls={_ETCD}"),
        )
        self._run_beside(
            folder / "kube-apiserver.log",
            str(assets / "kube-apiserver"),
            f"--etcd-servers={_ETCD}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",
            f"--secure-port={_API_PORT}",
            f"--cert-dir={folder / 'certificates'}",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-cluster-ip-range=10.96.0.0/16",
            f"--token-auth-file={tokens}",
            "--authorization-mode=AlwaysAllow",
            "--disable-admission-plugins=ServiceAccount",
        )
        try:
            wait_until(self._is_api_up, seconds=_START_SECONDS, what="kube-apiserver's start")
        except MeasurementError as error:
            said = (folder / "kube-apiserver.log").read_text(errors="replace")[-2000:]
            raise StartupError(f"{error}. It said:\n{said}") from error

    def _run_beside(self, log: Path, *argv: str) -> None:
        with log.open("w") as output:
            command = ("taskset", "-c", self.testbed.cores.load, *argv)
            self._api.append(self.testbed.node.popen(*command, stdout=output, stderr=output))

    def _is_api_up(self) -> bool:
        try:
            self._request("GET", "/api/v1/namespaces/default")
        except OSError:
            return False
        return True

    def _post(self, path: str, item: dict[str, object]) -> None:
        try:
            self._request("POST", path, item)
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")
            raise StartupError(f"kube-apiserver refuses {item['kind']}: {said}") from error

    def _request(self, method: str, path: str, item: dict[str, object] | None = None) -> None:
        headers = {"Authorization": f"Bearer {_TOKEN}", "Content-Type": "application/json"}
        data = None if item is None else json.dumps(item).encode()
        url = f"https://127.0.0.1:{_API_PORT}{path}"
        request = urllib.request.Request(url, data, headers, method=method)
        context = ssl._create_unverified_context()

        def ask() -> None:
            with urllib.request.urlopen(request, timeout=10, context=context) as response:
                response.read()

        self.testbed.node.call(ask)

    def _objects(self) -> list[tuple[str, dict[str, object]]]:
        """The Service and what userspace mode reads beside it: Endpoints, not slices."""
        ports = self.ports()
        named = [{"name": port.name, "port": port.port, "protocol": port.protocol} for port in ports]
        leading = [
            {"name": port.name, "port": port.endpoint_port, "protocol": port.protocol} for port in ports
        ]
        addresses = [{"type": "InternalIP", "address": self.testbed.node.address}]
        subset = {"addresses": [{"ip": self.testbed.endpoint.address}], "ports": leading}
        default = "/api/v1/namespaces/default"
        return [
            ("/api/v1/nodes", _object("Node", "node-1", status={"addresses": addresses})),
            (f"{default}/endpoints", _object("Endpoints", "bench", subsets=[subset])),
            (
                f"{default}/services",
                _object("Service", "bench", spec={"clusterIP": SERVICE_ADDRESS, "ports": named}),
            ),
        ]


def _object(kind: str, name: str, **content: object) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, **content}


_KUBECONFIG: Final = f"""\
apiVersion: v1
kind: Config
current-context: here
contexts: [{{name: here, context: {{cluster: here, user: me}}}}]
clusters:
- name: here
  cluster: {{server: "https://127.0.0.1:{_API_PORT}", insecure-skip-tls-verify: true}}
users: [{{name: me, user: {{token: {_TOKEN}}}}}]
"""
