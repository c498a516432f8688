"""Several jobs that live and die together."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def run_together(*jobs: Coroutine[Any, Any, object]) -> None:
    """Run `jobs` until one ends or fails; the others are cancelled and awaited, and its error is raised.

    `asyncio.TaskGroup` would wrap the error of a job that stands for the whole program in a group.
    """
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
