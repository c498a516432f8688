"""An API client that answers by script, and keeps what it was asked to write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from userspace_proxy.demo.api_client import ApiClient, ApiError, PatchType
from userspace_proxy.demo.api_resources import Resource

REFUSED = ApiError(422, "Invalid", "it is not as it should be")
CONFLICT = ApiError(409, "Conflict", "it has been changed meanwhile")
NOT_FOUND = ApiError(404, "NotFound", "it is not there")
NO_ANSWER = ApiError(None, "Unreachable", "nobody is there")


class ScriptedApiClient(ApiClient):
    """`answers` are used up one by one, an `ApiError` raised; after them `answer` makes one of a write."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:1")
        self.asked: list[tuple[str, str]] = []
        self.bodies: list[Any] = []
        self.answers: list[Any] = []
        self.answer: Callable[[str, str], Any] = lambda verb, name: {"metadata": {"resourceVersion": "1"}}

    def _asked(self, verb: str, name: str, body: Any, resource: Resource[Any]) -> Any:
        self.asked.append((verb, name))
        self.bodies.append(msgspec.json.decode(msgspec.json.encode(body)))
        answer = self.answers.pop(0) if self.answers else self.answer(verb, name)
        if isinstance(answer, ApiError):
            raise answer
        return msgspec.convert(answer, resource.decoded_as)

    async def get(self, resource: Resource[Any], namespace: str | None, name: str) -> Any:
        return self._asked("get", name, None, resource)

    async def create(
        self,
        resource: Resource[Any],
        namespace: str | None,
        body: Any,
        *,
        name: str = "",
        subresource: str = "",
        query: Mapping[str, str] | None = None,
    ) -> Any:
        verb = f"create {subresource}".rstrip()
        return self._asked(verb, name or body["metadata"]["name"], body, resource)

    async def patch(
        self,
        resource: Resource[Any],
        namespace: str | None,
        name: str,
        body: object,
        *,
        type_: PatchType = PatchType.MERGE,
        subresource: str = "",
        query: Mapping[str, str] | None = None,
    ) -> Any:
        return self._asked(f"patch {subresource}".rstrip(), name, body, resource)

    async def delete(
        self,
        resource: Resource[Any],
        namespace: str | None,
        name: str,
        *,
        uid: str | None = None,
        grace_seconds: int | None = None,
    ) -> None:
        self._asked("delete", name, {"uid": uid, "grace": grace_seconds}, resource)
