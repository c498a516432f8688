"""What a Pod may say, and a Deployment, whose template is one.

Source: https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from userspace_proxy.demo.api_server.objects import Object, copied
from userspace_proxy.demo.api_server.statuses import (
    Cause,
    is_duplicate,
    is_forbidden,
    is_invalid,
    is_required,
    is_unsupported,
)
from userspace_proxy.demo.api_server.validation import names
from userspace_proxy.demo.api_server.validation.metadata import label_causes
from userspace_proxy.demo.api_server.validation.services import PROTOCOLS

_PROBES: Final = ("livenessProbe", "readinessProbe", "startupProbe")
_PROBE_ACTIONS: Final = ("exec", "grpc", "httpGet", "tcpSocket")
_IMAGE_PULL_POLICIES: Final = ("Always", "IfNotPresent", "Never")
_NOT_NEGATIVE: Final = "must be greater than or equal to 0"


def pod_causes(item: Object) -> Iterator[Cause]:
    """What is wrong with a Pod."""
    yield from _pod_spec_causes(item.get("spec", {}), "spec", ("Always", "Never", "OnFailure"))


def _pod_spec_causes(spec: Object, path: str, restart_policies: tuple[str, ...]) -> Iterator[Cause]:
    if not spec.get("containers"):
        yield is_required(f"{path}.containers")
    seen: set[str] = set()
    for field in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(field, ())):
            place = f"{path}.{field}[{index}]"
            yield from _container_causes(container, place)
            yield from _pre_stop_causes(container, place, spec.get("terminationGracePeriodSeconds"))
            if container.get("name") and container["name"] in seen:
                yield is_duplicate(f"{place}.name", container["name"])
            seen.add(container.get("name", ""))
    if (policy := spec.get("restartPolicy")) not in restart_policies:
        yield is_unsupported(f"{path}.restartPolicy", policy, restart_policies)
    policies = ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None")
    if (policy := spec.get("dnsPolicy")) not in policies:
        yield is_unsupported(f"{path}.dnsPolicy", policy, policies)
    yield from _not_negative(spec, ("terminationGracePeriodSeconds",), path)
    yield from label_causes(spec.get("nodeSelector", {}), f"{path}.nodeSelector")
    for field in ("nodeName", "hostname"):
        check = names.dns_subdomain if field == "nodeName" else names.dns_label
        if spec.get(field) and (wrong := check(spec[field])):
            yield is_invalid(f"{path}.{field}", spec[field], wrong)


def _container_causes(container: Object, path: str) -> Iterator[Cause]:
    name = container.get("name", "")
    if not name:
        yield is_required(f"{path}.name")
    elif wrong := names.dns_label(name):
        yield is_invalid(f"{path}.name", name, wrong)
    image = container.get("image", "")
    if not image:
        yield is_required(f"{path}.image")
    elif image != image.strip():
        yield is_invalid(f"{path}.image", image, "must not have leading or trailing whitespace")
    if (policy := container.get("imagePullPolicy")) not in _IMAGE_PULL_POLICIES:
        yield is_unsupported(f"{path}.imagePullPolicy", policy, _IMAGE_PULL_POLICIES)
    seen: set[str] = set()
    for index, port in enumerate(container.get("ports", ())):
        place = f"{path}.ports[{index}]"
        if port_name := port.get("name"):
            if wrong := names.port_name(port_name):
                yield is_invalid(f"{place}.name", port_name, wrong)
            if port_name in seen:
                yield is_duplicate(f"{place}.name", port_name)
            seen.add(port_name)
        if not port.get("containerPort"):
            yield is_required(f"{place}.containerPort")
        elif wrong := names.port_number(port["containerPort"]):
            yield is_invalid(f"{place}.containerPort", port["containerPort"], wrong)
        if (protocol := port.get("protocol")) not in PROTOCOLS:
            yield is_unsupported(f"{place}.protocol", protocol, PROTOCOLS)
    for index, variable in enumerate(container.get("env", ())):
        if not variable.get("name"):
            yield is_required(f"{path}.env[{index}].name")
    for field in _PROBES:
        if field in container:
            yield from _probe_causes(
                container[field], f"{path}.{field}", is_liveness=field != "readinessProbe"
            )


def _pre_stop_causes(container: Object, path: str, grace_seconds: int | None) -> Iterator[Cause]:
    sleep = container.get("lifecycle", {}).get("preStop", {}).get("sleep")
    if sleep is None or grace_seconds is None:
        return
    if not 0 <= (seconds := sleep.get("seconds", 0)) <= grace_seconds:
        detail = f"must be non-negative and less than terminationGracePeriodSeconds ({grace_seconds})"
        yield is_invalid(f"{path}.lifecycle.preStop.sleep", seconds, detail)


def _probe_causes(probe: Object, path: str, *, is_liveness: bool) -> Iterator[Cause]:
    actions = [action for action in _PROBE_ACTIONS if action in probe]
    if not actions:
        yield is_required(path, "must specify a handler type")
    for extra in actions[1:]:
        yield is_forbidden(f"{path}.{extra}", "may not specify more than 1 handler type")
    for action in ("httpGet", "tcpSocket", "grpc"):
        if action in actions:
            port = probe[action].get("port", 0)
            wrong = names.port_name(port) if isinstance(port, str) else names.port_number(port)
            if wrong:
                yield is_invalid(f"{path}.{action}.port", port, wrong)
    if "exec" in actions and not probe["exec"].get("command"):
        yield is_required(f"{path}.exec.command")
    seconds = (
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    )
    yield from _not_negative(probe, seconds, path)
    if is_liveness and probe.get("successThreshold", 1) != 1:
        yield is_invalid(f"{path}.successThreshold", probe["successThreshold"], "must be 1")


def _not_negative(item: Object, fields: tuple[str, ...], path: str) -> Iterator[Cause]:
    for field in fields:
        if (value := item.get(field)) is not None and value < 0:
            yield is_invalid(f"{path}.{field}", value, _NOT_NEGATIVE)


def pod_change_causes(before: Object, after: Object) -> Iterator[Cause]:
    """What of a Pod may not change: nearly all of its spec."""
    old, new = copied(before["spec"]), copied(after["spec"])
    for spec in (old, new):
        for field in ("initContainers", "containers"):
            for container in spec.get(field, ()):
                container.pop("image", None)
        for field in ("activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds"):
            spec.pop(field, None)
    if old.get("nodeName") is None:  # a binding says it, once
        old.pop("nodeName", None)
        new.pop("nodeName", None)
    if old != new:
        changed = sorted(field for field in {**old, **new} if old.get(field) != new.get(field))
        yield is_forbidden(
            "spec",
            "pod updates may not change fields other than `spec.containers[*].image`,"
            "`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions "
            f"to existing tolerations),`spec.terminationGracePeriodSeconds`; changed: {', '.join(changed)}",
        )


def deployment_causes(item: Object) -> Iterator[Cause]:
    """What is wrong with a Deployment."""
    spec = item.get("spec", {})
    yield from _not_negative(spec, ("replicas", "minReadySeconds", "revisionHistoryLimit"), "spec")
    selector = spec.get("selector")
    template = spec.get("template", {})
    labels = template.get("metadata", {}).get("labels", {})
    if not selector:
        yield is_required("spec.selector")
    else:
        yield from selector_causes(selector, "spec.selector")
        if not matches(selector, labels):
            detail = "`selector` does not match template `labels`"
            yield is_invalid("spec.template.metadata.labels", labels, detail)
    yield from label_causes(labels, "spec.template.labels")
    yield from _pod_spec_causes(template.get("spec", {}), "spec.template.spec", ("Always",))
    yield from _strategy_causes(spec)
    deadline, least = spec.get("progressDeadlineSeconds", 600), spec.get("minReadySeconds", 0)
    if deadline <= least:
        yield is_invalid("spec.progressDeadlineSeconds", deadline, "must be greater than minReadySeconds")


def _strategy_causes(spec: Object) -> Iterator[Cause]:
    strategy = spec.get("strategy", {})
    kind = strategy.get("type")
    if kind not in ("Recreate", "RollingUpdate"):
        yield is_unsupported("spec.strategy.type", kind, ("Recreate", "RollingUpdate"))
    rolling = strategy.get("rollingUpdate")
    if kind == "Recreate" and rolling is not None:
        detail = "may not be specified when strategy `type` is 'Recreate'"
        yield is_forbidden("spec.strategy.rollingUpdate", detail)
    if kind == "RollingUpdate" and rolling is not None:
        path = "spec.strategy.rollingUpdate"
        for field in ("maxUnavailable", "maxSurge"):
            value = rolling.get(field)
            if not _is_count(value):
                detail = "a valid percent string must be a numeric string followed by an ending '%'"
                yield is_invalid(
                    f"{path}.{field}", value, detail if isinstance(value, str) else _NOT_NEGATIVE
                )
        if all(rolling.get(field) in (0, "0%") for field in ("maxUnavailable", "maxSurge")):
            yield is_invalid(
                f"{path}.maxUnavailable", rolling["maxUnavailable"], "may not be 0 when `maxSurge` is 0"
            )


def _is_count(value: Any) -> bool:
    if isinstance(value, str):
        return value.endswith("%") and value[:-1].isdecimal()
    return value is None or value >= 0


def deployment_change_causes(before: Object, after: Object) -> Iterator[Cause]:
    """What of a Deployment may not change."""
    if before["spec"]["selector"] != (selector := after["spec"]["selector"]):
        yield is_invalid("spec.selector", selector, "field is immutable")


def selector_causes(selector: Object, path: str) -> Iterator[Cause]:
    """What is wrong with a LabelSelector."""
    labels, expressions = selector.get("matchLabels", {}), selector.get("matchExpressions", [])
    if not labels and not expressions:
        yield is_invalid(path, selector, "empty selector is invalid for deployment")
    yield from label_causes(labels, f"{path}.matchLabels")
    for index, expression in enumerate(expressions):
        place = f"{path}.matchExpressions[{index}]"
        operator = expression.get("operator")
        values = expression.get("values", [])
        if operator not in ("In", "NotIn", "Exists", "DoesNotExist"):
            yield is_invalid(f"{place}.operator", operator, "not a valid selector operator")
        elif operator in ("In", "NotIn") and not values:
            yield is_required(f"{place}.values", "must be specified when `operator` is 'In' or 'NotIn'")
        elif operator in ("Exists", "DoesNotExist") and values:
            yield is_forbidden(
                f"{place}.values", "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
            )


def matches(selector: Object, labels: dict[str, str]) -> bool:
    """Whether a LabelSelector selects these labels."""
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        _fits(expression, labels) for expression in selector.get("matchExpressions", ())
    )


def _fits(expression: Object, labels: dict[str, str]) -> bool:
    value, values = labels.get(expression.get("key", "")), expression.get("values", ())
    match expression.get("operator"):
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case _:
            return value is None
