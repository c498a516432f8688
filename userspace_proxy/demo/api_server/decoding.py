"""Objects that requests bring, read by their kind's type, and what is said of fields that there are not.

Source: https://kubernetes.io/docs/reference/using-api/api-concepts/#field-validation
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from userspace_proxy.demo.api_server import schemas
from userspace_proxy.demo.api_server.kinds import Resource
from userspace_proxy.demo.api_server.objects import Object
from userspace_proxy.demo.api_server.schemas import DecodeError
from userspace_proxy.demo.api_server.statuses import StatusError, bad_request


class FieldValidation(Enum):
    """What becomes of fields that there are not."""

    IGNORE = "Ignore"
    WARN = "Warn"
    STRICT = "Strict"


def read(resource: Resource, body: Any, validation: FieldValidation) -> tuple[Object, tuple[str, ...]]:
    """An object from a request, and warnings of what it says beyond its type. Raises StatusError (400)."""
    if not isinstance(body, dict):
        raise bad_request(f"the body of the request must be an object of kind {resource.kind}")
    version, kind = body.get("apiVersion"), body.get("kind")
    if version not in (None, "", resource.group_version):
        raise bad_request(
            f"the API version in the data ({version}) does not match the expected API version "
            f"({resource.group_version})"
        )
    if kind not in (None, "", resource.kind):
        raise _unusable(resource, f"the object is a {kind}")
    item, unknown = decode(resource, body)
    if unknown and validation is FieldValidation.STRICT:
        raise _unusable(resource, f"strict decoding error: {', '.join(unknown)}")
    warnings = unknown if validation is FieldValidation.WARN else ()
    return {**item, "apiVersion": resource.group_version, "kind": resource.kind}, warnings


def decode(resource: Resource, body: Any) -> tuple[Object, tuple[str, ...]]:
    """An object by its type, and a sentence for each field that there is not. Raises StatusError (400)."""
    try:
        decoded = schemas.decode(body, resource.schema)
    except DecodeError as error:
        raise _unusable(resource, str(error)) from error
    return decoded.item, tuple(f'unknown field "{path}"' for path in decoded.unknown)


def _unusable(resource: Resource, why: str) -> StatusError:
    return bad_request(
        f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}: {why}'
    )
