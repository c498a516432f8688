"""The node agent's composition and life cycle: who is built from what, who owns it, who closes it."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import Final, NoReturn, TypeVar

from userspace_proxy.agent.host import (
    ephemeral_ports,
    raise_descriptor_limit,
    require_privileges,
    udp_flows_per_worker,
)
from userspace_proxy.agent.portal_capture import PortalCapture
from userspace_proxy.agent.proxier import Proxier
from userspace_proxy.agent.single_instance import SingleInstance
from userspace_proxy.agent.supervision import run_together
from userspace_proxy.configuration import Configuration
from userspace_proxy.core.cluster_state import ClusterState
from userspace_proxy.core.port_claims import ProxyPortClaims
from userspace_proxy.core.service_port import IPFamily
from userspace_proxy.dataplane.listening_sockets import ListeningSockets
from userspace_proxy.dataplane.messages import WorkerLimits
from userspace_proxy.dataplane.worker_pool import WorkerPool
from userspace_proxy.errors import StartupError
from userspace_proxy.iptables.capture import Capture
from userspace_proxy.iptables.portal_rules import CaptureSettings
from userspace_proxy.iptables.rules import PortRange
from userspace_proxy.iptables.variant import BackendChoice, open_backend
from userspace_proxy.netlink.conntrack import delete_stale_udp
from userspace_proxy.netlink.node_network import (
    NetworkChanges,
    NodeNetwork,
    NodeNetworkError,
    read_node_network,
)
from userspace_proxy.sources import Source
from userspace_proxy.sources.manifests import ManifestsSource

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_RETRY_SECONDS: Final = 5.0
_SETTLE_SECONDS: Final = 0.1
"""Interfaces are made in several steps; one look after the last of them is enough."""


async def run_agent(configuration: Configuration) -> None:
    """Serve until SIGTERM or SIGINT. Rules stay behind for the next run; everything else is closed.

    Raises `StartupError` or `SourceError` if it cannot begin, `AgentRunningError` if another one serves.
    """
    require_privileges("userspace-proxy run")
    max_descriptors = raise_descriptor_limit()
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        instance = SingleInstance()
        instance.answer(loop)
        stack.callback(instance.close, loop)
        rules_thread = ThreadPoolExecutor(1, thread_name_prefix="rules")
        stack.callback(rules_thread.shutdown)

        async def blocking(work: Callable[[], _T]) -> _T:
            return await loop.run_in_executor(rules_thread, work)

        family = IPFamily.IPV4
        backend = await blocking(partial(open_backend, BackendChoice(configuration.iptables_backend), family))
        read_network = partial(blocking, partial(read_node_network, family))
        state = ClusterState(configuration.node_name)
        ports = configuration.proxy_port_range
        changes = NetworkChanges()  # before the first look, so that nothing between them is missed
        stack.callback(changes.close)
        network = await read_network()
        _require_local(configuration.bind_address, network)
        sockets = ListeningSockets(
            ProxyPortClaims(ports), {family: configuration.bind_address or "0.0.0.0"}, random.SystemRandom()
        )
        stack.callback(sockets.close_all)
        settings = settings_for(
            CaptureSettings(
                family,
                PortRange(ports.first, ports.last),
                refusing_port=sockets.reserve_port(),
                silent_port=sockets.reserve_port(),
                bind_address=configuration.bind_address,
            ),
            network,
            state.node_addresses(family),
        )
        capture = PortalCapture(
            capture=Capture(backend),
            settings=settings,
            delete_stale_udp=delete_stale_udp,
            rules_thread=rules_thread,
        )
        workers = WorkerPool(
            loop,
            size=configuration.workers,
            limits=WorkerLimits(
                udp_flows_per_worker(configuration.workers, max_descriptors, ephemeral_ports())
            ),
            random=random.SystemRandom(),
            listener_of=sockets.socket_of,
        )
        stack.push_async_callback(workers.close)
        source = _source_of(configuration)
        proxier = Proxier(
            state=state,
            sockets=sockets,
            workers=workers,
            captures=[capture],
            origin_of=source.origin_of,
            udp_timeout_seconds=configuration.udp_timeout_seconds,
            max_descriptors=max_descriptors,
        )
        await workers.start()
        logger.info(
            "Started: node=%s workers=%d proxy_ports=%s iptables=%s",
            configuration.node_name,
            configuration.workers,
            configuration.proxy_port_range,
            backend,
        )
        await run_together(
            _until_told_to_stop(loop),
            source.run(proxier),
            proxier.run(),
            _follow_network(changes, read_network, state, settings, capture),
        )
        logger.info("Stopped: rules stay for the next run, `userspace-proxy cleanup` removes them")


def settings_for(
    settings: CaptureSettings, network: NodeNetwork, node_addresses: tuple[str, ...]
) -> CaptureSettings:
    """How to capture on a node whose network is `network`.

    Traffic that comes in by an interface without an address cannot be redirected there, so it goes to an
    address that the node has elsewhere: one that its Node object states, if that is really here. Once it was
    so it stays so: interfaces of pods come and go, and rules should not.
    """
    if not network.unnumbered and settings.node_address is None:
        return settings
    local = [entry.address for entry in network.addresses if entry.interface != "lo"]
    stated = [address for address in node_addresses if address in local]
    if settings.node_address in local and not stated:
        return settings
    return replace(settings, node_address=next(iter([*stated, *local]), None))


def _require_local(bind_address: str | None, network: NodeNetwork) -> None:
    local = [entry.address for entry in network.addresses]
    if bind_address is not None and bind_address not in local:
        raise StartupError(
            f"--bind-address: {bind_address} is not an address of this node (it has {', '.join(local)})"
        )


def _source_of(configuration: Configuration) -> Source:
    if configuration.manifests is not None:
        return ManifestsSource(configuration.manifests)
    # Importing the API client takes a second that a directory of manifests need not wait for.
    from userspace_proxy.sources.api_server import ApiServerSource

    return ApiServerSource(configuration.kubeconfig, configuration.node_name)


async def _follow_network(
    changes: NetworkChanges,
    read: Callable[[], Awaitable[NodeNetwork]],
    state: ClusterState,
    settings: CaptureSettings,
    capture: PortalCapture,
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
            try:
                network = await read()
            except NodeNetworkError as error:
                logger.warning("The rules may not fit the node's network: %s", error)
                changed.set()
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            settings = settings_for(settings, network, state.node_addresses(settings.family))
            capture.capture_with(settings)
    finally:
        loop.remove_reader(changes.fileno())


async def _until_told_to_stop(loop: asyncio.AbstractEventLoop) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await stop.wait()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
