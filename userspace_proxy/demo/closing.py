"""What demo, tests and benchmarks build on a machine is taken down again, also when it was never finished."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self


class Closing(ABC):
    """Something that is there from its making until `close`, or until the end of its `with` block."""

    @abstractmethod
    def close(self) -> None:
        """Take it down, as much as there is of it. Safe to repeat."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def closed_on_failure(self) -> Iterator[None]:
        """Within it what fails takes down what there is: nobody else could, of what was never made."""
        try:
            yield
        except BaseException:
            self.close()
            raise
