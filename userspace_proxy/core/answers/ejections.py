"""What `eject` and `uneject` answer: an item for each Service port whose endpoint it is."""

from __future__ import annotations

from userspace_proxy.core.answers.shape import Parameters, Shape


class EjectParameters(Parameters, frozen=True):
    """`endpoint` is an IP address, with a port or for all ports. `service` names it or one of its ports
    (`core.live_traffic.is_of`), or is "" for all. `seconds` None: until `uneject`.
    """

    endpoint: str
    service: str = ""
    seconds: float | None = None
    force: bool = False


class UnejectParameters(Parameters, frozen=True):
    """Likewise."""

    endpoint: str
    service: str = ""


class Ejection(Shape, frozen=True):
    """An endpoint of a Service port that is taken out for so many seconds (null: until `uneject`), or, of
    `uneject`, that is so no more.
    """

    service_port: str
    protocol: str
    family: str
    endpoint: str
    seconds: float | None = None
