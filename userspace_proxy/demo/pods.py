"""What runs in pods: a server that says who it is."""

from __future__ import annotations

import selectors
import subprocess
import sys
from typing import Final

from userspace_proxy.demo.namespaces import Namespace

_START_SECONDS: Final = 10.0


def start_server(namespace: Namespace, *flags: str, name: str = "") -> subprocess.Popen[str]:
    """Start `userspace_proxy.demo.server` with `flags` inside and return once it listens on all its ports.

    It calls itself `name`, or like the namespace. It ends with the namespace, or when killed.
    """
    server = namespace.popen(
        sys.executable,
        *("-m", "userspace_proxy.demo.server"),
        *("--name", name or namespace.name),
        *(("--address", namespace.address) if namespace.address else ()),
        *flags,
        stdout=subprocess.PIPE,
    )
    assert server.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(server.stdout, selectors.EVENT_READ)
        readable = selector.select(_START_SECONDS)
    if not readable or server.stdout.readline() != "ready\n":
        raise RuntimeError(f"the server in {namespace.name} did not start within {_START_SECONDS} s")
    return server
