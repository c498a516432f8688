"""What is wrong with an object, said so that its author can mend it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One bad field of one object. What depends on the field is skipped; everything else works.

    `origin` is a file's path or "API server"; `field` a path such as `spec.ports[0].port` ("" where the
    problem is not one field's); `reason` a clause that names the value: "70000 is not a port (1-65535)".
    """

    origin: str
    kind: str
    namespace: str
    name: str
    field: str
    reason: str

    def __str__(self) -> str:
        parts = [self.origin]
        if self.kind:
            name = f"{self.namespace}/{self.name}" if self.namespace else self.name
            parts.append(f"{self.kind} {name}".rstrip())
        if self.field:
            parts.append(self.field)
        parts.append(self.reason)
        return ": ".join(part for part in parts if part)
