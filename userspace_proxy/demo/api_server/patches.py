"""The three kinds of patch: JSON (RFC 6902), merge (RFC 7396), and Kubernetes' own, strategic merge.

A strategic merge patch merges lists too, by a key of their entries, as the type of each field says.
Source: https://github.com/kubernetes/community/blob/master/contributors/devel/sig-api-machinery/strategic-merge-patch.md
"""

from __future__ import annotations

from typing import Any, Final

import jsonpatch
import jsonpointer

from userspace_proxy.demo.api_server import schemas
from userspace_proxy.demo.api_server.objects import Object, copied
from userspace_proxy.demo.api_server.schemas import Merging
from userspace_proxy.demo.api_server.statuses import StatusError, bad_request, unsupported_media_type

JSON: Final = "application/json-patch+json"
MERGE: Final = "application/merge-patch+json"
STRATEGIC: Final = "application/strategic-merge-patch+json"
APPLY: Final = "application/apply-patch+yaml"
KINDS: Final = (JSON, MERGE, STRATEGIC)

MOST_OPERATIONS: Final = 10_000

_DIRECTIVE: Final = "$patch"
_DELETE_FROM: Final = "$deleteFromPrimitiveList/"
_ORDER: Final = "$setElementOrder/"
_RETAIN: Final = "$retainKeys"


def check_kind(kind: str) -> None:
    """Raise StatusError (415) for a media type that is no patch of ours."""
    if kind == APPLY:
        raise unsupported_media_type(
            "this API server does not do server-side apply: leave out --server-side, and kubectl will work "
            "the change out by itself"
        )
    if kind not in KINDS:
        raise unsupported_media_type(
            "the body of the request was in an unknown format - accepted media types include: "
            f"{', '.join(KINDS)}"
        )


def patched(item: Object, patch: Any, kind: str, schema: str) -> Any:
    """An object of a type after a patch of a kind, one of `KINDS`. `item` stays as it is.

    Raises StatusError for what is no such patch, or does not fit the object.
    """
    if kind == JSON:
        return _json_patched(item, patch)
    if not isinstance(patch, dict):
        raise bad_request("the patch must be an object")
    if kind == MERGE:
        return merge_patched(copied(item), patch)
    return _merged(copied(item), patch, schema)


def _json_patched(item: Object, patch: Any) -> Any:
    if not isinstance(patch, list) or not all(isinstance(operation, dict) for operation in patch):
        raise bad_request("a JSON patch must be a list of operations")
    if len(patch) > MOST_OPERATIONS:
        message = f"The allowed maximum operations in a JSON patch is {MOST_OPERATIONS}, got {len(patch)}"
        raise StatusError(413, "RequestEntityTooLarge", message)
    try:
        return jsonpatch.JsonPatch(patch).apply(copied(item))
    except jsonpatch.InvalidJsonPatch as error:
        raise bad_request(f"this is no JSON patch: {error}") from error
    except (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException) as error:
        message = f"the server rejected our request due to an error in our request: {error}"
        raise StatusError(422, "Invalid", message) from error
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        message = f"the JSON patch does not fit the object: {error!r}"
        raise StatusError(422, "Invalid", message) from error


def merge_patched(target: Any, patch: Any) -> Any:
    """RFC 7396: objects are merged, null removes, everything else replaces. Changes `target`."""
    if not isinstance(patch, dict):
        return patch
    merged = target if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patched(merged.get(name), value)
    return merged


def _merged(target: Object, patch: Object, form: str) -> Object:
    """`target` with a strategic patch of its form put in, which is a type's name, or a map's form."""
    match patch.get(_DIRECTIVE):
        case None | "merge":
            pass
        case "replace":
            return {name: value for name, value in patch.items() if name != _DIRECTIVE}
        case "delete":
            return {}
        case unknown:
            raise bad_request(f"Unknown patch type found: {unknown}")
    if isinstance(kept := patch.get(_RETAIN), list):
        target = {name: value for name, value in target.items() if name in kept}
    for name, value in patch.items():
        if name.startswith(_DELETE_FROM):
            field = name.removeprefix(_DELETE_FROM)
            if field in target and field not in patch:
                _remove_from(target, field, value)
        elif not name.startswith("$"):
            _merge_field(target, name, value, patch, form)
    for name, value in patch.items():
        if name.startswith(_ORDER):
            _order(target, name.removeprefix(_ORDER), value, form)
    return target


def _remove_from(target: Object, field: str, values: Any) -> None:
    if not isinstance(values, list) or not isinstance(target[field], list):
        raise bad_request(f"{_DELETE_FROM}{field} must be a list, and {field} one of plain values")
    target[field] = [value for value in target[field] if value not in values]


def _merge_field(target: Object, name: str, value: Any, patch: Object, owner: str) -> None:
    form, merging = _field(owner, name)
    present = target.get(name)
    if value is None:
        target.pop(name, None)
    elif isinstance(value, dict):
        if value.get(_DIRECTIVE) == "delete":
            target.pop(name, None)
        else:
            target[name] = _merged(present if isinstance(present, dict) else {}, value, form)
    elif isinstance(value, list) and merging is not None and merging.merges:
        former = present if isinstance(present, list) else []
        if merging.key:
            target[name] = _merged_lists(former, value, name, merging, form.removeprefix("[]"))
        else:
            removed = patch.get(_DELETE_FROM + name) or []
            left = [part for part in former if part not in removed]
            target[name] = left + [part for part in value if part not in left]
    else:
        target[name] = value


def _field(owner: str, name: str) -> tuple[str, Merging | None]:
    """The form of a type's field, and how it is merged; neither for what is in a map."""
    known = schemas.load().types.get(owner)
    return (known.fields.get(name, ""), known.patch.get(name)) if known else ("", None)


def _merged_lists(former: list[Any], patch: list[Any], name: str, merging: Merging, form: str) -> list[Any]:
    """A list with a patch's entries put in: those with a known key merged, the others added at the end."""
    key = merging.key
    entries: list[Any] = list(former)
    if any(isinstance(part, dict) and part.get(_DIRECTIVE) == "replace" for part in patch):
        return [part for part in patch if not (isinstance(part, dict) and _DIRECTIVE in part)]
    for part in patch:
        if not isinstance(part, dict) or key not in part:
            raise bad_request(f"map: {part} does not contain declared merge key: {key} (in {name})")
        at = [index for index, entry in enumerate(entries) if _key(entry, key) == part[key]]
        if part.get(_DIRECTIVE) == "delete":
            entries = [entry for index, entry in enumerate(entries) if index not in at]
        elif at:
            entries[at[0]] = _merged(dict(entries[at[0]]), part, form)
        else:
            entries.append(_merged({}, part, form))
    return entries


def _key(entry: Any, key: str) -> Any:
    return entry.get(key) if isinstance(entry, dict) else None


def _order(target: Object, field: str, order: Any, owner: str) -> None:
    """Put a list into the order that the patch names; what it does not name keeps its place."""
    entries = target.get(field)
    if not isinstance(entries, list) or not isinstance(order, list):
        return
    _, merging = _field(owner, field)
    key = merging.key if merging else ""

    def identity(entry: Any) -> Any:
        return _key(entry, key) if key else entry

    wanted = [identity(entry) for entry in order]
    named = sorted(
        (entry for entry in entries if identity(entry) in wanted), key=lambda e: wanted.index(identity(e))
    )
    target[field] = [named.pop(0) if identity(entry) in wanted else entry for entry in entries]
