"""What every kind's metadata must be, and stay."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from userspace_proxy.demo.api_server.objects import Object
from userspace_proxy.demo.api_server.statuses import Cause, is_invalid, is_required, is_too_long
from userspace_proxy.demo.api_server.validation import names
from userspace_proxy.demo.api_server.validation.names import Check

MOST_ANNOTATION_BYTES: Final = 256 * 1024


def causes(item: Object, check_name: Check) -> Iterator[Cause]:
    """What is wrong with an object's metadata, whose name follows the rule given."""
    metadata = item["metadata"]
    name = metadata.get("name", "")
    if not name:
        yield is_required("metadata.name", "name or generateName is required")
    elif wrong := check_name(name):
        yield is_invalid("metadata.name", name, wrong)
    yield from label_causes(metadata.get("labels", {}), "metadata.labels")
    annotations = metadata.get("annotations", {})
    for key in annotations:
        if wrong := names.qualified_name(key.lower()):
            yield is_invalid("metadata.annotations", key, wrong)
    if sum(len(key) + len(value) for key, value in annotations.items()) > MOST_ANNOTATION_BYTES:
        yield is_too_long("metadata.annotations", "", MOST_ANNOTATION_BYTES)
    for index, owner in enumerate(metadata.get("ownerReferences", ())):
        for field in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(field):
                path = f"metadata.ownerReferences[{index}].{field}"
                yield is_invalid(path, owner.get(field, ""), "must not be empty")
    for index, finalizer in enumerate(metadata.get("finalizers", ())):
        if wrong := names.qualified_name(finalizer):
            yield is_invalid(f"metadata.finalizers[{index}]", finalizer, wrong)


def label_causes(labels: dict[str, str], path: str) -> Iterator[Cause]:
    """What is wrong with labels, or with a selector that is written as labels."""
    for key, value in labels.items():
        if wrong := names.qualified_name(key):
            yield is_invalid(path, key, wrong)
        if wrong := names.label_value(value):
            yield is_invalid(path, value, wrong)
