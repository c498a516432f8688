"""Objects that are of their type and make no sense: each is refused in words, or kept and shown."""

from __future__ import annotations

import random
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest

from userspace_proxy.demo.api_server import allocation, events, lifecycle, schemas
from userspace_proxy.demo.api_server.defaults import put_defaults
from userspace_proxy.demo.api_server.kinds import NEW_EVENTS, RESOURCES, SERVICES, Resource
from userspace_proxy.demo.api_server.lifecycle import DeleteOptions, Part
from userspace_proxy.demo.api_server.objects import Object, copied
from userspace_proxy.demo.api_server.patches import STRATEGIC, patched
from userspace_proxy.demo.api_server.selectors import selectable_fields
from userspace_proxy.demo.api_server.service_changes import carry_over
from userspace_proxy.demo.api_server.statuses import StatusError
from userspace_proxy.demo.api_server.tables import cells_of, columns_of
from userspace_proxy.demo.api_server.validation import causes

NOW = datetime(2026, 11, 29, 12, 0, 0, tzinfo=UTC)
RANGES = allocation.Ranges.parse(["10.96.0.0/16"], range(30000, 32768))
OBJECTS = 60
FIELDS = ("spec", "status", "template", "containers", "initContainers", "ports")
"""What every object has that can, so that there is something to look at."""

SCALARS: dict[str, tuple[Any, ...]] = {
    "string": ("", "a", "None", "10.0.0.1", "-", "Always", "x y", "TCP"),
    "boolean": (True, False),
    "int32": (-1, 0, 1, 80, 2**31 - 1),
    "int64": (-1, 0, 1, 2**63 - 1),
    "double": (1.5,),
    "api.resource.Quantity": ("1", "100m"),
    "meta.v1.Time": ("2026-11-29T11:00:00Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59+00:00"),
    "meta.v1.MicroTime": ("2026-11-29T11:00:00.000001Z",),
    "meta.v1.FieldsV1": ({},),
    "util.intstr.IntOrString": (-1, 0, 80, "", "http", "25%", "x%"),
}


def drawn(form: str, chance: random.Random, depth: int = 0) -> Any:
    """Something of a form, with some of its fields."""
    if form.startswith("[]"):
        return [drawn(form[2:], chance, depth + 1) for _ in range(chance.randrange(3))]
    if form.startswith("map "):
        keys = chance.sample(["a", "cpu", "memory", "x/y", " "], chance.randrange(3))
        return {key: drawn(form[4:], chance, depth + 1) for key in keys}
    if form in SCALARS:
        return chance.choice(SCALARS[form])
    fields = schemas.load().types[form].fields
    some = chance.sample(sorted(fields), min(len(fields), chance.randrange(5))) if depth < 7 else []
    return {name: drawn(fields[name], chance, depth + 1) for name in sorted({*some, *FIELDS} & fields.keys())}


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda resource: resource.qualified)
def test_nothing_breaks(resource: Resource) -> None:
    chance = random.Random(resource.qualified)
    for _ in range(OBJECTS):
        first, second = (schemas.decode(drawn(resource.schema, chance), resource.schema).item for _ in "12")
        before = kept(resource, first)
        is_well = not problems(resource, before, None, chance)
        with suppress(StatusError):
            wanted = patched(before, second, STRATEGIC, resource.schema)
            after = lifecycle.updated(resource, before, wanted, Part.MAIN)
            problems(resource, after, before if is_well else None, chance)


def kept(resource: Resource, item: Object) -> Object:
    """A new object, with a status of its own."""
    item["metadata"] = {"name": "a", **item.get("metadata", {})}
    made = copied(lifecycle.created(resource, item, NOW, "uid") | {"status": item.get("status", {})})
    made["metadata"]["resourceVersion"] = "1"
    return made


def problems(resource: Resource, item: Object, before: Object | None, chance: random.Random) -> list[Any]:
    """What is wrong with an object, after all has been done with it that is done with one that is well."""
    put_defaults(resource, item)
    if resource is SERVICES:
        if before is not None:
            carry_over(before, item)
        with suppress(allocation.AllocationError):
            allocation.allocate(item, before, (), RANGES, chance)
    shown = events.to_old(item) if resource is NEW_EVENTS else item
    assert len(cells_of(resource, shown, NOW)) == len(columns_of(resource))
    selectable_fields(item, resource)
    with suppress(StatusError):
        lifecycle.deleted(resource, item, DeleteOptions(), NOW)
    return causes(resource, item, before)
