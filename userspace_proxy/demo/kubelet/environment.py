"""The environment, command and arguments of a container; pure.

Source: "Define Dependent Environment Variables", "Expose Pod Information to Containers".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from userspace_proxy.demo.kubelet.pod_spec import Container, EnvVar, Pod

_REFERENCE: Final = re.compile(r"\$\$|\$\(([-._a-zA-Z0-9]+)\)")
_SUBSCRIPT: Final = re.compile(r"metadata\.(annotations|labels)\['([^']+)'\]")


def environment(
    pod: Pod, container: Container, addresses: Sequence[str], host_address: str, base: Mapping[str, str]
) -> dict[str, str]:
    """`base` (what every process has), the pod's HOSTNAME, and what `env:` says, in its order."""
    variables = {**base, "HOSTNAME": pod.metadata.name}
    for variable in container.env:
        variables[variable.name] = _value(variable, pod, addresses, host_address, variables)
    return variables


def expanded(words: Sequence[str], variables: Mapping[str, str]) -> list[str]:
    """`words` with every `$(NAME)` replaced by its variable, if there is one; `$$` is a plain `$`."""
    return [_expand(word, variables) for word in words]


def _value(
    variable: EnvVar, pod: Pod, addresses: Sequence[str], host_address: str, variables: Mapping[str, str]
) -> str:
    source = variable.value_from
    if source is None:
        return _expand(variable.value, variables)
    if source.field_ref is None:
        return ""
    return _field(source.field_ref.field_path, pod, addresses, host_address)


def _field(path: str, pod: Pod, addresses: Sequence[str], host_address: str) -> str:
    metadata = pod.metadata
    if subscript := _SUBSCRIPT.fullmatch(path):
        values = metadata.labels if subscript[1] == "labels" else metadata.annotations
        return values.get(subscript[2], "")
    fields = {
        "metadata.name": metadata.name,
        "metadata.namespace": metadata.namespace,
        "metadata.uid": metadata.uid,
        "spec.nodeName": pod.spec.node_name,
        "spec.serviceAccountName": "default",
        "status.hostIP": host_address,
        "status.podIP": addresses[0] if addresses else "",
        "status.podIPs": ",".join(addresses),
    }
    return fields.get(path, "")


def _expand(text: str, variables: Mapping[str, str]) -> str:
    def replacement(found: re.Match[str]) -> str:
        name = found[1]
        return "$" if name is None else variables.get(name, found[0])

    return _REFERENCE.sub(replacement, text)
