"""Manifests as people write them, applied to the demo's API server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.embedded_api_server import TOKEN, EmbeddedApiServer
from userspace_proxy.demo.api_client import ApiClient
from userspace_proxy.demo.api_resources import SERVICES
from userspace_proxy.demo.manifest_application import ManifestRefusedError, apply, read_objects
from userspace_proxy.errors import UsageError

SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: web, labels: {version: one}}
spec: {ports: [{port: 80}], selector: {app: web}}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedApiServer]:
    with EmbeddedApiServer(tmp_path_factory.mktemp("api")) as server:
        yield server


def applied(server: EmbeddedApiServer, file: Path) -> list[dict[str, Any]]:
    """The Services that are there when the file is applied."""

    async def run() -> list[dict[str, Any]]:
        tls = server.certificates.client_context()
        async with ApiClient(server.url, token=TOKEN, tls=tls) as client:
            await apply(client, read_objects([file]))
            return await client.list(SERVICES)

    return asyncio.run(run())


def test_what_is_there_is_changed(server: EmbeddedApiServer, tmp_path: Path) -> None:
    file = tmp_path / "web.yaml"
    file.write_text(f"---\n{SERVICE}---\n")
    [first] = applied(server, file)
    file.write_text(SERVICE.replace("one", "two"))
    [second] = applied(server, file)
    assert second["metadata"]["labels"] == {"version": "two"}
    assert second["metadata"]["uid"] == first["metadata"]["uid"]
    assert second["spec"]["clusterIP"] == first["spec"]["clusterIP"]
    last = second["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"]
    assert json.loads(last)["metadata"]["labels"] == {"version": "two"}


def test_a_list_is_its_items(server: EmbeddedApiServer, tmp_path: Path) -> None:
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
    file = tmp_path / "list.json"
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": [namespace]}))
    applied(server, file)
    file.write_text(SERVICE.replace("{name: web", "{namespace: shop, name: web"))
    assert "shop" in {service["metadata"]["namespace"] for service in applied(server, file)}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (SERVICE.replace("80", "80000"), "spec.ports[0].port: Invalid value: 80000"),
        (SERVICE.replace("selector", "selektor"), 'unknown field "spec.selektor"'),
        (SERVICE.replace("kind: Service", "kind: Sevice"), 'no matches for kind "Sevice" in version "v1"'),
        (SERVICE.replace("apiVersion: v1", "apiVersion: other/v9"), 'in version "other/v9"'),
    ],
)
def test_a_refusal_names_file_and_reason(
    server: EmbeddedApiServer, tmp_path: Path, text: str, says: str
) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ManifestRefusedError) as refused:
        applied(server, file)
    assert str(refused.value).startswith(f"{file}: ")
    assert says in str(refused.value)
    assert refused.value.exit_code == 1


@pytest.mark.parametrize("text", ["a: [", "just words", "kind: Service", "[1, 2]"])
def test_what_is_no_manifest_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "none.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match=rf"manifests: {file} "):
        read_objects([file])
