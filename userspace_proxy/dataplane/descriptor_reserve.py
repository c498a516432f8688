"""Descriptors that clients cannot use up.

Connections and flows may take all the descriptors that a worker is allowed, and then the kernel drops the
listening sockets that the agent sends it. So the worker's own limit is lower than it could be, and is raised
only while it receives. Descriptors above the limit stay good. Source: getrlimit(2), RLIMIT_NOFILE.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

RESERVED_DESCRIPTORS: Final = 256
"""More than one message carries, and no more than the agent, under the same limit, has open beside listeners:
so a worker that has just started has room for all of those outside the reserve."""


def reserved_descriptors(limit: int) -> int:
    """How many of `limit` descriptors a worker withholds: a quarter at most."""
    return min(RESERVED_DESCRIPTORS, limit // 4)


class DescriptorReserve:
    """Withholds descriptors of this process from whoever opens one outside `released`."""

    def __init__(self) -> None:
        self._all, self._hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._rest = self._all - reserved_descriptors(self._all)
        self._limit_to(self._rest)

    @contextmanager
    def released(self) -> Iterator[None]:
        """Let the body open descriptors of the reserve, too. Nothing else may run meanwhile."""
        self._limit_to(self._all)
        try:
            yield
        finally:
            self._limit_to(self._rest)

    def _limit_to(self, soft: int) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, self._hard))
