"""Where the tour plays: a cluster with a Deployment, how it is asked, and how that is told of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from userspace_proxy.demo.clients import Answers
from userspace_proxy.demo.control import ClusterStatus, NodeStatus, PodStatus
from userspace_proxy.demo.lessons.stage import Stage
from userspace_proxy.demo.narration import Narration
from userspace_proxy.demo.temporary_cluster import TemporaryCluster
from userspace_proxy.demo.tour_actions import Action, Api

APP: Final = "hello"
"""The Deployment, and the Service in front of it."""


@dataclass(frozen=True, slots=True)
class Scene:
    """The cluster that is shown, and who tells of it."""

    demo: TemporaryCluster
    stage: Stage
    api: Api
    narration: Narration

    @classmethod
    def of(cls, demo: TemporaryCluster, narration: Narration) -> Scene:
        """The scene on a cluster that has just come up."""
        kubeconfig = Path(demo.status().kubeconfig)
        return cls(
            demo, Stage(kubeconfig), Api(kubeconfig, kubectl_cache=demo.path.parent / "kubectl"), narration
        )

    def perform(self, action: Action) -> None:
        """Change an object, and show how."""
        done = self.api.perform(action)
        self.narration.command("", done.command, done.said)

    def shell(self, place: str, command: str) -> str:
        """Run a line of shell there, and show it with what it prints."""
        outcome = self.stage.run(place, command)
        self.narration.command(place, command, outcome.output)
        return outcome.output

    def ask(
        self, place: str, url: str, count: int, *, seconds: int = 5, show: Callable[[Answers], str]
    ) -> Answers:
        """Ask `count` times, each time over a new connection; stops at the first request that fails."""
        answers = self.stage_answers(place, url, count, seconds=seconds)
        self.narration.command(place, answers.command, show(answers))
        return answers

    def stage_answers(
        self, place: str, url: str, count: int, *, seconds: int = 5, flags: str = ""
    ) -> Answers:
        """Who answers, without a word."""
        flags += f"--fail-early --max-time {seconds} -H 'Connection: close'"
        command = f"curl -sS {flags} '{url}/name?[1-{count}]'"
        lines = self.stage.run(place, command).output.splitlines()
        names = tuple(line for line in lines if " " not in line)
        return Answers(command, names, "; ".join(line for line in lines if " " in line))

    def pods(self) -> list[PodStatus]:
        """The pods of `hello` that are there to stay, by name."""
        pods = [pod for pod in self.demo.status().pods if pod.name.startswith(f"{APP}-")]
        return sorted((pod for pod in pods if pod.state == "Running"), key=lambda pod: pod.name)

    def home(self) -> NodeStatus:
        """The node on which the client is."""
        return home_of(self.demo.status())


def home_of(status: ClusterStatus) -> NodeStatus:
    """The node on which the pod `client` is."""
    [client] = [pod for pod in status.pods if pod.name == "client"]
    [node] = [node for node in status.nodes if node.name == client.node]
    return node


def in_order(answers: Answers) -> str:
    """Names, one a line."""
    return "\n".join(answers.names)


def counted(answers: Answers) -> str:
    """How often each name answered."""
    return answers.counted
