"""Follows the configuration file and the kubeconfig while the agent runs."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import NoReturn

from userspace_proxy.configuration.agent_configuration import Configuration
from userspace_proxy.configuration.loading import LiveConfiguration
from userspace_proxy.core.event_reasons import CONFIGURATION_INVALID, RESTART_NEEDED
from userspace_proxy.core.event_series import RecordEvent, unrecorded
from userspace_proxy.errors import SourceError, UsageError

logger = logging.getLogger(__name__)


async def watch_configuration(
    live: LiveConfiguration,
    apply: Callable[[Configuration], Awaitable[None]],
    renew: Callable[[], Awaitable[None]],
    record_event: RecordEvent = unrecorded,
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
                await _reload(live, apply, record_event)
            if live.configuration.kubeconfig in changed:
                await _renew(live, renew, record_event)
    finally:
        ended.set()


async def _reload(
    live: LiveConfiguration,
    apply: Callable[[Configuration], Awaitable[None]],
    record_event: RecordEvent,
) -> None:
    notes = live.loaded.notes
    try:
        change = await asyncio.to_thread(live.reload)
    except UsageError as error:
        logger.error("Configuration not reloaded, what was in force stays so: %s", error)
        record_event(CONFIGURATION_INVALID, f"{live.file} was not reloaded: {error}")
        return
    for note in live.loaded.notes:
        if note not in notes:
            logger.info("%s", note)
    if change.applied:
        await apply(live.configuration)
        logger.info("Configuration reloaded: %s", ", ".join(change.applied))
    if change.waiting:
        waiting = ", ".join(change.waiting)
        logger.warning("Configuration changed, takes effect at the next start: %s", waiting)
        record_event(RESTART_NEEDED, f"Changed, and takes effect at the next start: {waiting}")
    if not (change.applied or change.waiting):
        logger.info("Configuration read again: nothing differs")


async def _renew(
    live: LiveConfiguration, renew: Callable[[], Awaitable[None]], record_event: RecordEvent
) -> None:
    try:
        await renew()
    except SourceError as error:
        logger.error("Kubeconfig not reloaded, what was in force stays so: %s", error)
        record_event(CONFIGURATION_INVALID, f"{live.configuration.kubeconfig} was not reloaded: {error}")
    else:
        logger.info("Kubeconfig reloaded: %s", live.configuration.kubeconfig)
