"""Events have two forms, v1 and events.k8s.io/v1: one is kept, v1, and shown as the other by other names.

Source: https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/
"""

from __future__ import annotations

from typing import Final

from userspace_proxy.demo.api_server.objects import Object

_NEW_NAMES: Final = {
    "involvedObject": "regarding",
    "message": "note",
    "reportingComponent": "reportingController",
    "source": "deprecatedSource",
    "firstTimestamp": "deprecatedFirstTimestamp",
    "lastTimestamp": "deprecatedLastTimestamp",
    "count": "deprecatedCount",
}
_OLD_NAMES: Final = {new: old for old, new in _NEW_NAMES.items()}


def to_new(event: Object) -> Object:
    """A v1 Event as one of events.k8s.io/v1."""
    renamed = {_NEW_NAMES.get(name, name): value for name, value in event.items()}
    return renamed | {"apiVersion": "events.k8s.io/v1"}


def to_old(event: Object) -> Object:
    """An Event of events.k8s.io/v1 as one of v1."""
    renamed = {_OLD_NAMES.get(name, name): value for name, value in event.items()}
    return renamed | {"apiVersion": "v1"}
