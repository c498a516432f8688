"""What a Service's annotations say about how it is to be served, where the API has no field for it.

All of them begin with `userspace-proxy.io/`. Each is a field of `ServiceSettings` and a line in
`_ANNOTATIONS`: its name, how its text is read, and what it may be. What an annotation does not say is as the
agent's flags have it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from userspace_proxy.core.admission import UNLIMITED
from userspace_proxy.core.balancing import Balancing
from userspace_proxy.core.decoding import describe
from userspace_proxy.core.durations import parse_duration

PREFIX: Final = "userspace-proxy.io/"
REMOVED_ENDPOINTS: Final = "keep, reset, or drain= and a duration of at most 24h such as drain=30s"
LIMIT: Final = "a number from 1 to 999999999, or none"
BALANCING: Final = ", ".join(balancing.value for balancing in Balancing)
WORKERS: Final = "workers"
MAX_WORKERS: Final = 256
_FIELD_OF_OURS: Final = f"metadata.annotations['{PREFIX}"
_MAX_DRAIN_SECONDS: Final = 86400
_NUMBER: Final = re.compile(r"[1-9]\d{0,8}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """How a Service is served, as far as its annotations and the agent's flags decide that.

    `drain_removed_seconds` is how long established connections to an endpoint that was removed may go on;
    None: as long as they last. `max_*` limit each of its ports, in all and for each client; None: what the
    worker's room allows. `workers` are to share each of its TCP ports, and each chooses endpoints by
    `balancing` for itself. With `sends_proxy_protocol` the endpoints of TCP ports are told of the client.
    """

    drain_removed_seconds: float | None = None
    max_connections: int | None = None
    max_connections_per_client: int | None = None
    max_udp_flows: int | None = None
    max_udp_flows_per_client: int | None = None
    workers: int = 1
    balancing: Balancing = Balancing.ROUND_ROBIN
    sends_proxy_protocol: bool = False


DEFAULT_SETTINGS: Final = ServiceSettings()


def read_removed_endpoints(text: str) -> float | None:
    """`ServiceSettings.drain_removed_seconds` of "keep", "drain=30s" or "reset". Raises `ValueError`."""
    if text == "keep":
        return None
    if text == "reset":
        return 0.0
    word, _, duration = text.partition("=")
    if word != "drain":
        raise ValueError(text)
    seconds = parse_duration(duration)
    if seconds > _MAX_DRAIN_SECONDS:
        raise ValueError(text)
    return seconds


def read_limit(text: str) -> int:
    """A `max_*` of `ServiceSettings`. Raises `ValueError`."""
    if text == "none":
        return UNLIMITED
    if not _NUMBER.fullmatch(text):
        raise ValueError(text)
    return int(text)


def read_workers(text: str) -> int:
    """`ServiceSettings.workers`. Raises `ValueError`."""
    if not _NUMBER.fullmatch(text) or int(text) > MAX_WORKERS:
        raise ValueError(text)
    return int(text)


def read_proxy_protocol(text: str) -> bool:
    """`ServiceSettings.sends_proxy_protocol`. Raises `ValueError`."""
    if text not in ("v2", "none"):
        raise ValueError(text)
    return text == "v2"


@dataclass(frozen=True, slots=True)
class _Annotation:
    setting: str
    read: Callable[[str], Any]
    allowed: str


_ANNOTATIONS: Final = {
    "removed-endpoints": _Annotation("drain_removed_seconds", read_removed_endpoints, REMOVED_ENDPOINTS),
    "max-connections": _Annotation("max_connections", read_limit, LIMIT),
    "max-connections-per-client": _Annotation("max_connections_per_client", read_limit, LIMIT),
    "max-udp-flows": _Annotation("max_udp_flows", read_limit, LIMIT),
    "max-udp-flows-per-client": _Annotation("max_udp_flows_per_client", read_limit, LIMIT),
    "balancing": _Annotation("balancing", Balancing, f"one of {BALANCING}"),
    "proxy-protocol": _Annotation("sends_proxy_protocol", read_proxy_protocol, "v2 or none"),
    WORKERS: _Annotation("workers", read_workers, f"a number from 1 to {MAX_WORKERS}"),
}

NAMES: Final = tuple(_ANNOTATIONS)
"""Without the prefix."""


def read_settings(
    annotations: Mapping[str, str], defaults: ServiceSettings, complain: Callable[[str, str], None]
) -> ServiceSettings:
    """`defaults`, and what `annotations` say differently.

    `complain` is told the field and the reason of what cannot be used: a value that is none, or an annotation
    of ours that does not exist, which is a misspelled one most likely.
    """
    settings = defaults
    for key in sorted(key for key in annotations if key.startswith(PREFIX)):
        text = annotations[key]
        annotation = _ANNOTATIONS.get(key.removeprefix(PREFIX))
        if annotation is None:
            complain(field_of(key), f"is no annotation of ours; these are {', '.join(_ANNOTATIONS)}")
            continue
        try:
            settings = replace(settings, **{annotation.setting: annotation.read(text)})
        except ValueError:
            complain(field_of(key), f"{describe(text)} is not {annotation.allowed}; the default is used")
    return settings


def is_of_ours(field: str) -> bool:
    """Whether a problem's field is one of our annotations."""
    return field.startswith(_FIELD_OF_OURS)


def field_of(key: str) -> str:
    """Where an annotation stands in its object, for people."""
    return f"metadata.annotations[{describe(key)}]"
