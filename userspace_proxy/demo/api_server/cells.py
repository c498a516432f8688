"""What stands in a table's cells: ages, lists that are cut short, selectors as one writes them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, TypeAlias

from userspace_proxy.demo.api_server.objects import Object, parse_timestamp

Cells: TypeAlias = tuple[Any, ...]

NONE: Final = "<none>"
UNKNOWN: Final = "<unknown>"
UNSET: Final = "<unset>"
SHOWN: Final = 3
"""Parts of a list that are shown; of the others the number."""


def age(item: Object, now: datetime) -> str:
    """How long an object has been there."""
    return since(item["metadata"].get("creationTimestamp"), now)


def since(text: str | None, now: datetime) -> str:
    """How long ago a timestamp was."""
    moment = parse_timestamp(text) if text else None
    return UNKNOWN if moment is None else duration((now - moment).total_seconds())


def duration(seconds: float) -> str:
    """A time span in two or three characters, coarser the longer it is: `42s`, `5m3s`, `3h`, `2d4h`."""
    whole = max(0, int(seconds))
    minutes, hours, days = whole // 60, whole // 3600, whole // 86_400
    if whole < 120:
        return f"{whole}s"
    if minutes < 10:
        return _two(minutes, "m", whole % 60, "s")
    if hours < 3:
        return f"{minutes}m"
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return _two(days, "d", hours % 24, "h")
    if days < 730:
        return f"{days}d"
    if days < 2920:
        return _two(days // 365, "y", days % 365, "d")
    return f"{days // 365}y"


def _two(large: int, unit: str, small: int, smaller: str) -> str:
    return f"{large}{unit}{small}{smaller}" if small else f"{large}{unit}"


def label_selector_text(selector: Object) -> str:
    """A LabelSelector as one would write it for kubectl."""
    words = [f"{key}={value}" for key, value in sorted(selector.get("matchLabels", {}).items())]
    for expression in selector.get("matchExpressions", ()):
        key, values = expression.get("key", ""), ",".join(expression.get("values", ()))
        match expression.get("operator"):
            case "In":
                words.append(f"{key} in ({values})")
            case "NotIn":
                words.append(f"{key} notin ({values})")
            case "Exists":
                words.append(key)
            case _:
                words.append(f"!{key}")
    return ",".join(words)


def shortened(parts: list[str], empty: str) -> str:
    """The first parts of a list, and how many more there are."""
    if not parts:
        return empty
    more = len(parts) - SHOWN
    return ",".join(parts[:SHOWN]) + (f" + {more} more..." if more > 0 else "")
