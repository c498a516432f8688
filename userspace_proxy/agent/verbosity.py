"""What `log-level` answers and does: how much the agent and its workers log from now on."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from typing import Final

from userspace_proxy.admin.protocol import AdminError, ErrorCode
from userspace_proxy.admin.server import Method
from userspace_proxy.core.answers.verbosity import VerbosityAnswer, VerbosityQuestion
from userspace_proxy.dataplane.worker_pool import WorkerPool
from userspace_proxy.logs.log import Log

logger = logging.getLogger(__name__)

_MOST: Final = 10


class Verbosity:
    """That of `log` and of `workers`, which run or will."""

    def __init__(self, log: Log, workers: WorkerPool) -> None:
        self._log = log
        self._workers = workers

    async def set(self, verbosity: int) -> None:
        """Log as `-v VERBOSITY` has it; returns when the workers do, too."""
        self._log.shape(self._log.log_format, verbosity)
        await self._workers.set_verbosity(verbosity)

    def methods(self) -> dict[str, Method]:
        return {"log-level": Method(self._answer, VerbosityQuestion)}

    async def _answer(self, question: VerbosityQuestion) -> AsyncGenerator[VerbosityAnswer, None]:
        verbosity = question.verbosity
        if verbosity is not None:
            if not 0 <= verbosity <= _MOST:
                raise AdminError(
                    ErrorCode.BAD_REQUEST, f"{verbosity} is no verbosity: it is from 0 to {_MOST}"
                )
            logger.info("Verbosity changed over the admin socket: verbosity=%d", verbosity)
            await self.set(verbosity)
        yield VerbosityAnswer(verbosity=self._log.verbosity)
