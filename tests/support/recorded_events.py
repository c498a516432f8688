from __future__ import annotations

from userspace_proxy.core.cluster_state import ObjectId
from userspace_proxy.core.event_reasons import Reason


class RecordedEvents:
    """A `RecordEvent` that remembers: `Reason` of `object` (this node: "")."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.notes: list[str] = []

    def __call__(self, reason: Reason, note: str, about: ObjectId | None = None) -> None:
        self.said.append(f"{reason.name} of {about}" if about is not None else reason.name)
        self.notes.append(note)
