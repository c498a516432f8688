"""Whether labels are selected. Source: "Labels and Selectors" in the Kubernetes documentation."""

from __future__ import annotations

from collections.abc import Mapping

from userspace_proxy.demo.controllers.objects import LabelSelector, LabelSelectorRequirement


def is_subset(wanted: Mapping[str, str] | None, labels: Mapping[str, str] | None) -> bool:
    """Whether `labels` has all that is `wanted`, as a Service's or a pod's node selector means it."""
    return not wanted or (labels is not None and wanted.items() <= labels.items())


def selects(selector: LabelSelector, labels: Mapping[str, str] | None) -> bool:
    """Whether a LabelSelector lets `labels` through; an operator that does not exist lets nothing through."""
    return is_subset(selector.match_labels, labels) and all(
        _is_met(requirement, labels or {}) for requirement in selector.match_expressions or ()
    )


def _is_met(requirement: LabelSelectorRequirement, labels: Mapping[str, str]) -> bool:
    value = labels.get(requirement.key)
    values = requirement.values or ()
    match requirement.operator:
        case "In":
            return value is not None and value in values
        case "NotIn":
            return value is None or value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case _:
            return False
