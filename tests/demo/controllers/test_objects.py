"""Which objects controllers can make something of; the others are named, and left out, by their mirror."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.demo.controllers.simulation import deployment, merged, struct
from userspace_proxy.demo.controllers.objects import Deployment, Pod


@pytest.mark.parametrize(
    ("type_", "item"),
    [
        (Pod, {"metadata": {"name": "a", "deletionTimestamp": "2026-01-01T00:00:00"}}),
        (Pod, {"metadata": {"name": "a", "labels": {"a": 1}}}),
        (Pod, {"metadata": {}}),
        (Deployment, merged(deployment(), {"spec": {"minReadySeconds": 10**12}})),
        (Deployment, merged(deployment(), {"spec": {"selector": None}})),
    ],
)
def test_what_cannot_be_planned_with_is_no_object(type_: type[Any], item: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        struct(type_, item)


def test_what_nobody_here_reads_may_be_anything() -> None:
    pod = struct(Pod, {"metadata": {"name": "a", "managedFields": 7}, "spec": {"volumes": "many"}})
    assert (pod.metadata.name, pod.is_active, pod.is_ready) == ("a", True, False)
