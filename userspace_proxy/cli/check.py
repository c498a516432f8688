"""`userspace-proxy check`: whether this node is fit to be served, before anything is started."""

from __future__ import annotations

import json
import sys
from typing import Any, Final

import click

from userspace_proxy.cli.table_options import GoFlagsCommand, load, table_options
from userspace_proxy.core.node_checks import Finding, Level
from userspace_proxy.errors import UsageError

_DEFAULT_SERVICE_CIDR: Final = "10.96.0.0/12"
_COLOURS: Final = {Level.OK: "green", Level.NOTE: "blue", Level.WARNING: "yellow", Level.ERROR: "red"}


@click.command(cls=GoFlagsCommand, epilog="Beside these it takes what `run` takes.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option(
    "--service-cluster-ip-range",
    metavar="CIDRS",
    default=_DEFAULT_SERVICE_CIDR,
    show_default=True,
    help="The clusterIPs, as the API server was told.",
)
@table_options
def check(output: str, service_cluster_ip_range: str, **given: Any) -> None:
    """Look whether this node is fit to be served.

    Changes nothing. Says what it looked at, what it found, and what to do. Ends with 1 if something is wrong
    that keeps the agent from serving; a warning is no reason for that.
    """
    from userspace_proxy.agent.node_facts import read_node_facts
    from userspace_proxy.configuration.values import read_cidrs
    from userspace_proxy.core.node_checks import findings, worst

    try:
        service_cidrs = read_cidrs(service_cluster_ip_range)
    except ValueError as error:
        raise UsageError(f"--service-cluster-ip-range: {error}") from error
    found = list(findings(read_node_facts(load(given).configuration, service_cidrs)))
    click.echo(_as_json(found) if output == "json" else _as_text(found))
    sys.exit(1 if worst(found) is Level.ERROR else 0)


def _as_json(found: list[Finding]) -> str:
    return json.dumps(
        [
            {"check": each.check, "level": each.level.value, "found": each.found, "advice": each.advice}
            for each in found
        ],
        indent=2,
    )


def _as_text(found: list[Finding]) -> str:
    width = max(len(each.check) for each in found)
    lines = []
    for each in found:
        level = click.style(f"{each.level.value:7}", fg=_COLOURS[each.level])
        lines.append(f"{level}  {each.check:{width}}  {each.found}")
        if each.advice:
            lines.append(f"{'':7}  {'':{width}}  -> {each.advice}")
    return "\n".join(lines)
