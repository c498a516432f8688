"""kubernetes_asyncio, as much of it as is used."""

from __future__ import annotations

import subprocess
import sys

import pytest


def _said_by(script: str) -> str:
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert told.returncode == 0, told.stderr
    return told.stdout


def test_the_agent_does_without_the_classes_of_kubernetes_api() -> None:
    """And whoever embeds us finds the library whole."""
    script = """
import sys
import userspace_proxy.sources.api_server
from userspace_proxy.sources import kubernetes_client
print([name for name in sys.modules if name.startswith("kubernetes_asyncio")])
print(kubernetes_client.Configuration(host="http://127.0.0.1:1").host)
from kubernetes_asyncio.client import CoreV1Api
print(CoreV1Api.__name__)
"""
    assert _said_by(script) == "[]\nhttp://127.0.0.1:1\nCoreV1Api\n"


@pytest.mark.parametrize("error", ["ModuleNotFoundError", "AttributeError"])
def test_a_release_with_other_rooms_is_imported_as_a_whole(error: str) -> None:
    script = f"""
import userspace_proxy.partial_import as partial_import
from contextlib import contextmanager
@contextmanager
def bare_packages(*names):
    raise {error}(names[-1])
    yield
partial_import.bare_packages = bare_packages
from userspace_proxy.sources import kubernetes_client
from kubernetes_asyncio.client import Configuration
print(kubernetes_client.Configuration is Configuration)
"""
    assert _said_by(script) == "True\n"
