"""The demo's cluster: a node with the real agent on a folder of manifests, endpoint pods, a client pod."""

from __future__ import annotations

import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from userspace_proxy.demo.closing import Closing
from userspace_proxy.demo.namespaces import Namespace
from userspace_proxy.demo.node_network import NodeNetwork
from userspace_proxy.demo.pods import start_server
from userspace_proxy.errors import StartupError

ENDPOINTS: Final = ("web-1", "web-2", "web-3")
"""The endpoint pods, in the order of their addresses: 10.244.1.2 and on, as examples/manifests has them."""

HTTP_PORT: Final = 8080
DNS_PORT: Final = 5353

_FOLDER: Final = Path("/run/userspace-proxy-demo")
_AGENT_START_SECONDS: Final = 15.0
_AGENT_STOP_SECONDS: Final = 10.0
_USERSPACE_PROXY: Final = (sys.executable, "-m", "userspace_proxy")


class Cluster(Closing):
    """Namespaces, servers and the agent; `close` ends all of it. Everything it writes lies in `/run`."""

    def __init__(self, manifests: Path) -> None:
        self.manifests = _FOLDER / "manifests"
        shutil.copytree(manifests, self.manifests)
        self.agent_log = _FOLDER / "agent.log"
        self.agent_command = shlex.split(f"run --manifests {self.manifests} --hostname-override node-1")
        self._agent: subprocess.Popen[str] | None = None
        self._servers: dict[str, subprocess.Popen[str]] = {}
        self.network = NodeNetwork()
        with self.closed_on_failure():
            for name in ENDPOINTS:
                self.network.add_pod(name)
                self.start_endpoint(name)
            self.client = self.network.add_pod("client")

    @property
    def node(self) -> Namespace:
        """The node's namespace, where agent and workers run."""
        return self.network.node

    def pod(self, name: str) -> Namespace:
        """The pod of that name."""
        return self.network.pods[name]

    def start_endpoint(self, name: str) -> None:
        """Start the server of an endpoint pod."""
        self._servers[name] = start_server(
            self.pod(name), "--http", str(HTTP_PORT), "--dns", str(DNS_PORT), name=name
        )

    def kill_endpoint(self, name: str) -> int:
        """Kill the server of an endpoint pod, whose address refuses from now on. Returns the pid it had."""
        server = self._servers.pop(name)
        server.kill()
        server.wait()
        return server.pid

    def start_agent(self) -> None:
        """Start `userspace-proxy run` on the node and return once `is_serving`.

        Raises StartupError with the end of the agent's log if it stops or takes too long.
        """
        with self.agent_log.open("w") as log:
            self._agent = self.node.popen(*_USERSPACE_PROXY, *self.agent_command, stdout=log, stderr=log)
        agent = self._agent
        serving = wait_until(
            lambda: agent.poll() is not None or self._is_serving(), seconds=_AGENT_START_SECONDS
        )
        if agent.poll() is not None or not serving:
            raise StartupError(f"the agent did not come to serve. Its log ends:\n{self.agent_log_end()}")

    @property
    def agent_pid(self) -> int:
        """The agent's process."""
        assert self._agent is not None
        return self._agent.pid

    def stop_agent(self) -> int:
        """Ask the agent to stop, as an operator would, and return its exit status."""
        assert self._agent is not None
        self._agent.send_signal(signal.SIGTERM)
        return self._agent.wait(timeout=_AGENT_STOP_SECONDS)

    def clean_up(self) -> subprocess.CompletedProcess[str]:
        """Run `userspace-proxy cleanup` on the node."""
        return self.node.run(*_USERSPACE_PROXY, "cleanup", check=False)

    def agent_log_end(self, lines: int = 20) -> str:
        """The last lines that the agent has logged."""
        if not self.agent_log.exists():
            return ""
        return "\n".join(self.agent_log.read_text(errors="replace").splitlines()[-lines:])

    def close(self) -> None:
        """Kill everything and delete the namespaces and files."""
        self.network.close()
        shutil.rmtree(_FOLDER, ignore_errors=True)

    def _is_serving(self) -> bool:
        # Asked from the node itself, so that the counters of the pods' rules still stand at 0 afterwards.
        answer = self.node.run("curl", "-s", "--max-time", "1", "http://10.96.0.20/", check=False)
        return answer.stdout.strip() in ENDPOINTS


def wait_until(condition: Callable[[], bool], *, seconds: float) -> bool:
    """Ask again and again, for at most `seconds`, until `condition()` is true; False if it never was."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
