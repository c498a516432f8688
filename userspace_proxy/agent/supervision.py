"""Several jobs that live and die together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from typing import Any

from userspace_proxy.errors import UserspaceProxyError

logger = logging.getLogger(__name__)


class JobFailedError(UserspaceProxyError):
    """A job without which the agent cannot go on ended by an exception that nobody expected."""

    def __init__(self, job: str, cause: BaseException) -> None:
        super().__init__(
            f"the agent's job {job!r} ended by a failure of ours ({type(cause).__name__}: {cause}), and the "
            "agent with it. Its rules stay: start it again, and report what it logged"
        )
        self.job = job


async def run_together(jobs: Mapping[str, Coroutine[Any, Any, object]]) -> None:
    """Run `jobs`, each by its name, until one ends; the others are cancelled and awaited.

    Errors of ours are raised as they are. Any other exception is logged with its traceback, and raised as
    `JobFailedError`. (`asyncio.TaskGroup` would wrap an error that stands for the whole program in a group.)
    """
    tasks = {asyncio.ensure_future(job): name for name, job in jobs.items()}
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        try:
            task.result()
        except UserspaceProxyError:
            raise
        except Exception as error:
            logger.critical("The agent ends, a job has failed: job=%s", tasks[task], exc_info=error)
            raise JobFailedError(tasks[task], error) from error
