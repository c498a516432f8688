"""Which listeners can go: those to which neither the plan nor a rule leads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from userspace_proxy.core.proxy_plan import ListenerName, PlannedServicePort
from userspace_proxy.core.service_port import ServicePortName


@dataclass(frozen=True, slots=True)
class Retirement:
    """What to do: tell the workers of `reduced` and `removed`, and when that is in effect close `closing`.

    `reduced` goes on, with these listeners alone; nobody serves `removed` any more.
    """

    reduced: Mapping[ServicePortName, tuple[ListenerName, ...]]
    removed: tuple[ServicePortName, ...]
    closing: tuple[ListenerName, ...]


def is_wanted(name: ListenerName, planned: Mapping[ServicePortName, PlannedServicePort]) -> bool:
    """Whether the plan has that class of traffic."""
    service_port = planned.get(name.service_port)
    return service_port is not None and any(policy is name.policy for policy, _ in service_port.selections)


def plan_retirement(
    listeners: Mapping[ServicePortName, Sequence[ListenerName]],
    planned: Mapping[ServicePortName, PlannedServicePort],
    is_led_to: Callable[[ListenerName], bool],
) -> Retirement:
    """Decide about all that are open. `is_led_to` says whether a rule leads to a listener, or may.

    A Service port that is gone from the plan goes as a whole, when no rule leads to any of its listeners:
    until then there is no state of it that its worker could be told.
    """
    reduced: dict[ServicePortName, tuple[ListenerName, ...]] = {}
    removed: list[ServicePortName] = []
    closing: list[ListenerName] = []
    for service_port, names in listeners.items():
        idle = [name for name in names if not is_wanted(name, planned) and not is_led_to(name)]
        if not idle:
            continue
        if service_port in planned:
            reduced[service_port] = tuple(name for name in names if name not in idle)
        elif len(idle) == len(names):
            removed.append(service_port)
        else:
            continue
        closing += idle
    return Retirement(reduced, tuple(removed), tuple(closing))
