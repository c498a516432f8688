"""Paths of the API, such as /apis/apps/v1/namespaces/default/deployments/web/scale, and what they lead to."""

from __future__ import annotations

from dataclasses import dataclass

from userspace_proxy.demo.api_server.kinds import NAMESPACES, Resource, find
from userspace_proxy.demo.api_server.objects import Key


@dataclass(frozen=True, slots=True)
class Target:
    """A collection, an object of it if `name` is not empty, or a part of that if `part` is not empty."""

    resource: Resource
    namespace: str = ""
    name: str = ""
    part: str = ""

    @property
    def key(self) -> Key:
        """The object's place in its collection."""
        return Key(self.namespace, self.name)


def parse(path: str) -> Target | None:
    """What a path leads to; None if that is nothing."""
    match path.strip("/").split("/"):
        case ["api", version, *rest]:
            return _target("", version, rest)
        case ["apis", group, version, *rest]:
            return _target(group, version, rest)
        case _:
            return None


def _target(group: str, version: str, rest: list[str]) -> Target | None:
    namespace = ""
    if rest[:1] == [NAMESPACES.plural] and len(rest) > 2 and NAMESPACES.subresource(rest[2]) is None:
        namespace, rest = rest[1], rest[2:]
    if not rest or not all(rest) or len(rest) > 3:
        return None
    resource = find(group, version, rest[0])
    if resource is None or (namespace and not resource.is_namespaced):
        return None
    name, part = [*rest[1:], "", ""][:2]
    if name and resource.is_namespaced and not namespace:
        return None
    return Target(resource, namespace, name, part)
