"""What is wrong with an object, said so that its author can mend it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from userspace_proxy.core.event_reasons import INVALID_FIELD, Reason


@dataclass(frozen=True, slots=True)
class Problem:
    """One bad field of one object. What depends on the field is skipped; everything else works.

    `origin` is a file's path or "API server"; `field` a path such as `spec.ports[0].port` ("" where the
    problem is not one field's); `reason` a clause that names the value: "70000 is not a port (1-65535)".
    `event` is what an Event about it is called.
    """

    origin: str
    kind: str
    namespace: str
    name: str
    field: str
    reason: str
    event: Reason = dataclasses.field(default=INVALID_FIELD, compare=False)

    def __str__(self) -> str:
        parts = [self.origin]
        if self.kind:
            name = f"{self.namespace}/{self.name}" if self.namespace else self.name
            parts.append(f"{self.kind} {name}".rstrip())
        parts.append(self.clause)
        return ": ".join(part for part in parts if part)

    @property
    def clause(self) -> str:
        """Without whose it is."""
        return f"{self.field}: {self.reason}" if self.field else self.reason
