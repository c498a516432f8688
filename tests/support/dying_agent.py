"""The agent, with a step at which it kills itself: `python -m tests.support.dying_agent ARMED STEP … run …`.

Once the file ARMED exists, STEP (`module:Class.method:number:when`) says in which call of that method from
then on the process dies, and whether `before` it, or `after` it was done.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import itertools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from userspace_proxy.cli import main


def die_at(step: str, armed: Path) -> None:
    module, path, number, when = step.split(":")
    class_name, method = path.split(".")
    owner = getattr(importlib.import_module(f"userspace_proxy.{module}"), class_name)
    calls = itertools.count(1)

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def is_due() -> bool:
        return armed.exists() and next(calls) == int(number)

    setattr(owner, method, _dying(getattr(owner, method), is_due, die, when == "before"))


def _dying(
    done: Callable[..., Any], is_due: Callable[[], bool], die: Callable[[], None], before: bool
) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(done):

        @functools.wraps(done)
        async def awaited(*arguments: Any, **options: Any) -> Any:
            due = is_due()
            if due and before:
                die()
            result = await done(*arguments, **options)
            if due:
                die()
            return result

        return awaited

    @functools.wraps(done)
    def called(*arguments: Any, **options: Any) -> Any:
        due = is_due()
        if due and before:
            die()
        result = done(*arguments, **options)
        if due:
            die()
        return result

    return called


if __name__ == "__main__":
    _, armed_file, step_to_die_at, *sys.argv[1:] = sys.argv
    die_at(step_to_die_at, Path(armed_file))
    main()
