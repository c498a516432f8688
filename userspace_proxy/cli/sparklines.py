"""The last values of something, as a line of small bars."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

_BARS: Final = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int) -> str:
    """The last `width` of them, the newest at the right, as high as they are beside the highest."""
    shown = values[-width:]
    highest = max(shown, default=0.0)
    bars = [
        _BARS[min(int(value / highest * len(_BARS)), len(_BARS) - 1)] if value > 0 else " " for value in shown
    ]
    return "".join(bars).rjust(width)


class Histories:
    """The last values by name. Who has none for once has 0; who is 0 all along is forgotten."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._values: dict[str, deque[float]] = {}

    def add(self, values: Iterable[tuple[str, float]]) -> None:
        """One more moment."""
        now = dict(values)
        for name in now.keys() - self._values.keys():
            self._values[name] = deque(maxlen=self._length)
        for name, history in self._values.items():
            history.append(now.get(name, 0.0))
        for name in [name for name, history in self._values.items() if not any(history)]:
            del self._values[name]

    def of(self, name: str) -> list[float]:
        return list(self._values.get(name, ()))
