"""How objects begin, change and end."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from userspace_proxy.demo.api_server.kinds import (
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    NAMESPACES,
    NODES,
    PODS,
    SERVICES,
    Resource,
)
from userspace_proxy.demo.api_server.lifecycle import (
    DeleteOptions,
    Part,
    Preconditions,
    created,
    deleted,
    finalizer_causes,
    is_over,
    updated,
)
from userspace_proxy.demo.api_server.objects import Object
from userspace_proxy.demo.api_server.statuses import StatusError

NOW = datetime(2026, 11, 29, 12, 0, 0, tzinfo=UTC)
LATER = "2026-11-29T12:00:30Z"


def item(metadata: Object | None = None, **rest: Any) -> Object:
    known = {"name": "x", "uid": "u", "resourceVersion": "5", "creationTimestamp": "2026-01-01T00:00:00Z"}
    return {"metadata": known | (metadata or {}), **rest}


def test_only_the_server_says_when_and_which() -> None:
    given = item({"generation": 7, "managedFields": [{}], "deletionTimestamp": LATER, "labels": {"a": "b"}})
    assert created(DEPLOYMENTS, given, NOW, "new")["metadata"] == {
        "name": "x",
        "labels": {"a": "b"},
        "uid": "new",
        "creationTimestamp": "2026-11-29T12:00:00Z",
        "generation": 1,
    }
    assert "generation" not in created(SERVICES, given, NOW, "new")["metadata"]


def test_a_new_object_has_no_status_but_a_node() -> None:
    given = item(status={"phase": "Running"})
    assert "status" not in created(PODS, given, NOW, "u")
    assert created(NODES, given, NOW, "u")["status"] == {"phase": "Running"}


def test_a_namespace_waits_for_who_empties_it() -> None:
    assert created(NAMESPACES, item(), NOW, "u")["spec"] == {"finalizers": ["kubernetes"]}


def test_each_request_writes_its_part() -> None:
    before = item({"generation": 1}, spec={"replicas": 1}, status={"replicas": 1})
    wanted = item({"labels": {"a": "b"}}, spec={"replicas": 2}, status={"replicas": 2})
    main = updated(DEPLOYMENTS, before, wanted, Part.MAIN)
    assert (main["spec"], main["status"]) == ({"replicas": 2}, {"replicas": 1})
    status = updated(DEPLOYMENTS, before, wanted, Part.STATUS)
    assert (status["spec"], status["status"]) == ({"replicas": 1}, {"replicas": 2})
    assert [main["metadata"]["generation"], status["metadata"]["generation"]] == [2, 1]
    assert main["metadata"]["labels"] == {"a": "b"}


def test_generation_counts_the_substance_alone() -> None:
    before = item({"generation": 3}, endpoints=[])
    labelled = updated(ENDPOINT_SLICES, before, item({"labels": {"a": "b"}}, endpoints=[]), Part.MAIN)
    changed = updated(ENDPOINT_SLICES, before, item(endpoints=[{"addresses": ["10.0.0.1"]}]), Part.MAIN)
    assert [labelled["metadata"]["generation"], changed["metadata"]["generation"]] == [3, 4]


def test_what_the_server_said_stays() -> None:
    before = item({"deletionTimestamp": LATER, "deletionGracePeriodSeconds": 30})
    wanted = {"metadata": {"name": "x", "creationTimestamp": LATER, "selfLink": "/x"}}
    assert updated(PODS, before, wanted, Part.MAIN)["metadata"] == before["metadata"]


def test_only_finalize_changes_the_finalizers_of_a_namespace() -> None:
    before = item(spec={"finalizers": ["kubernetes"]}, status={"phase": "Active"})
    wanted = item(spec={}, status={"phase": "Gone"})
    assert updated(NAMESPACES, before, wanted, Part.MAIN)["spec"] == before["spec"]
    assert updated(NAMESPACES, before, wanted, Part.FINALIZE) == before | {"spec": {}}


def pod(metadata: Object | None = None, **status: Any) -> Object:
    spec = {"nodeName": "node-1", "terminationGracePeriodSeconds": 30}
    return item({"generation": 1, **(metadata or {})}, spec=spec, status={"phase": "Running", **status})


def test_a_running_pod_is_given_time_to_end() -> None:
    left = deleted(PODS, pod(), DeleteOptions(), NOW)
    assert left is not None
    assert left["metadata"]["deletionTimestamp"] == LATER
    assert left["metadata"]["deletionGracePeriodSeconds"] == 30
    assert left["metadata"]["generation"] == 2
    assert deleted(PODS, left, DeleteOptions(), NOW) == left
    sooner = deleted(PODS, left, DeleteOptions(grace_period_seconds=5), NOW)
    assert sooner is not None
    assert sooner["metadata"]["deletionGracePeriodSeconds"] == 5
    assert deleted(PODS, sooner, DeleteOptions(grace_period_seconds=0), NOW) is None


def test_a_grace_period_beyond_all_time_is_a_long_one() -> None:
    left = deleted(PODS, pod(), DeleteOptions(grace_period_seconds=10**15), NOW)
    assert left is not None
    assert left["metadata"]["deletionTimestamp"].startswith("2036-")


@pytest.mark.parametrize("over", [pod(phase="Succeeded"), pod(phase="Failed"), item(spec={}, status={})])
def test_a_pod_that_does_not_run_is_gone_at_once(over: Object) -> None:
    assert deleted(PODS, over, DeleteOptions(), NOW) is None


@pytest.mark.parametrize(
    ("options", "finalizers"),
    [
        (DeleteOptions(propagation_policy="Foreground"), ["foregroundDeletion"]),
        (DeleteOptions(propagation_policy="Orphan"), ["orphan"]),
        (DeleteOptions(orphan_dependents=True), ["orphan"]),
    ],
)
def test_an_owner_waits_for_what_becomes_of_its_dependents(
    options: DeleteOptions, finalizers: list[str]
) -> None:
    left = deleted(DEPLOYMENTS, item(), options, NOW)
    assert left is not None
    assert left["metadata"]["finalizers"] == finalizers
    assert left["metadata"]["deletionTimestamp"] == "2026-11-29T12:00:00Z"
    assert deleted(DEPLOYMENTS, left, options, NOW) == left


def test_an_object_without_finalizers_is_gone() -> None:
    assert deleted(DEPLOYMENTS, item(), DeleteOptions(propagation_policy="Background"), NOW) is None
    assert deleted(SERVICES, item({"finalizers": ["a/b"]}), DeleteOptions(), NOW) is not None


def test_a_namespace_is_marked_and_some_are_not_to_be_deleted() -> None:
    left = deleted(NAMESPACES, item(spec={"finalizers": ["kubernetes"]}), DeleteOptions(), NOW)
    assert left is not None
    assert left["status"] == {"phase": "Terminating"}
    assert not is_over(NAMESPACES, left)
    assert is_over(NAMESPACES, left | {"spec": {}})
    with pytest.raises(StatusError, match="this namespace may not be deleted") as refused:
        deleted(NAMESPACES, item({"name": "default"}), DeleteOptions(), NOW)
    assert refused.value.code == 403


@pytest.mark.parametrize(
    ("preconditions", "words"),
    [
        (Preconditions(uid="other"), "UID in precondition: other, UID in object meta: u"),
        (Preconditions(resource_version="4"), "ResourceVersion in precondition: 4"),
    ],
)
def test_preconditions(preconditions: Preconditions, words: str) -> None:
    with pytest.raises(StatusError, match=words) as refused:
        deleted(SERVICES, item(), DeleteOptions(preconditions=preconditions), NOW)
    assert refused.value.code == 409
    fitting = Preconditions(uid="u", resource_version="5")
    assert deleted(SERVICES, item(), DeleteOptions(preconditions=fitting), NOW) is None


@pytest.mark.parametrize(
    ("resource", "metadata", "over"),
    [
        (SERVICES, {}, False),
        (SERVICES, {"deletionTimestamp": LATER}, True),
        (SERVICES, {"deletionTimestamp": LATER, "finalizers": ["a/b"]}, False),
        (PODS, {"deletionTimestamp": LATER, "deletionGracePeriodSeconds": 30}, False),
        (PODS, {"deletionTimestamp": LATER, "deletionGracePeriodSeconds": 0}, True),
    ],
)
def test_when_an_object_is_over(resource: Resource, metadata: Object, over: bool) -> None:
    assert is_over(resource, item(metadata)) is over


def test_nobody_holds_up_a_deletion_that_has_begun() -> None:
    before = item({"finalizers": ["a/b"], "deletionTimestamp": LATER})
    assert finalizer_causes(before, item({"finalizers": []})) == []
    (cause,) = finalizer_causes(before, item({"finalizers": ["a/b", "c/d"]}))
    assert str(cause) == (
        "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, "
        'found new finalizers ["c/d"]'
    )
    assert finalizer_causes(item(), item({"finalizers": ["c/d"]})) == []
