"""Numbers as people read them: few digits, and a unit."""

from __future__ import annotations

from typing import Final

_UNITS: Final = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def bytes_text(count: float) -> str:
    """`912 B`, `1.4 KiB`, `23 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.0f} TiB" if count >= 10 else f"{count:.1f} TiB"


def duration_text(seconds: float) -> str:
    """`0.3s`, `12s`, `5m12s`, `3h4m`, `2d7h`: two units at most."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    rest = round(seconds)
    for place, (size, unit) in enumerate(_UNITS):
        if rest >= size:
            small = _UNITS[place + 1 : place + 2]
            return f"{rest // size}{unit}" + "".join(
                f"{rest % size // size_of_small}{unit_of_small}"
                for size_of_small, unit_of_small in small
                if rest % size // size_of_small
            )
    raise AssertionError("ten seconds are more than one")


def latency_text(seconds: float) -> str:
    """`0.42 ms`, `17 ms`, `1.3 s`."""
    if seconds >= 1:
        return f"{seconds:.1f} s"
    milliseconds = seconds * 1000
    return f"{milliseconds:.2f} ms" if milliseconds < 10 else f"{milliseconds:.0f} ms"


def rate_text(per_second: float) -> str:
    """`0`, `0.4`, `17`, `8,214`."""
    return f"{per_second:,.1f}" if 0 < per_second < 10 else f"{per_second:,.0f}"
