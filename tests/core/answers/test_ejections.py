"""What programs read of an ejection."""

from __future__ import annotations

import msgspec

from userspace_proxy.core.answers.ejections import Ejection, EjectParameters, UnejectParameters


def test_fields_are_spelled_as_kubernetes_spells_them() -> None:
    ejection = Ejection(
        service_port="default/web:http", protocol="TCP", family="IPv4", endpoint="10.1.0.1:80", seconds=5.0
    )
    assert msgspec.to_builtins(ejection) == {
        "servicePort": "default/web:http",
        "protocol": "TCP",
        "family": "IPv4",
        "endpoint": "10.1.0.1:80",
        "seconds": 5.0,
    }


def test_an_endpoint_is_all_that_must_be_said() -> None:
    asked = b'{"endpoint": "10.1.0.1:80"}'
    assert msgspec.json.decode(asked, type=EjectParameters) == EjectParameters(
        endpoint="10.1.0.1:80", service="", seconds=None, force=False
    )
    assert msgspec.json.decode(asked, type=UnejectParameters) == UnejectParameters(endpoint="10.1.0.1:80")
