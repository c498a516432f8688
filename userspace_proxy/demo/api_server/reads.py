"""What of a collection a request asks to see, and lists of it in pages.

A list is of one version, over all its pages: a page's token says which, and where the next begins.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from userspace_proxy.demo.api_server import selectors
from userspace_proxy.demo.api_server.objects import Key, Object
from userspace_proxy.demo.api_server.paths import Target
from userspace_proxy.demo.api_server.selectors import Selection
from userspace_proxy.demo.api_server.statuses import bad_request, expired, too_large_version
from userspace_proxy.demo.api_server.store import Store, Stored


class _Token(msgspec.Struct, frozen=True):
    """What a continue token says: the list's version, and the last object of the page before."""

    version: int
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list, and the list's metadata."""

    found: list[Stored]
    metadata: Object


def selection(target: Target, query: Mapping[str, str]) -> Selection:
    """What of a collection a request asks to see. Raises StatusError (400)."""
    fields = selectors.parse_fields(query.get("fieldSelector", ""), target.resource)
    if target.name:
        fields = (*fields, selectors.FieldRequirement("metadata.name", target.name, True))
    return Selection(selectors.parse_labels(query.get("labelSelector", "")), fields, target.namespace)


def page(store: Store, target: Target, query: Mapping[str, str]) -> Page:
    """The part of a list that a request asks for. Raises StatusError (400, 410, 504)."""
    chosen = selection(target, query)
    version, after = _start(store, query)
    objects = store.collection(target.resource).at(version)
    found = [stored for _, stored in sorted(objects.items()) if selects(chosen, stored)]
    if after is not None:
        found = [stored for stored in found if stored.key > after]
    limit = number(query, "limit") or len(found)
    metadata: Object = {"resourceVersion": str(version)}
    if len(found) > limit:
        last = found[limit - 1].key
        token = msgspec.json.encode(_Token(version, last.namespace, last.name))
        metadata["continue"] = base64.urlsafe_b64encode(token).decode()
        if not chosen.labels and not chosen.fields:
            metadata["remainingItemCount"] = len(found) - limit
    return Page(found[:limit], metadata)


def _start(store: Store, query: Mapping[str, str]) -> tuple[int, Key | None]:
    """The version to list, and the object behind which to begin."""
    if text := query.get("continue"):
        try:
            token = msgspec.json.decode(base64.urlsafe_b64decode(text), type=_Token)
        except (binascii.Error, ValueError) as error:
            raise bad_request("continue key is not valid: it is none of this server's") from error
        if token.version > store.version:
            raise expired("the continue token is of another cluster: list again")
        return token.version, Key(token.namespace, token.name)
    asked = number(query, "resourceVersion")
    if asked > store.version:
        raise too_large_version(asked, store.version)
    is_exact = query.get("resourceVersionMatch") == "Exact"
    return asked if is_exact else store.version, None


def selects(chosen: Selection, stored: Stored | None) -> bool:
    """Whether an object is there, and among those that were asked for."""
    return stored is not None and chosen.selects(stored.labels, stored.fields, stored.key.namespace)


def number(query: Mapping[str, str], name: str) -> int:
    """A number of a query, 0 if it says none. Raises StatusError (400)."""
    text = query.get(name, "") or "0"
    if not text.isdecimal() or len(text) > 18:
        raise bad_request(f"{name} must be a number, not {text[:50]}")
    return int(text)


def is_true(query: Mapping[str, str], name: str) -> bool:
    """Whether a query says yes to something."""
    return query.get(name, "").lower() in ("1", "true")
