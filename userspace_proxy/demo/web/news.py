"""What of a change a reader, or a listener, is told in words; pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from userspace_proxy.demo.api_resources import JsonObject
from userspace_proxy.demo.web.view import View

MOST: Final = 20
"""At one time; who scales by a hundred does not want a hundred sentences."""


def news(before: View, after: View) -> list[str]:
    """Sentences about what is other in `after`, `MOST` at most."""
    said = [*_of_pods(before["pods"], after["pods"]), *_of_nodes(before["nodes"], after["nodes"])]
    for name, service in after["services"].items():
        old = before["services"].get(name)
        if old is not None:
            said += _of_endpoints(name, old["endpoints"], service["endpoints"])
    return said[:MOST]


def _of_pods(before: dict[str, JsonObject], after: dict[str, JsonObject]) -> Iterator[str]:
    for key, pod in after.items():
        old, name = before.get(key), pod["name"]
        if old is None:
            yield f"{name} is new" + (f" on {pod['node']}" if pod["node"] else "")
            continue
        if pod["restarts"] > old["restarts"]:
            yield f"{name} was started again, the {_ordinal(pod['restarts'])} time"
        if pod["isBlackHoled"] != old["isBlackHoled"]:
            yield f"{name} answers nobody" if pod["isBlackHoled"] else f"{name} may be reached again"
        if pod["state"] != old["state"]:
            yield f"{name} is {pod['state'].replace('-', ' ')}" + (f": {pod['why']}" if pod["why"] else "")
    for key, pod in before.items():
        if key not in after:
            yield f"{pod['name']} is gone"


def _of_nodes(before: dict[str, JsonObject], after: dict[str, JsonObject]) -> Iterator[str]:
    for name, node in after.items():
        old = before.get(name)
        if old is not None and old["agentAnswers"] != node["agentAnswers"]:
            yield f"the agent of {name} " + ("answers again" if node["agentAnswers"] else "does not answer")


def _of_endpoints(name: str, before: dict[str, JsonObject], after: dict[str, JsonObject]) -> Iterator[str]:
    for target, endpoint in after.items():
        old = before.get(target)
        if old is None or old["state"] == endpoint["state"]:
            continue
        pod = target.rpartition("/")[2]
        if endpoint["state"] == "ejected":
            yield f"{name} leaves out {pod}: {endpoint['reason']}"
        elif old["state"] == "ejected" and endpoint["state"] == "used":
            yield f"{name} uses {pod} again"


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
