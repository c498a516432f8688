"""The three kinds of patch."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userspace_proxy.demo.api_server import patches
from userspace_proxy.demo.api_server.objects import Object, copied
from userspace_proxy.demo.api_server.statuses import StatusError

SERVICE = "core.v1.Service"
POD = "core.v1.Pod"
DEPLOYMENT = "apps.v1.Deployment"


def strategic(item: Object, patch: Any, schema: str = SERVICE) -> Any:
    return patches.patched(item, patch, patches.STRATEGIC, schema)


def test_fields_are_merged_and_null_takes_away() -> None:
    before = {"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"type": "NodePort"}}
    patch = {"metadata": {"labels": {"a": None, "c": "3"}}, "spec": {"type": "ClusterIP"}}
    after = {"metadata": {"labels": {"b": "2", "c": "3"}}, "spec": {"type": "ClusterIP"}}
    assert strategic(before, patch) == after
    assert patches.patched(before, patch, patches.MERGE, SERVICE) == after
    assert before["metadata"] == {"labels": {"a": "1", "b": "2"}}


@pytest.mark.parametrize(
    ("patch", "ports"),
    [
        ([{"port": 80, "name": "http"}], [{"port": 80, "name": "http", "nodePort": 1}, {"port": 81}]),
        ([{"port": 82}], [{"port": 80, "nodePort": 1}, {"port": 81}, {"port": 82}]),
        ([{"port": 80, "$patch": "delete"}], [{"port": 81}]),
        ([{"port": 83, "$patch": "delete"}], [{"port": 80, "nodePort": 1}, {"port": 81}]),
        ([{"$patch": "replace"}, {"port": 82}], [{"port": 82}]),
        ([{"port": 80, "nodePort": None}], [{"port": 80}, {"port": 81}]),
    ],
)
def test_a_list_is_merged_by_its_key(patch: list[Object], ports: list[Object]) -> None:
    before = {"spec": {"ports": [{"port": 80, "nodePort": 1}, {"port": 81}]}}
    assert strategic(before, {"spec": {"ports": patch}}) == {"spec": {"ports": ports}}


def test_a_merge_patch_replaces_lists() -> None:
    before = {"spec": {"ports": [{"port": 80}]}}
    patch = {"spec": {"ports": [{"port": 81}]}}
    assert patches.patched(before, patch, patches.MERGE, SERVICE) == patch


def test_lists_without_a_key_are_replaced_or_joined() -> None:
    before = {"metadata": {"finalizers": ["a", "b"]}, "spec": {"externalIPs": ["192.0.2.1"]}}
    patch = {"metadata": {"finalizers": ["c", "b"]}, "spec": {"externalIPs": ["192.0.2.2"]}}
    after = {"metadata": {"finalizers": ["a", "b", "c"]}, "spec": {"externalIPs": ["192.0.2.2"]}}
    assert strategic(before, patch) == after


@pytest.mark.parametrize("beside", [{}, {"finalizers": ["c"]}])
def test_values_are_taken_from_a_list(beside: Object) -> None:
    before = {"metadata": {"finalizers": ["a", "b"]}}
    patch = {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], **beside}}
    assert strategic(before, patch)["metadata"]["finalizers"] == ["b", *beside.get("finalizers", ())]


def test_the_order_that_kubectl_names_is_kept() -> None:
    before = {"spec": {"ports": [{"port": 80}, {"port": 81}]}}
    order = [{"port": 82}, {"port": 81}, {"port": 80}]
    patch = {"spec": {"$setElementOrder/ports": order, "ports": [{"port": 82}]}}
    assert strategic(before, patch)["spec"] == {"ports": order}


def test_what_an_order_does_not_name_keeps_its_place() -> None:
    before = {"spec": {"ports": [{"port": 1}, {"port": 2}, {"port": 3}]}}
    patch = {"spec": {"$setElementOrder/ports": [{"port": 3}, {"port": 1}]}}
    assert strategic(before, patch)["spec"] == {"ports": [{"port": 3}, {"port": 2}, {"port": 1}]}


def test_containers_are_merged_down_to_their_environment() -> None:
    container = {"name": "c", "image": "x:1", "env": [{"name": "A", "value": "1"}]}
    patch = {"spec": {"containers": [{"name": "c", "env": [{"name": "B", "value": "2"}]}]}}
    merged = strategic({"spec": {"containers": [container]}}, patch, POD)["spec"]["containers"]
    assert merged == [container | {"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}]


def test_a_strategy_keeps_only_the_keys_it_is_to_retain() -> None:
    before = {"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}
    patch = {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}
    assert strategic(before, patch, DEPLOYMENT) == {"spec": {"strategy": {"type": "Recreate"}}}


def test_a_part_is_replaced_or_deleted_on_demand() -> None:
    before = {"metadata": {"labels": {"a": "1"}}, "spec": {"selector": {"a": "1"}}}
    patch = {
        "metadata": {"labels": {"$patch": "replace", "b": "2"}},
        "spec": {"selector": {"$patch": "delete"}},
    }
    assert strategic(before, patch) == {"metadata": {"labels": {"b": "2"}}, "spec": {}}


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        ([], "the patch must be an object"),
        ({"spec": {"ports": [{"name": "x"}]}}, "does not contain declared merge key: port"),
        ({"spec": {"ports": ["x"]}}, "does not contain declared merge key: port"),
        ({"spec": {"$patch": "explode"}}, "Unknown patch type found: explode"),
        ({"metadata": {"$deleteFromPrimitiveList/finalizers": "a"}}, "must be a list"),
    ],
)
def test_strategic_patches_that_cannot_be(patch: Any, words: str) -> None:
    with pytest.raises(StatusError, match=words.replace("$", r"\$")) as refused:
        strategic({"metadata": {"finalizers": ["a"]}, "spec": {}}, patch)
    assert refused.value.code == 400


def test_json_patch() -> None:
    before = {"spec": {"ports": [{"port": 80}, {"port": 81}]}}
    patch = [
        {"op": "test", "path": "/spec/ports/0/port", "value": 80},
        {"op": "remove", "path": "/spec/ports/0"},
        {"op": "add", "path": "/spec/type", "value": "NodePort"},
    ]
    after = {"spec": {"ports": [{"port": 81}], "type": "NodePort"}}
    assert patches.patched(before, patch, patches.JSON, SERVICE) == after
    assert len(before["spec"]["ports"]) == 2


@pytest.mark.parametrize(
    ("patch", "code"),
    [
        ({}, 400),
        ([1], 400),
        ([{"op": "explode", "path": "/a"}], 400),
        ([{"path": "/a"}], 400),
        ([{"op": "remove", "path": "/missing"}], 422),
        ([{"op": "test", "path": "/spec", "value": 1}], 422),
        ([{"op": "add", "path": "/spec/ports/9", "value": 1}], 422),
        ([{"op": "add", "path": "spec", "value": 1}], 422),
        ([{"op": "add", "path": "/a", "value": 1}] * (patches.MOST_OPERATIONS + 1), 413),
    ],
)
def test_json_patches_that_cannot_be(patch: Any, code: int) -> None:
    with pytest.raises(StatusError) as refused:
        patches.patched({"spec": {"ports": []}}, patch, patches.JSON, SERVICE)
    assert refused.value.code == code


def test_other_media_types_are_refused_with_a_reason() -> None:
    for kind in patches.KINDS:
        patches.check_kind(kind)
    with pytest.raises(StatusError, match="leave out --server-side") as refused:
        patches.check_kind(patches.APPLY)
    assert refused.value.code == 415
    with pytest.raises(StatusError, match="accepted media types include: application/json-patch"):
        patches.check_kind("text/plain")


_values = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.text("ab", max_size=2),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("ab$", max_size=2), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    item=st.dictionaries(st.text("ab", max_size=1), _values), patch=st.dictionaries(st.text("ab$"), _values)
)
def test_nonsense_is_merged_or_refused_and_leaves_the_object_alone(item: Object, patch: Object) -> None:
    kept = copied(item)
    for kind in patches.KINDS:
        try:
            patches.patched(item, patch, kind, SERVICE)
        except StatusError as error:
            assert error.code in (400, 413, 422)
    assert item == kept
