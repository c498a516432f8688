"""Follows the node's interfaces, addresses and routes while the agent runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Final, NoReturn

from userspace_proxy.netlink.node_network import NetworkChanges, NodeNetworkError

logger = logging.getLogger(__name__)

_RETRY_SECONDS: Final = 5.0
_SHARE_OF_TIME: Final = 0.1
_MAX_REST_SECONDS: Final = 10.0
_SETTLE_SECONDS: Final = 0.1
"""Interfaces are made in several steps; one look after the last of them is enough."""


async def watch_network(
    changes: NetworkChanges, fit: Callable[[], Coroutine[object, object, None]]
) -> NoReturn:
    """Let the rules fit the node's interfaces and addresses as these come and go."""
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()

    def notice() -> None:
        changes.drain()
        changed.set()

    loop.add_reader(changes.fileno(), notice)
    try:
        while True:
            await changed.wait()
            await asyncio.sleep(_SETTLE_SECONDS)
            changed.clear()
            started = loop.time()
            try:
                await fit()
                # Where routes come and go all the time, and there are many, a tenth of the time is enough.
                await asyncio.sleep(min((loop.time() - started) / _SHARE_OF_TIME, _MAX_REST_SECONDS))
            except NodeNetworkError as error:
                logger.warning("The rules may not fit the node's network: %s", error)
                changed.set()
                await asyncio.sleep(_RETRY_SECONDS)
    finally:
        loop.remove_reader(changes.fileno())
