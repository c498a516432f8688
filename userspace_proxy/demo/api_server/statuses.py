"""What is answered instead of an object: a Status, in the API server's words, which kubectl prints.

Source: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/status/
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from userspace_proxy.demo.api_server.kinds import RESOURCES, Resource
from userspace_proxy.demo.api_server.objects import Object
from userspace_proxy.errors import UserspaceProxyError


class StatusError(UserspaceProxyError):
    """A request is answered with a Status of failure. `headers` go with it."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        details: Object | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.headers = headers or {}
        self.status: Object = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            **({"details": details} if details else {}),
            "code": code,
        }


@dataclass(frozen=True, slots=True)
class Cause:
    """One thing that is wrong with an object: `message` without the field it speaks of."""

    reason: str
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


def quoted(value: Any) -> str:
    """A value as error messages show it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def is_required(field: str, detail: str = "") -> Cause:
    """A field that must be there is not."""
    return Cause("FieldValueRequired", field, "Required value" + (f": {detail}" if detail else ""))


def is_invalid(field: str, value: Any, detail: str) -> Cause:
    """A value that cannot be."""
    return Cause("FieldValueInvalid", field, f"Invalid value: {quoted(value)}: {detail}")


def is_duplicate(field: str, value: Any) -> Cause:
    """A value that is there already."""
    return Cause("FieldValueDuplicate", field, f"Duplicate value: {quoted(value)}")


def is_forbidden(field: str, detail: str) -> Cause:
    """A field that may not be set here, or not be changed."""
    return Cause("FieldValueForbidden", field, f"Forbidden: {detail}")


def is_unsupported(field: str, value: Any, supported: Sequence[str]) -> Cause:
    """A value that is none of those there are."""
    names = ", ".join(quoted(name) for name in sorted(supported))
    message = f"Unsupported value: {quoted(value)}: supported values: {names}"
    return Cause("FieldValueNotSupported", field, message)


def is_too_long(field: str, value: Any, most: int) -> Cause:
    """More bytes than there may be."""
    return Cause("FieldValueTooLong", field, f"Too long: may not be more than {most} bytes")


def invalid(kind: str, group: str, name: str, causes: Sequence[Cause]) -> StatusError:
    """The object breaks rules of its kind."""
    described = [str(cause) for cause in causes]
    text = described[0] if len(described) == 1 else f"[{', '.join(described)}]"
    qualified = f"{kind}.{group}" if group else kind
    details = {
        "name": name,
        "group": group,
        "kind": kind,
        "causes": [
            {"reason": cause.reason, "message": cause.message, "field": cause.field} for cause in causes
        ],
    }
    return StatusError(422, "Invalid", f'{qualified} "{name}" is invalid: {text}', details)


def bad_request(message: str) -> StatusError:
    """The request makes no sense, whatever the server holds."""
    return StatusError(400, "BadRequest", message)


def unauthorized() -> StatusError:
    """Whoever asks has not said who it is."""
    return StatusError(401, "Unauthorized", "Unauthorized")


def _details(resource: Resource, name: str) -> Object:
    return {"name": name, **({"group": resource.group} if resource.group else {}), "kind": resource.plural}


def not_found(resource: Resource, name: str) -> StatusError:
    """There is no object of this name."""
    message = f'{resource.qualified} "{name}" not found'
    return StatusError(404, "NotFound", message, _details(resource, name))


def unknown_path(path: str) -> StatusError:
    """The path leads nowhere. Of a kind that is not served it says which are."""
    message = "the server could not find the requested resource"
    match [part for part in path.split("/") if part]:
        case ["api", _, "namespaces", _, plural, *_] | ["apis", _, _, "namespaces", _, plural, *_]:
            pass
        case ["api", _, plural, *_] | ["apis", _, _, plural, *_]:
            pass
        case _:
            return StatusError(404, "NotFound", message)
    if all(resource.plural != plural for resource in RESOURCES):
        served = ", ".join(sorted({resource.plural for resource in RESOURCES}))
        message += f": this API server has no {plural}, only {served}"
    return StatusError(404, "NotFound", message)


def already_exists(resource: Resource, name: str) -> StatusError:
    """The name is taken."""
    message = f'{resource.qualified} "{name}" already exists'
    return StatusError(409, "AlreadyExists", message, _details(resource, name))


def conflict(resource: Resource, name: str, why: str) -> StatusError:
    """What the request says of the object is not so (any more)."""
    message = f'Operation cannot be fulfilled on {resource.qualified} "{name}": {why}'
    return StatusError(409, "Conflict", message, _details(resource, name))


def modified_meanwhile(resource: Resource, name: str) -> StatusError:
    """Somebody else wrote the object since it was read."""
    why = "the object has been modified; please apply your changes to the latest version and try again"
    return conflict(resource, name, why)


def forbidden(
    resource: Resource, name: str, why: str, causes: Sequence[Mapping[str, str]] = ()
) -> StatusError:
    """The state of the cluster does not allow it."""
    details = _details(resource, name) | ({"causes": list(causes)} if causes else {})
    return StatusError(403, "Forbidden", f'{resource.qualified} "{name}" is forbidden: {why}', details)


def not_allowed(message: str) -> StatusError:
    """The resource has no such verb."""
    return StatusError(405, "MethodNotAllowed", message, {})


def unsupported_media_type(message: str) -> StatusError:
    """The body is in a form that is not understood here."""
    return StatusError(415, "UnsupportedMediaType", message, {})


def expired(message: str) -> StatusError:
    """The version that was asked for is no longer remembered: list again."""
    return StatusError(410, "Expired", message)


def too_large_version(asked: int, current: int) -> StatusError:
    """The version that was asked for has not come yet."""
    causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
    message = f"Timeout: Too large resource version: {asked}, current: {current}"
    return StatusError(504, "Timeout", message, {"causes": causes, "retryAfterSeconds": 1})
