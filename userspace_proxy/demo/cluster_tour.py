"""The tour of a whole cluster: what a Service proxy does, shown on three nodes, and every claim checked.

Chapters are given in order, each on what those before have left: a Deployment `hello` and its Service.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from threading import Event
from typing import Final

from userspace_proxy.core.ejection import LONGEST_SECONDS
from userspace_proxy.demo import tour_actions
from userspace_proxy.demo.clients import Answers, Listing
from userspace_proxy.demo.cluster import wait_until
from userspace_proxy.demo.cluster_plan import DEFAULT_MANIFESTS
from userspace_proxy.demo.narration import Narration
from userspace_proxy.demo.temporary_cluster import TemporaryCluster
from userspace_proxy.demo.tour_scene import APP, Scene, counted, in_order

MANIFESTS: Final = (str(DEFAULT_MANIFESTS / "client.yaml"),)
"""What the cluster begins with."""

_REPLICAS: Final = 3
_MANY: Final = 60
_STEADY: Final = 200
_STEADY_PER_SECOND: Final = 100
_REFUSE: Final = "demo.userspace-proxy.io/refuse"
_BLACK_HOLE: Final = "demo.userspace-proxy.io/black-hole"
_PATIENCE_SECONDS: Final = 60.0
_CHAIN: Final = "KUBE-PORTALS-CONTAINER"


def show(demo: TemporaryCluster, narration: Narration) -> None:
    """All chapters, from the cluster that has just come up to its end."""
    status = demo.status()
    narration.text(
        f"It is up after {demo.up_seconds:.1f} s; "
        f"it takes {status.memory_bytes >> 20} MiB in {status.processes} processes.",
        *demo.problems,
    )
    narration.claim(
        "on each node an agent serves, as in production",
        expected=[node.name for node in status.nodes],
        seen=[node.name for node in status.nodes if node.agent_is_serving],
    )
    scene = Scene.of(demo, narration)
    make_a_service(scene)
    answer_in_turn(scene)
    count_in_rules(scene)
    bear_a_dead_pod(scene)
    bear_a_silent_pod(scene)
    serve_the_outside(scene)
    replace_every_pod(scene)
    outlive_the_agent(scene)
    leave_nothing(demo, narration)


def make_a_service(scene: Scene) -> None:
    """A Deployment and a Service come to be."""
    scene.narration.chapter(f"{_REPLICAS} pods that say who they are, and a Service in front of them")
    if scene.api.kubectl is None:
        scene.narration.text(
            "`kubectl` is not on this machine: what it would do is asked of the API directly."
        )
    scene.perform(tour_actions.create_deployment(APP, _REPLICAS))
    scene.perform(tour_actions.expose(APP, APP, "ClusterIP"))
    wait_until(lambda: sum(pod.is_ready for pod in scene.pods()) == _REPLICAS, seconds=_PATIENCE_SECONDS)
    pods = scene.pods()
    for pod in pods:
        scene.narration.text(f"{pod.name} is {pod.addresses[0]} on {pod.node}")
    scene.narration.claim(
        "each node has one of them",
        expected=sorted(node.name for node in scene.demo.status().nodes),
        seen=sorted(pod.node for pod in pods),
    )


def answer_in_turn(scene: Scene) -> None:
    """Round robin by the Service's name."""
    scene.narration.chapter("The Service answers by its name, its pods strictly in turn")
    _wait_for_all(scene)
    answers = scene.ask("client", f"http://{APP}", 2 * _REPLICAS, show=in_order)
    first = answers.names[:_REPLICAS]
    scene.narration.claim_that(
        "each pod once, and again in the same order",
        len(set(first)) == _REPLICAS and answers.names == first * 2,
        expected="three names, and the same three again",
        seen=answers.in_order or "no answer",
    )


def count_in_rules(scene: Scene) -> None:
    """The rule that captures, and its counter."""
    node = scene.home().name
    scene.narration.chapter(
        f"What leads there: a rule on the client's node, {node}, which counts connections"
    )
    before = _rule(scene, node).packets(f"default/{APP}")
    scene.ask("client", f"http://{APP}", _REPLICAS, show=in_order)
    listing = _rule(scene, node)
    scene.narration.command(node, listing.command, "\n".join(listing.lines))
    scene.narration.claim(
        f"{_REPLICAS} more connections, and its counter is up by {_REPLICAS}",
        expected=before + _REPLICAS,
        seen=listing.packets(f"default/{APP}"),
    )


def bear_a_dead_pod(scene: Scene) -> None:
    """A pod that refuses costs nobody a request."""
    pod = scene.pods()[0]
    victim = pod.name
    scene.narration.chapter(f"{victim} refuses connections, and nobody tells the proxy")
    scene.perform(tour_actions.annotate(victim, {_REFUSE: "true"}))
    wait_until(  # asked at its own address, which the proxy does not hear of
        lambda: not scene.stage_answers("client", f"http://{pod.addresses[0]}:8080", 1).names,
        seconds=_PATIENCE_SECONDS,
    )
    answers = scene.ask("client", f"http://{APP}", _MANY, show=counted)
    scene.narration.claim(f"no request of {_MANY} fails", expected=_MANY, seen=len(answers.names))
    scene.narration.claim_that(
        "the others answer",
        bool(answers.names) and victim not in answers.names,
        expected=f"anybody but {victim}",
        seen=answers.counted,
    )
    said = scene.shell(
        scene.home().name,
        f"userspace-proxy services {APP} | grep -E '^Connections|ENDPOINT  |{APP}|:8080 '",
    )
    scene.narration.claim_that(
        "the proxy has tried again elsewhere, and leaves that pod out for now",
        re.search(r"[1-9]\d* tried again", said) is not None and "ejected" in said,
        expected="some `tried again`, and an endpoint `ejected`",
        seen=said or "nothing",
    )
    scene.perform(tour_actions.annotate(victim, {_REFUSE: None}))
    _claim_return(scene, victim)


def bear_a_silent_pod(scene: Scene) -> None:
    """A pod that swallows packets costs its share of clients a quarter of a second."""
    silent = scene.pods()[1].name
    count = 4 * _REPLICAS
    scene.narration.chapter(f"{silent} falls silent: what is sent to it vanishes without an answer")
    scene.perform(tour_actions.annotate(silent, {_BLACK_HOLE: "true"}))
    answers = scene.ask("client", f"http://{APP}", count, seconds=2, show=counted)
    scene.narration.claim(
        f"each of {count} requests is answered within two seconds", expected=count, seen=len(answers.names)
    )
    scene.perform(tour_actions.annotate(silent, {_BLACK_HOLE: None}))
    _claim_return(scene, silent)


def serve_the_outside(scene: Scene) -> None:
    """A load balancer's address, from a host beside the cluster."""
    scene.narration.chapter("A Service of type LoadBalancer: an address for hosts outside of the cluster")
    name = f"{APP}-outside"
    scene.perform(tour_actions.expose(APP, name, "LoadBalancer"))
    address = ""

    def has_address() -> bool:
        nonlocal address
        balancer = scene.api.service(name).get("status", {}).get("loadBalancer", {})
        address = next((ingress["ip"] for ingress in balancer.get("ingress", ())), "")
        return bool(address)

    wait_until(has_address, seconds=_PATIENCE_SECONDS)
    url = f"http://{address}"
    wait_until(  # on each node: the host outside spreads its connections over all of them
        lambda: len(scene.stage_answers("outside", url, _MANY, seconds=2).names) == _MANY,
        seconds=_PATIENCE_SECONDS,
    )
    answers = scene.ask("outside", url, _MANY, show=counted)
    scene.narration.claim(f"each of {_MANY} requests is answered", expected=_MANY, seen=len(answers.names))
    scene.narration.claim(
        "by all pods, whichever node the request came to",
        expected={pod.name for pod in scene.pods()},
        seen=set(answers.names),
    )


def replace_every_pod(scene: Scene) -> None:
    """A rolling update, while a client goes on asking."""
    before = {pod.name for pod in scene.pods()}
    scene.narration.chapter("Every pod is replaced by a new one, while a client goes on asking")

    def are_new() -> bool:
        pods = scene.pods()
        return len(pods) == _REPLICAS and before.isdisjoint(pod.name for pod in pods)

    with ThreadPoolExecutor(max_workers=1) as aside, _set_in_the_end(Event()) as is_enough:
        steady = aside.submit(_ask_until, is_enough, scene)
        scene.perform(tour_actions.restart(APP, datetime.now(UTC).isoformat(timespec="seconds")))
        is_new = wait_until(are_new, seconds=_PATIENCE_SECONDS)
        is_enough.set()
        asked, answers = steady.result()
    scene.narration.command(
        "client", answers.command, f"{len(answers.names)} answers of {len(set(answers.names))} pods"
    )
    scene.narration.claim_that(
        "no request has failed meanwhile",
        len(answers.names) == asked,
        expected=asked,
        seen=f"{len(answers.names)}, and then {answers.complaints}",
    )
    scene.narration.claim("all pods are new ones", expected=True, seen=is_new)


def outlive_the_agent(scene: Scene) -> None:
    """The agent is killed; its worker goes on."""
    node = scene.home()
    scene.narration.chapter(f"The proxy's agent on {node.name} is killed")
    scene.shell(node.name, f"kill -9 {node.agent_pid}")
    answers = scene.ask("client", f"http://{APP}", _MANY, show=counted)
    scene.narration.claim(
        f"no request of {_MANY} fails: what carries connections is a process of its own",
        expected=_MANY,
        seen=len(answers.names),
    )

    def is_back() -> bool:
        now = scene.home()
        return now.agent_is_serving and now.agent_pid not in (None, node.agent_pid)

    scene.narration.claim(
        "a new agent takes over what runs", expected=True, seen=wait_until(is_back, seconds=_PATIENCE_SECONDS)
    )


def leave_nothing(demo: TemporaryCluster, narration: Narration) -> None:
    """The cluster is taken down."""
    narration.chapter("The cluster is taken down")
    demo.end()
    narration.claim("no process of it is left", expected=True, seen=demo.has_ended())
    narration.claim("and no file", expected=False, seen=demo.path.exists())


def _rule(scene: Scene, node: str) -> Listing:
    command = f"iptables -t nat -nxvL {_CHAIN} | grep -E 'pkts|/{APP} '"
    lines = scene.stage.run(node, command).output.splitlines()
    return Listing(command, tuple(re.sub(r" {2,}", "  ", line.strip()) for line in lines))


def _ask_until(is_enough: Event, scene: Scene) -> tuple[int, Answers]:
    """How many requests were made, at an even pace, and who answered; ends early where one fails."""
    asked, command = 0, ""
    names: tuple[str, ...] = ()
    while len(names) == asked and not (asked and is_enough.is_set()):
        answers = scene.stage_answers(
            "client", f"http://{APP}", _STEADY, seconds=20, flags=f"--rate {_STEADY_PER_SECOND}/s "
        )
        asked, names, command = asked + _STEADY, names + answers.names, answers.command
    return asked, Answers(command, names, answers.complaints)


@contextmanager
def _set_in_the_end(event: Event) -> Iterator[Event]:
    try:
        yield event
    finally:
        event.set()


def _wait_for_all(scene: Scene) -> bool:
    """Whether all pods of the Service answer, sooner or later."""

    def all_answer() -> bool:
        return len(set(scene.stage_answers("client", f"http://{APP}", _REPLICAS).names)) == _REPLICAS

    return wait_until(all_answer, seconds=_PATIENCE_SECONDS)


def _claim_return(scene: Scene, pod: str) -> None:
    def is_back() -> bool:
        return pod in scene.stage_answers("client", f"http://{APP}", _REPLICAS).names

    scene.narration.claim(
        "it is well again, is tried now and then, and so is back in its turn",
        expected=True,
        seen=wait_until(is_back, seconds=LONGEST_SECONDS + _PATIENCE_SECONDS),
    )
