"""The file that tells kubectl and the agents where the API server is, whom to trust, and what to say.

Source: https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

from userspace_proxy.demo.api_server.certificates import write_private

NAME = "userspace-proxy-demo"


def write_kubeconfig(
    path: Path, *, server: str, authority: bytes, token: str, namespace: str = "default"
) -> None:
    """Write a kubeconfig (0600) with one cluster. `authority` is its CA's certificate, PEM."""
    cluster = {"server": server, "certificate-authority-data": base64.b64encode(authority).decode()}
    context = {"cluster": NAME, "user": NAME, "namespace": namespace}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": NAME, "cluster": cluster}],
        "users": [{"name": NAME, "user": {"token": token}}],
        "contexts": [{"name": NAME, "context": context}],
        "current-context": NAME,
    }
    write_private(path, json.dumps(content, indent=2).encode() + b"\n")  # JSON is YAML
