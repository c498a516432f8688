"""What a pod's environment says of where the API server is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_HOST: Final = "KUBERNETES_SERVICE_HOST"
_PORT: Final = "KUBERNETES_SERVICE_PORT"
_SERVICE_ADDRESS: Final = re.compile(r"KUBERNETES_PORT_\d+_TCP_ADDR")


def own_service(environment: Mapping[str, str]) -> str | None:
    """What to say if the server that the environment names does not answer; None if it names one itself.

    kubelet names the Service default/kubernetes, in several variables. Who names a server in the pod's
    manifest sets the first alone, so that it differs from the others. Source: "Environment variables" in
    the Kubernetes documentation of Services.
    """
    host = environment.get(_HOST)
    named = {value for name, value in environment.items() if _SERVICE_ADDRESS.fullmatch(name)}
    if not host or host not in named:
        return None
    return (
        f"{_HOST}={host} is the address of the Service default/kubernetes, and on this node nobody serves "
        "Services until this proxy knows them, which takes the API server. Name a server itself, by its own "
        f"address: with --master=https://ADDRESS:6443, or {_HOST} and {_PORT} in the pod's manifest, or "
        "--kubeconfig"
    )
