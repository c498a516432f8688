"""The tour: what a Service proxy does, shown with real clients, and every claim checked.

Each chapter leaves the cluster as it found it, with all endpoints alive and in the manifests.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from userspace_proxy.core.ejection import LONGEST_SECONDS
from userspace_proxy.demo.clients import Answers, curl, dig, is_answering, list_chain, saved_rules
from userspace_proxy.demo.cluster import ENDPOINTS, HTTP_PORT, Cluster, wait_until
from userspace_proxy.demo.narration import Narration

WEB: Final = "10.96.0.10"
STICKY: Final = "10.96.0.20"
NAMES: Final = "10.96.0.53"

_ROUNDS: Final = 3
_MANY: Final = 300
_EFFECTIVE_SECONDS: Final = 1.0
_PATIENCE_SECONDS: Final = 5.0


def show(cluster: Cluster, narration: Narration) -> None:
    """All chapters, from the agent's start to its cleanup."""
    rules_before = saved_rules(cluster.node)
    start(cluster, narration)
    answer_in_turn(cluster, narration)
    count_in_rules(cluster, narration)
    bear_a_killed_endpoint(cluster, narration)
    bear_a_silent_endpoint(cluster, narration)
    keep_clients_at_their_endpoint(cluster, narration)
    carry_udp(cluster, narration)
    follow_the_manifests(cluster, narration)
    clean_up(cluster, narration, rules_before)


def start(cluster: Cluster, narration: Narration) -> None:
    """The agent comes up."""
    narration.chapter("A node with three endpoint pods and a client pod. The proxy starts:")
    narration.command("node", f"userspace-proxy {' '.join(cluster.agent_command)} &")
    began = time.monotonic()
    cluster.start_agent()
    narration.text(f"serving after {time.monotonic() - began:.1f} s")


def answer_in_turn(cluster: Cluster, narration: Narration) -> None:
    """Round robin, for pods and for the node itself."""
    narration.chapter("The clusterIP answers, its endpoints in turn")
    _claim_turns(narration, "client", curl(cluster.client, WEB, _ROUNDS * len(ENDPOINTS)))
    _claim_turns(narration, "node", curl(cluster.node, WEB, len(ENDPOINTS)))
    argv = ("curl", "-sS", f"http://{WEB}/client")
    seen = cluster.client.run(*argv).stdout
    narration.command("client", " ".join(argv), seen)
    own = cluster.node.run("ip", "-brief", "-4", "address").stdout
    narration.claim_that(
        "an endpoint sees the node's address, not the client's: the one difference from kube-proxy",
        f" {seen.split()[0]}/" in own,
        expected=own,
        seen=seen,
    )


def count_in_rules(cluster: Cluster, narration: Narration) -> None:
    """The rules that capture, and their counters."""
    narration.chapter("What leads there: a rule for each Service port, with a counter")
    before = list_chain(cluster.node, "KUBE-PORTALS-CONTAINER").packets("default/web:http")
    asked = curl(cluster.client, WEB, len(ENDPOINTS))
    narration.command("client", asked.command, asked.in_order)
    listing = list_chain(cluster.node, "KUBE-PORTALS-CONTAINER")
    narration.command("node", listing.command, "\n".join(listing.lines))
    narration.claim(
        f"{len(ENDPOINTS)} more connections, and the counter of default/web:http is up by {len(ENDPOINTS)}",
        expected=before + len(ENDPOINTS),
        seen=listing.packets("default/web:http"),
    )


def bear_a_killed_endpoint(cluster: Cluster, narration: Narration) -> None:
    """An endpoint that refuses costs nobody a connection."""
    victim = ENDPOINTS[1]
    narration.chapter(f"{victim} is killed, and nobody has told the proxy: its endpoints still list it")
    narration.command(victim, f"kill -9 {cluster.kill_endpoint(victim)}")
    answers = curl(cluster.client, WEB, _MANY)
    narration.command("client", answers.command, answers.counted)
    narration.claim(f"no request of {_MANY} fails", expected=_MANY, seen=len(answers.names))
    narration.claim("the others answer", expected=set(ENDPOINTS) - {victim}, seen=set(answers.names))
    cluster.start_endpoint(victim)
    narration.text(f"{victim} is started again.")
    _claim_return(cluster, narration, victim)
    _claim_turns(narration, "client", curl(cluster.client, WEB, len(ENDPOINTS)))


def bear_a_silent_endpoint(cluster: Cluster, narration: Narration) -> None:
    """An endpoint that swallows packets costs its share of clients a quarter of a second."""
    silent = ENDPOINTS[2]
    rule = f"INPUT -p tcp --dport {HTTP_PORT} -j DROP"
    count = 4 * len(ENDPOINTS)
    narration.chapter(f"{silent} falls silent: packets to it vanish without an answer")
    cluster.pod(silent).run("iptables", "-A", *rule.split())
    narration.command(silent, f"iptables -A {rule}")
    answers = curl(cluster.client, WEB, count, seconds=1)
    narration.command("client", answers.command, answers.counted)
    narration.claim(
        f"each of {count} requests is answered within a second", expected=count, seen=len(answers.names)
    )
    narration.claim("the others answer", expected=set(ENDPOINTS) - {silent}, seen=set(answers.names))
    cluster.pod(silent).run("iptables", "-D", *rule.split())
    narration.command(silent, f"iptables -D {rule}")
    _claim_return(cluster, narration, silent)


def keep_clients_at_their_endpoint(cluster: Cluster, narration: Narration) -> None:
    """ClientIP affinity, and what becomes of it when the endpoint dies."""
    narration.chapter("sessionAffinity: ClientIP keeps a client at one endpoint")
    count = _ROUNDS * len(ENDPOINTS)
    answers = curl(cluster.client, STICKY, count)
    narration.command("client", answers.command, answers.counted)
    narration.claim_that(
        "one endpoint answers every time",
        len(answers.names) == count and len(set(answers.names)) == 1,
        expected=f"one name, {count} times",
        seen=answers.counted,
    )
    if not answers.names:
        return
    home = answers.names[0]
    narration.command(home, f"kill -9 {cluster.kill_endpoint(home)}")
    answers = curl(cluster.client, STICKY, count)
    narration.command("client", answers.command, answers.counted)
    narration.claim_that(
        "no request fails, and the client has moved to one other endpoint",
        len(answers.names) == count and len(set(answers.names)) == 1 and home not in answers.names,
        expected=f"one name other than {home}, {count} times",
        seen=answers.counted,
    )
    cluster.start_endpoint(home)


def carry_udp(cluster: Cluster, narration: Narration) -> None:
    """UDP, with DNS as everybody uses it."""
    narration.chapter("UDP: each query is a flow of its own; dig takes answers from the clusterIP alone")
    _claim_turns(narration, "client", dig(cluster.client, NAMES, 2 * len(ENDPOINTS)))
    _claim_turns(narration, "node", dig(cluster.node, NAMES, len(ENDPOINTS)))


def follow_the_manifests(cluster: Cluster, narration: Narration) -> None:
    """Edits take effect: an endpoint leaves, a port changes."""
    narration.chapter("The manifests change: an endpoint leaves")
    leaving = ENDPOINTS[2]
    manifest = cluster.manifests / "web.yaml"
    original = manifest.read_text()
    rules = saved_rules(cluster.node)
    counted = list_chain(cluster.node, "KUBE-PORTALS-CONTAINER").packets("default/web:http")
    _edit(cluster, narration, manifest, f"/{cluster.pod(leaving).address}/,+1d")
    took = _seconds_until_left(cluster, leaving)
    narration.claim_that(
        f"{leaving} is out of the turn within a second",
        took <= _EFFECTIVE_SECONDS,
        expected=f"at most {_EFFECTIVE_SECONDS} s",
        seen=f"{took:.2f} s",
    )
    answers = curl(cluster.client, WEB, _MANY)
    narration.command("client", answers.command, answers.counted)
    narration.claim("no request fails", expected=_MANY, seen=len(answers.names))
    narration.claim("it gets nothing more", expected=set(ENDPOINTS) - {leaving}, seen=set(answers.names))
    # A rule that is written again, even with the same words, counts from 0.
    narration.claim("not one rule was changed for it", expected=rules, seen=saved_rules(cluster.node))
    counts = list_chain(cluster.node, "KUBE-PORTALS-CONTAINER").packets("default/web:http")
    narration.claim_that(
        "nor written again: the counter of default/web:http goes on",
        counts >= counted + _MANY,
        expected=f"at least {counted + _MANY}",
        seen=counts,
    )

    narration.chapter("The manifests change: the Service moves to port 8000")
    _edit(cluster, narration, manifest, "s/ port: 80$/ port: 8000/")
    began = time.monotonic()
    wait_until(lambda: is_answering(cluster.client, f"{WEB}:8000", seconds=0.2), seconds=_PATIENCE_SECONDS)
    took = time.monotonic() - began
    answers = curl(cluster.client, f"{WEB}:8000", 2 * (len(ENDPOINTS) - 1))
    narration.command("client", answers.command, answers.in_order)
    narration.claim_that(
        "the new port answers within a second",
        len(answers.names) == 2 * (len(ENDPOINTS) - 1) and took <= _EFFECTIVE_SECONDS,
        expected=f"{2 * (len(ENDPOINTS) - 1)} answers, the first within {_EFFECTIVE_SECONDS} s",
        seen=f"{answers.counted}, the first after {took:.2f} s",
    )
    narration.claim(
        "the old port does not", expected=False, seen=is_answering(cluster.client, WEB, seconds=1)
    )
    manifest.write_text(original)


def clean_up(cluster: Cluster, narration: Narration, rules_before: list[str]) -> None:
    """The agent stops and takes everything of its own away."""
    narration.chapter("The proxy stops, and cleans up")
    narration.command("node", f"kill {cluster.agent_pid}")
    narration.claim("the agent ends as asked, with exit status 0", expected=0, seen=cluster.stop_agent())
    cleanup = cluster.clean_up()
    narration.command("node", "userspace-proxy cleanup", cleanup.stdout + cleanup.stderr)
    narration.claim("cleanup succeeds", expected=0, seen=cleanup.returncode)
    narration.claim(
        "the node's rules and chains are those from before",
        expected=rules_before,
        seen=saved_rules(cluster.node),
    )
    wait_until(lambda: not cluster.node.pids(), seconds=_PATIENCE_SECONDS)
    narration.claim("no process is left", expected=[], seen=_command_lines(cluster.node.pids()))


def _claim_return(cluster: Cluster, narration: Narration, endpoint: str) -> None:
    is_back = wait_until(
        lambda: endpoint in curl(cluster.client, WEB, len(ENDPOINTS)).names, seconds=LONGEST_SECONDS
    )
    narration.claim("a request tries it now and then, and so it is back", expected=True, seen=is_back)


def _claim_turns(narration: Narration, where: str, answers: Answers) -> None:
    narration.command(where, answers.command, answers.in_order)
    first = answers.names[: len(ENDPOINTS)]
    rounds, rest = divmod(len(answers.names), len(ENDPOINTS))
    narration.claim_that(
        "strictly in turn",
        sorted(first) == list(ENDPOINTS) and answers.names == first * rounds and rest == 0,
        expected=f"{', '.join(ENDPOINTS)} in any order, and the same order again",
        seen=answers.in_order or "no answer",
    )


def _edit(cluster: Cluster, narration: Narration, manifest: Path, script: str) -> None:
    cluster.node.run("sed", "-i", script, str(manifest))
    narration.command("node", f"sed -i '{script}' {manifest}")


def _seconds_until_left(cluster: Cluster, leaving: str) -> float:
    began = time.monotonic()
    wait_until(
        lambda: leaving not in curl(cluster.client, WEB, len(ENDPOINTS)).names, seconds=_PATIENCE_SECONDS
    )
    return time.monotonic() - began


def _command_lines(pids: list[int]) -> list[str]:
    paths = [Path(f"/proc/{pid}/cmdline") for pid in pids]
    return [path.read_text().replace("\0", " ") for path in paths if path.exists()]
