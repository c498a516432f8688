"""What a demo cluster is to be: its nodes, what is applied at its start, how its agents are called.

It comes from a file of YAML, from flags, or from the cluster that was kept:

    nodes:                      # or a number
      - name: node-1
        zone: zone-a
    ipFamilies: [IPv4, IPv6]
    manifests: [web.yaml]       # files, or folders of them, beside this one; by default a few to begin with
    proxyFlags: [--removed-endpoints=drain=30s]
    apiServer: embedded         # or kube-apiserver
"""

from __future__ import annotations

import re
from collections import Counter
from enum import Enum
from pathlib import Path
from typing import Final

import msgspec
import yaml

from userspace_proxy.core.service_port import IPFamily
from userspace_proxy.demo.cluster_network import CONTROL_PLANE, MAX_NODES, OUTSIDE
from userspace_proxy.errors import UsageError

DEFAULT_MANIFESTS: Final = Path(__file__).parent / "manifests"
ZONES: Final = ("zone-a", "zone-b", "zone-c")

_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?", re.ASCII)
_ENDINGS: Final = (".yaml", ".yml", ".json")


class ApiServerKind(Enum):
    """Which API server the cluster has."""

    EMBEDDED = "embedded"
    KUBE_APISERVER = "kube-apiserver"


class NodePlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A node; `zone` is its label topology.kubernetes.io/zone ("": it has none)."""

    name: str
    zone: str = ""


class ClusterPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A whole cluster. `manifests` are paths; None stands for `DEFAULT_MANIFESTS`."""

    nodes: tuple[NodePlan, ...]
    ip_families: tuple[IPFamily, ...] = (IPFamily.IPV4, IPFamily.IPV6)
    manifests: tuple[str, ...] | None = None
    proxy_flags: tuple[str, ...] = ()
    api_server: ApiServerKind = ApiServerKind.EMBEDDED

    @property
    def ipv6(self) -> bool:
        return IPFamily.IPV6 in self.ip_families


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    nodes: int | tuple[NodePlan, ...] = 3
    ip_families: tuple[IPFamily, ...] = (IPFamily.IPV4, IPFamily.IPV6)
    manifests: tuple[str, ...] | None = None
    proxy_flags: tuple[str, ...] = ()
    api_server: ApiServerKind = ApiServerKind.EMBEDDED


def plan_of(count: int) -> ClusterPlan:
    """The plan for `count` nodes, spread over three zones. Raises `UsageError`."""
    return ClusterPlan(_numbered(count, "--nodes"))


def read_plan(file: Path) -> ClusterPlan:
    """What `file` says. Raises `UsageError`, which names the field that is wrong."""
    try:
        read = msgspec.convert(yaml.safe_load(file.read_text()) or {}, _File)
    except OSError as error:
        raise UsageError(f"--file: {file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"--file: {file} is no text: {error.reason}") from error
    except (yaml.YAMLError, msgspec.ValidationError) as error:
        raise UsageError(f"--file: {file}: {error}") from error
    where = f"--file: {file}: `nodes`"
    nodes = _numbered(read.nodes, where) if isinstance(read.nodes, int) else _checked(read.nodes, where)
    if IPFamily.IPV4 not in read.ip_families:
        raise UsageError(f"--file: {file}: `ipFamilies` must have IPv4; IPv6 may be beside it")
    manifests = read.manifests
    if manifests is not None:
        manifests = tuple(str(file.resolve().parent / path) for path in manifests)
    return ClusterPlan(
        nodes=nodes,
        ip_families=read.ip_families,
        manifests=manifests,
        proxy_flags=read.proxy_flags,
        api_server=read.api_server,
    )


def manifest_files(plan: ClusterPlan) -> list[Path]:
    """The files to apply, in order. Raises `UsageError` if one is not there."""
    files: list[Path] = []
    for path in [DEFAULT_MANIFESTS] if plan.manifests is None else map(Path, plan.manifests):
        if path.is_dir():
            files += sorted(file for file in path.iterdir() if file.suffix in _ENDINGS)
        elif path.is_file():
            files.append(path)
        else:
            raise UsageError(f"manifests: {path} is neither a file nor a folder")
    return files


def _numbered(count: int, where: str) -> tuple[NodePlan, ...]:
    if not 1 <= count <= MAX_NODES:
        raise UsageError(f"{where}: a cluster has 1 to {MAX_NODES} nodes, not {count}")
    return tuple(NodePlan(f"node-{number + 1}", ZONES[number % len(ZONES)]) for number in range(count))


def _checked(nodes: tuple[NodePlan, ...], where: str) -> tuple[NodePlan, ...]:
    if not 1 <= len(nodes) <= MAX_NODES:
        raise UsageError(f"{where}: a cluster has 1 to {MAX_NODES} nodes, not {len(nodes)}")
    for name, times in Counter(node.name for node in nodes).items():
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"{where}: {name!r} cannot be a node's name: at most 40 lowercase letters, digits and `-`"
            )
        if name in (OUTSIDE, CONTROL_PLANE):
            raise UsageError(f"{where}: {name!r} is the name of something else that every cluster has")
        if times > 1:
            raise UsageError(f"{where}: {times} nodes are called {name!r}")
    return nodes
