"""A rule of ours, as it is installed."""

from __future__ import annotations

from userspace_proxy.core.answers.shape import Parameters, Shape


class RulesQuestion(Parameters, frozen=True):
    """All rules of ours, or those of the Service ports that `service` names (see `named_services`)."""

    service: str = ""


class RuleAnswer(Shape, frozen=True):
    """`rule` is what follows `-A CHAIN` in iptables-save's output; the counters are the kernel's.

    `service_port` is the one that it captures for, else None. `reason` is why it is there.
    """

    family: str
    table: str
    chain: str
    rule: str
    packets: int
    bytes: int
    service_port: str | None
    reason: str
