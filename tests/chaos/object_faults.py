"""What is written into manifests: nonsense, torn files, and other Services that come and go."""

from __future__ import annotations

import json
from random import Random

from tests.chaos.faults import Fault
from tests.chaos.world import World
from tests.support import objects
from tests.support.cluster_objects import manifest_of

NONSENSE = {
    "bad-yaml.yaml": "kind: Service\nmetadata: {name: [unclosed\n",
    "bad-bytes.json": '{"kind": "Service", "metadata": {"name": "\x00\x1b[31m"}}',
    "bad-kind.yaml": "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: default}\n",
    "bad-type.yaml": "apiVersion: v1\nkind: Service\nmetadata: {name: typo}\nspec: {ports: 80}\n",
    "bad-address.json": json.dumps(manifest_of(objects.service("bad-address", at="127.0.0.1"))),
    "bad-port.json": json.dumps(manifest_of(objects.service("bad-port", at="10.96.7.1", ports=["x:70000"]))),
    "bad-endpoints.json": json.dumps(
        manifest_of(
            objects.endpoint_slice("bad-endpoints", of="bad-port", endpoints=["127.0.0.1", "nowhere"])
        )
    ),
}


class BadObjects(Fault):
    def __init__(self, world: World, random: Random) -> None:
        super().__init__(world, random)
        self.names = random.sample(sorted(NONSENSE), random.randrange(1, len(NONSENSE)))
        self.detail = ", ".join(self.names)

    def inflict(self) -> None:
        for name in self.names:
            self.world.node.manifests.write(name, NONSENSE[name])

    def heal(self) -> None:
        for name in self.names:
            (self.world.node.manifests.directory / name).unlink()


class TornService(Fault):
    """The Service's own file is cut off: what was known of it counts.

    An agent that started meanwhile would know nothing of it, so its place is the agent's.
    """

    def inflict(self) -> None:
        self.file = self.world.node.manifests.file_of(objects.service("web"))
        self.whole = self.file.read_text()
        cut = self.random.randrange(1, len(self.whole) - 1)
        self.detail = f"after {cut} characters"
        self.world.node.manifests.write(self.file.name, self.whole[:cut])

    def heal(self) -> None:
        self.world.node.manifests.write(self.file.name, self.whole)


class Neighbours(Fault):
    """Other Services come and go, and with them listeners and rules."""

    def __init__(self, world: World, random: Random) -> None:
        super().__init__(world, random)
        numbers = random.sample(range(100, 200), random.randrange(1, 8))
        self.items = [
            item
            for number in numbers
            for item in (
                objects.service(
                    f"neighbour-{number}", at=f"10.96.1.{number}", ports=["greet:80", "name:83/UDP"]
                ),
                objects.endpoint_slice(
                    f"neighbour-{number}-1",
                    of=f"neighbour-{number}",
                    ports=["greet:8080", "name:8083/UDP"],
                    endpoints=[pod.namespace.address for pod in random.sample(world.pods, 2)],
                ),
            )
        ]
        self.detail = f"{len(numbers)} of them"

    def inflict(self) -> None:
        self.world.node.objects.apply(*self.items)

    def heal(self) -> None:
        self.world.node.objects.delete(*self.items)
