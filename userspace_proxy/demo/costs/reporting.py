"""`userspace-proxy demo measure`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from userspace_proxy.demo.costs.figures import Report
from userspace_proxy.demo.costs.measuring import Address, measure, roles_in_the_cluster
from userspace_proxy.demo.costs.picture import picture_of
from userspace_proxy.demo.costs.table import table_of
from userspace_proxy.errors import UsageError

_LARGEST_PORT: Final = 65535


def report(ways: Sequence[str], seconds: float, output: str) -> None:
    """Measure, and print it as `text`, `json` or `svg`. Raises `UsageError` and `StartupError`."""
    addresses = dict(map(way_of, ways))
    if len(addresses) < len(ways):
        raise UsageError("each way needs a name of its own")
    said = measure(addresses, seconds, roles_in_the_cluster())
    print(_said(said, output), end="" if output == "svg" else "\n")


def _said(said: Report, output: str) -> str:
    match output:
        case "json":
            return msgspec.json.format(msgspec.json.encode(said)).decode()
        case "svg":
            return picture_of(said)
        case _:
            return table_of(said)


def way_of(text: str) -> tuple[str, Address]:
    """`direct=10.244.1.2:8080`, read. Raises `UsageError`."""
    name, _, address = text.partition("=")
    host, _, port = address.rpartition(":")
    if not (name and host and port.isdecimal() and 0 < int(port) <= _LARGEST_PORT):
        raise UsageError(f"{text!r} is no way to a server: it is to be like direct=10.244.1.2:8080")
    return name, (host.strip("[]"), int(port))
