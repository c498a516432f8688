"""`userspace-proxy demo …`: a cluster to look at, in namespaces of its own."""

from __future__ import annotations

from pathlib import Path

import click


@click.group()
def demo() -> None:
    """A small cluster to look at: real agents, pods and an API server, in namespaces of this machine.

    Nothing of the machine's own network is touched, and nothing is left when it is down.
    """


@demo.command()
@click.option("--nodes", type=int, metavar="N", help="How many nodes there are.  [default: 3]")
@click.option("--file", "file", type=Path, metavar="FILE", help="What the cluster is to be: docs/demo.md.")
@click.option("--empty", is_flag=True, help="Apply no manifests: begin with nodes and nothing on them.")
@click.option("--fresh", is_flag=True, help="Forget the cluster that `down --keep` kept.")
@click.option("--foreground", is_flag=True, help="Stay; Ctrl-C takes the cluster down.")
@click.option("--web", is_flag=True, help="Have a page to look at, on this machine's loopback.")
@click.option(
    "--apiserver",
    type=click.Choice(["embedded", "kube-apiserver"]),
    help="Which API server it has.  [default: embedded]",
)
def up(
    nodes: int | None,
    file: Path | None,
    *,
    empty: bool,
    fresh: bool,
    foreground: bool,
    web: bool,
    apiserver: str | None,
) -> None:
    """Start the cluster, and say what can be done with it.

    It runs on when this command has ended, until `userspace-proxy demo down`.
    """
    from userspace_proxy.demo.commands import Wishes, bring_up

    bring_up(Wishes(nodes, file, empty, fresh, foreground, web, apiserver))


@demo.command()
@click.option("--keep", is_flag=True, help="Keep its objects: the next `up` has the same cluster again.")
def down(*, keep: bool) -> None:
    """End the cluster, and remove all that it has made."""
    from userspace_proxy.demo.commands import take_down

    take_down(keep=keep)


@demo.command()
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="How to say it.")
def status(output: str) -> None:
    """Say how the cluster does: nodes, agents, pods, memory, and where its kubeconfig is."""
    from userspace_proxy.demo.commands import show_status

    show_status(as_json=output == "json")


@demo.command()
@click.argument("place")
def shell(place: str) -> None:
    """Open a shell on a node, in a pod, or `outside`, the host beside the cluster.

    PLACE is a node's name, a pod's (`namespace/name`, or its name alone in `default`), or `outside`.
    """
    from userspace_proxy.demo.commands import open_shell

    open_shell(place)


@demo.command("exec", context_settings={"ignore_unknown_options": True})
@click.argument("place")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(place: str, command: tuple[str, ...]) -> None:
    """Run a command there, and end with its exit status: demo exec client -- curl http://web

    PLACE is what `demo shell` takes.
    """
    from userspace_proxy.demo import commands

    commands.execute(place, command)


@demo.command()
@click.argument("pod")
@click.option("-f", "--follow", is_flag=True, help="Go on until the pod ends.")
def logs(pod: str, *, follow: bool) -> None:
    """Show what a pod, or a node's agent, has written.

    POD is `namespace/name`, or the name alone in `default`; or a node's name.
    """
    from userspace_proxy.demo.commands import show_logs

    show_logs(pod, follow=follow)


@demo.command()
@click.argument("number", type=int, required=False)
@click.option("--no-pauses", is_flag=True, help="Do not wait for Enter.")
def lesson(number: int | None, *, no_pauses: bool) -> None:
    """Give a lesson about Services on the running cluster, or list the lessons.

    Its commands are really run, and what they make is taken away in the end. Ends with 1 if something did not
    come out as the text has it.
    """
    from userspace_proxy.demo.lessons.giving import give, list_lessons

    if number is None:
        list_lessons()
    else:
        give(number, pauses=not no_pauses)


@demo.command()
@click.argument("ways", nargs=-1, required=True, metavar="NAME=HOST:PORT...")
@click.option("--seconds", type=click.FloatRange(1, 60), default=4.0, help="How long in all.  [default: 4]")
@click.option(
    "-o", "--output", type=click.Choice(["text", "json", "svg"]), default="text", help="How to say it."
)
def measure(ways: tuple[str, ...], seconds: float, output: str) -> None:
    """Measure, within a pod, what it costs to reach a web server in several ways.

    It asks a little, each way in turn, and says how long that took, and how much CPU time it cost the client,
    the node's proxy and the pod: demo exec client -- userspace-proxy demo measure service=web:80
    """
    from userspace_proxy.demo.costs.reporting import report

    report(ways, seconds, output)
