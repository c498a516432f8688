"""Reading objects by their types: what is unknown, what is of a wrong type, what says nothing."""

from __future__ import annotations

from typing import Any

import pytest

from userspace_proxy.demo.api_server import openapi, schemas
from userspace_proxy.demo.api_server.kinds import RESOURCES
from userspace_proxy.demo.api_server.schemas import DecodeError, decode

SERVICE = "core.v1.Service"


def test_what_is_known_is_read_and_what_is_not_is_named() -> None:
    item = {"kind": "Service", "foo": 1, "spec": {"ports": [{"port": 80}, {"port": 81, "prt": 82}], "x": {}}}
    decoded = decode(item, SERVICE)
    assert decoded.item == {"kind": "Service", "spec": {"ports": [{"port": 80}, {"port": 81}]}}
    assert decoded.unknown == ("foo", "spec.ports[1].prt", "spec.x")


def test_what_says_nothing_is_left_out_and_a_meant_zero_is_not() -> None:
    spec = {
        "clusterIP": "",
        "selector": {},
        "externalIPs": [],
        "publishNotReadyAddresses": False,
        "type": None,
        "allocateLoadBalancerNodePorts": False,
        "ports": [{"port": 0, "nodePort": 0, "appProtocol": ""}],
    }
    kept = {"allocateLoadBalancerNodePorts": False, "ports": [{"port": 0, "appProtocol": ""}]}
    assert decode({"spec": spec, "status": {"loadBalancer": {}}}, SERVICE).item == {
        "spec": kept,
        "status": {"loadBalancer": {}},
    }


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ([], "json: cannot unmarshal array into Go value of type v1.Service"),
        (
            {"spec": {"ports": [{"port": "80"}]}},
            "json: cannot unmarshal string into Go struct field ServicePort.spec.ports.port of type int32",
        ),
        (
            {"spec": {"ports": [{"port": 1.5}]}},
            "json: cannot unmarshal number 1.5 into Go struct field ServicePort.spec.ports.port of type "
            "int32",
        ),
        ({"spec": {"ports": [{"port": 2**31}]}}, "number 2147483648 into Go struct field"),
        ({"spec": {"ports": [{"port": True}]}}, "cannot unmarshal bool into Go struct field"),
        (
            {"spec": {"ports": {}}},
            "json: cannot unmarshal object into Go struct field ServiceSpec.spec.ports of type "
            "[]v1.ServicePort",
        ),
        (
            {"spec": []},
            "json: cannot unmarshal array into Go struct field Service.spec of type v1.ServiceSpec",
        ),
        (
            {"spec": {"selector": ["a"]}},
            "json: cannot unmarshal array into Go struct field ServiceSpec.spec.selector of type "
            "map[string]string",
        ),
        (
            {"metadata": {"labels": {"a": 1}}},
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        ({"spec": {"publishNotReadyAddresses": "yes"}}, "of type bool"),
        ({"metadata": {"creationTimestamp": "yesterday"}}, 'parsing time "yesterday"'),
        ({"spec": {"ports": [{"port": 80, "targetPort": 1.5}]}}, "of type intstr.IntOrString"),
    ],
)
def test_values_of_a_wrong_type(item: Any, words: str) -> None:
    with pytest.raises(DecodeError) as refused:
        decode(item, SERVICE)
    assert words in str(refused.value)


@pytest.mark.parametrize(("given", "read"), [(1, "1"), ("100m", "100m"), ("1.5Gi", "1.5Gi"), ("1e3", "1e3")])
def test_quantities(given: object, read: str) -> None:
    limits = {"spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": given}}}]}}
    container = decode(limits, "core.v1.Pod").item["spec"]["containers"][0]
    assert container["resources"]["limits"]["cpu"] == read


@pytest.mark.parametrize("given", ["much", "", "1 Gi", {}])
def test_what_is_no_quantity(given: object) -> None:
    with pytest.raises(DecodeError):
        decode({"spec": {"containers": [{"resources": {"limits": {"cpu": given}}}]}}, "core.v1.Pod")


def test_whole_numbers_may_be_written_with_a_point() -> None:
    assert decode({"spec": {"replicas": 3.0}}, "apps.v1.Deployment").item == {"spec": {"replicas": 3}}


def test_every_form_is_a_type_or_a_scalar() -> None:
    types = schemas.load().types
    for name, schema in types.items():
        assert schema.patch.keys() <= schema.fields.keys(), name
        assert schema.required <= schema.fields.keys(), name
        for form in schema.fields.values():
            inner = form.removeprefix("[]").removeprefix("map ").removeprefix("[]")
            assert inner in types or inner in openapi.SCALARS, (name, form)


def test_every_kind_has_its_type_and_a_document() -> None:
    for resource in RESOURCES:
        document = openapi.document(resource.path.removeprefix("/"))
        assert document is not None
        kind = document["components"]["schemas"][resource.schema]
        assert kind["x-kubernetes-group-version-kind"][0]["kind"] == resource.kind
    assert openapi.document("apis/other/v1") is None


def test_a_document_says_how_lists_are_merged_and_names_only_types_it_has() -> None:
    document = openapi.document("api/v1")
    assert document is not None
    types = document["components"]["schemas"]
    assert types["core.v1.ServiceSpec"]["properties"]["ports"] == {
        "type": "array",
        "items": {"allOf": [{"$ref": "#/components/schemas/core.v1.ServicePort"}]},
        "x-kubernetes-patch-merge-key": "port",
        "x-kubernetes-patch-strategy": "merge",
    }
    assert set(references(document)) <= types.keys()


def references(part: Any) -> list[str]:
    """The types that a document refers to."""
    if isinstance(part, list):
        return [name for each in part for name in references(each)]
    if not isinstance(part, dict):
        return []
    own = [part["$ref"].removeprefix("#/components/schemas/")] if "$ref" in part else []
    return own + [name for each in part.values() for name in references(each)]
