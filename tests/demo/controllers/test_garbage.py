"""What is collected on paper, and what is not."""

from __future__ import annotations

from typing import Any

import pytest

from tests.demo.controllers.simulation import START, deployment, pod, service, struct
from userspace_proxy.demo.controllers.garbage import (
    MOST_FINISHED_PODS,
    plan_owner_collection,
    plan_pod_collection,
)
from userspace_proxy.demo.controllers.objects import Deployment, EndpointSlice, Pod
from userspace_proxy.demo.controllers.writes import Delete, Patch

OWNED = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "uid-web", "controller": True}


def owned(name: str = "web-1", *, owner: Any = OWNED, **fields: Any) -> Pod:
    return pod(name, metadata={"ownerReferences": [owner]}, **fields)


def web(**metadata: Any) -> Deployment:
    item = deployment("web")
    item["metadata"].update(metadata)
    converted: Deployment = struct(Deployment, item)
    return converted


def test_what_belongs_to_nobody_any_more_is_deleted_once_that_is_sure() -> None:
    (write,) = plan_owner_collection([], [owned(), pod("free")]).writes
    assert isinstance(write, Delete)
    assert write.metadata.name == "web-1"
    assert write.unless_there is not None
    resource, asked = write.unless_there
    assert (resource.plural, asked.namespace, asked.name, asked.uid) == (
        "deployments",
        "default",
        "web",
        "uid-web",
    )


@pytest.mark.parametrize(
    "kept",
    [
        owned(),
        owned(is_terminating=True),
        owned(owner={**OWNED, "kind": "Job", "apiVersion": "batch/v1", "uid": "unknown"}),
        owned(owner={**OWNED, "kind": "Service", "apiVersion": "serving.knative.dev/v1", "uid": "unknown"}),
    ],
)
def test_what_has_an_owner_or_one_that_is_unknown_to_us_stays(kept: Pod) -> None:
    assert not plan_owner_collection([web()], [kept]).writes


def test_slices_of_a_service_that_was_made_anew_are_collected() -> None:
    slice_ = struct(
        EndpointSlice,
        {
            "metadata": {
                "name": "http-1",
                "namespace": "default",
                "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": "http", "uid": "before"}],
            },
            "addressType": "IPv4",
        },
    )
    (write,) = plan_owner_collection([service("http")], [slice_]).writes
    assert isinstance(write, Delete)
    assert write.resource.kind == "EndpointSlice"


def test_an_owner_that_waits_for_its_dependents_goes_after_them() -> None:
    going = web(deletionTimestamp=START.isoformat(), finalizers=["foregroundDeletion", "mine"])
    (write,) = plan_owner_collection([going], [owned()]).writes
    assert isinstance(write, Delete)
    assert not plan_owner_collection([going], [owned(is_terminating=True)]).writes
    (write,) = plan_owner_collection([going], []).writes
    assert isinstance(write, Patch)
    assert write.body == {"metadata": {"finalizers": ["mine"]}}


def test_an_owner_that_orphans_leaves_its_dependents() -> None:
    going = web(deletionTimestamp=START.isoformat(), finalizers=["orphan"])
    (write,) = plan_owner_collection([going], [owned()]).writes
    assert isinstance(write, Patch)
    assert (write.metadata.name, write.body) == ("web-1", {"metadata": {"ownerReferences": None}})
    (write,) = plan_owner_collection([going], [pod("web-1")]).writes
    assert isinstance(write, Patch)
    assert write.body == {"metadata": {"finalizers": None}}


def test_pods_of_nodes_that_are_gone_are_gone() -> None:
    (write,) = plan_pod_collection([pod("a", node="n1"), pod("b", node="n2")], ["n1"]).writes
    assert isinstance(write, Delete)
    assert (write.metadata.name, write.grace_seconds) == ("b", 0)
    assert write.unless_there is not None
    assert (write.unless_there[1].name, write.unless_there[1].uid) == ("n2", "")


def test_pods_that_end_before_they_had_a_node_are_gone() -> None:
    (write,) = plan_pod_collection([pod("a", node=None, is_terminating=True), pod("b", node=None)], []).writes
    assert isinstance(write, Delete)
    assert (write.metadata.name, write.grace_seconds, write.unless_there) == ("a", 0, None)


def test_of_finished_pods_some_are_kept() -> None:
    finished = [
        pod(
            f"p{number:03}",
            node="n1",
            phase="Succeeded",
            metadata={"creationTimestamp": f"2026-01-01T00:00:{number % 60:02}.{number:03}Z"},
        )
        for number in range(MOST_FINISHED_PODS + 2)
    ]
    names = [
        write.metadata.name
        for write in plan_pod_collection(finished, ["n1"]).writes
        if isinstance(write, Delete)
    ]
    assert names == ["p000", "p060"]
