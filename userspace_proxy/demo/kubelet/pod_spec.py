"""What the kubelet reads of a Pod, with Kubernetes' defaults, and what it has no means to honour."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Any, Final, TypeAlias

import msgspec

JsonObject: TypeAlias = dict[str, Any]

DEFAULT_PORT: Final = 8080
READY: Final = "demo.userspace-proxy.io/ready"
REFUSE: Final = "demo.userspace-proxy.io/refuse"
BLACK_HOLE: Final = "demo.userspace-proxy.io/black-hole"
KILL: Final = "demo.userspace-proxy.io/kill"


class RestartPolicy(Enum):
    """What becomes of a container that has ended."""

    ALWAYS = "Always"
    ON_FAILURE = "OnFailure"
    NEVER = "Never"

    def restarts(self, exit_code: int) -> bool:
        return self is RestartPolicy.ALWAYS or (self is RestartPolicy.ON_FAILURE and exit_code != 0)


class Inbound(Enum):
    """What becomes of packets from outside to a pod."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    """As if no process listened, though one does."""
    DROPPED = "dropped"
    """As if the pod's network had failed: nobody answers."""


class _Read(msgspec.Struct, frozen=True, rename="camel"):
    """A part of a Pod. Fields that it does not name are passed over."""


class ContainerPort(_Read, frozen=True):
    container_port: int
    name: str = ""
    protocol: str = "TCP"


class FieldRef(_Read, frozen=True):
    field_path: str


class EnvVarSource(_Read, frozen=True):
    field_ref: FieldRef | None = None


class EnvVar(_Read, frozen=True):
    name: str
    value: str = ""
    value_from: EnvVarSource | None = None


class HttpHeader(_Read, frozen=True):
    name: str
    value: str = ""


class HttpGet(_Read, frozen=True):
    port: int | str
    path: str = "/"
    host: str = ""
    http_headers: tuple[HttpHeader, ...] = ()


class TcpSocket(_Read, frozen=True):
    port: int | str
    host: str = ""


class Exec(_Read, frozen=True):
    command: tuple[str, ...] = ()


class Sleep(_Read, frozen=True):
    seconds: int


class Probe(_Read, frozen=True):
    """One of `tcp_socket`, `http_get` and `exec`, and when it counts."""

    tcp_socket: TcpSocket | None = None
    http_get: HttpGet | None = None
    exec: Exec | None = None
    initial_delay_seconds: int = 0
    period_seconds: int = 10
    timeout_seconds: int = 1
    success_threshold: int = 1
    failure_threshold: int = 3
    termination_grace_period_seconds: int | None = None


class LifecycleHandler(_Read, frozen=True):
    exec: Exec | None = None
    sleep: Sleep | None = None


class Lifecycle(_Read, frozen=True):
    pre_stop: LifecycleHandler | None = None


class Container(_Read, frozen=True):
    name: str
    image: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    working_dir: str = ""
    env: tuple[EnvVar, ...] = ()
    ports: tuple[ContainerPort, ...] = ()
    readiness_probe: Probe | None = None
    liveness_probe: Probe | None = None
    startup_probe: Probe | None = None
    lifecycle: Lifecycle | None = None
    restart_policy: RestartPolicy | None = None

    @property
    def is_sidecar(self) -> bool:
        """Whether it is, among the init containers, one that runs for as long as the others."""
        return self.restart_policy is RestartPolicy.ALWAYS

    @property
    def served_ports(self) -> list[int]:
        """Where the built-in server listens."""
        return list(dict.fromkeys(port.container_port for port in self.ports)) or [DEFAULT_PORT]

    def port_number(self, port: int | str) -> int | None:
        """The number of a port that is named by it, or by a name of `ports`; None if there is none."""
        if isinstance(port, int):
            return port
        return next((named.container_port for named in self.ports if named.name == port), None)


class PodSpec(_Read, frozen=True):
    containers: tuple[Container, ...]
    init_containers: tuple[Container, ...] = ()
    restart_policy: RestartPolicy = RestartPolicy.ALWAYS
    termination_grace_period_seconds: int = 30
    node_name: str = ""


class PodMetadata(_Read, frozen=True):
    namespace: str
    name: str
    uid: str
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    deletion_timestamp: str = ""
    deletion_grace_period_seconds: int | None = None


class Pod(_Read, frozen=True):
    """`status` is as the API server has it: what others wrote there is kept."""

    metadata: PodMetadata
    spec: PodSpec
    status: JsonObject = {}

    @property
    def key(self) -> str:
        return f"{self.metadata.namespace}/{self.metadata.name}"

    @property
    def is_made_unready(self) -> bool:
        """Whether somebody wants it not to be ready, whatever its probes say."""
        return self.metadata.annotations.get(READY) == "false"

    @property
    def inbound(self) -> Inbound:
        """What somebody wants to become of what is sent to it."""
        if self.metadata.annotations.get(BLACK_HOLE) == "true":
            return Inbound.DROPPED
        return Inbound.REFUSED if self.metadata.annotations.get(REFUSE) == "true" else Inbound.ACCEPTED


def read_pod(json: JsonObject) -> Pod:
    """Raises msgspec.ValidationError, whose text names the field."""
    return msgspec.convert(_without_nulls(json), Pod)


def unsupported_fields(json: JsonObject) -> list[str]:
    """The paths of fields that are set and that this kubelet does not act on, though its user expects so."""
    spec = json.get("spec") or {}
    found = [f"spec.{name}" for name in ("hostNetwork", "hostPID", "readinessGates") if spec.get(name)]
    for index, volume in enumerate(spec.get("volumes") or ()):
        name = volume.get("name", "")
        if not name.startswith("kube-api-access-"):  # which an API server adds to every pod
            found.append(f"spec.volumes[{index}] ({name})")
    for field in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(field) or ()):
            found += [f"spec.{field}[{index}].{name}" for name in _unsupported_in(container)]
    return found


def _unsupported_in(container: JsonObject) -> Iterator[str]:
    if container.get("envFrom"):
        yield "envFrom"
    if container.get("args") and not container.get("command"):
        yield "args (there is no command)"
    for index, variable in enumerate(container.get("env") or ()):
        for source in variable.get("valueFrom") or ():
            if source != "fieldRef":
                yield f"env[{index}].valueFrom.{source}"
    for name in ("readinessProbe", "livenessProbe", "startupProbe"):
        probe = container.get(name) or {}
        if probe and not any(probe.get(kind) for kind in ("tcpSocket", "httpGet", "exec")):
            yield f"{name} (only tcpSocket, httpGet and exec)"
        if (probe.get("httpGet") or {}).get("scheme", "HTTP") != "HTTP":
            yield f"{name}.httpGet.scheme"
    lifecycle = container.get("lifecycle") or {}
    if lifecycle.get("postStart"):
        yield "lifecycle.postStart"
    pre_stop = lifecycle.get("preStop") or {}
    if pre_stop and not (pre_stop.get("exec") or pre_stop.get("sleep")):
        yield "lifecycle.preStop (only exec and sleep)"


def _without_nulls(json: Any) -> Any:
    """An API object may spell an unset field as null."""
    if isinstance(json, dict):
        return {key: _without_nulls(value) for key, value in json.items() if value is not None}
    if isinstance(json, list):
        return [_without_nulls(value) for value in json]
    return json
