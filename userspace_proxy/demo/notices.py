"""What an event says, and about which object: `event_recorder` writes it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reference:
    """Which object."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Notice:
    """What there is to say: a reason in CamelCase, and a sentence."""

    reason: str
    message: str
    is_warning: bool = False
