"""Follows the configuration file and the kubeconfig while the agent runs."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import NoReturn

from userspace_proxy.configuration.agent_configuration import Configuration
from userspace_proxy.configuration.loading import LiveConfiguration
from userspace_proxy.errors import SourceError, UsageError

logger = logging.getLogger(__name__)


async def watch_configuration(
    live: LiveConfiguration,
    apply: Callable[[Configuration], Awaitable[None]],
    renew: Callable[[], Awaitable[None]],
) -> NoReturn:
    """Have changed files take effect, for ever, as far as they can.

    `apply` is given a configuration in which no more differs than what can change at once; `renew` reads the
    kubeconfig again. A file that is wrong is named, and what was in force stays so.
    """
    ended = threading.Event()
    try:
        while True:
            # The waiting is the thread's too, so that a look that finds nothing wakes nobody.
            changed = await asyncio.to_thread(live.next_change, ended)
            if live.file in changed:
                await _reload(live, apply)
            if live.configuration.kubeconfig in changed:
                await _renew(live, renew)
    finally:
        ended.set()


async def _reload(live: LiveConfiguration, apply: Callable[[Configuration], Awaitable[None]]) -> None:
    notes = live.loaded.notes
    try:
        change = await asyncio.to_thread(live.reload)
    except UsageError as error:
        logger.error("Configuration not reloaded, what was in force stays so: %s", error)
        return
    for note in live.loaded.notes:
        if note not in notes:
            logger.info("%s", note)
    if change.applied:
        await apply(live.configuration)
        logger.info("Configuration reloaded: %s", ", ".join(change.applied))
    if change.waiting:
        logger.warning("Configuration changed, takes effect at the next start: %s", ", ".join(change.waiting))
    if not (change.applied or change.waiting):
        logger.info("Configuration read again: nothing differs")


async def _renew(live: LiveConfiguration, renew: Callable[[], Awaitable[None]]) -> None:
    try:
        await renew()
    except SourceError as error:
        logger.error("Kubeconfig not reloaded, what was in force stays so: %s", error)
    else:
        logger.info("Kubeconfig reloaded: %s", live.configuration.kubeconfig)
