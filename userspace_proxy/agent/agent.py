"""The node agent's composition and life cycle: who is built from what, who owns it, who closes it."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Final, NoReturn

import yaml

from userspace_proxy.agent.administration import Administration
from userspace_proxy.agent.configuration_watch import watch_configuration
from userspace_proxy.agent.conntrack_room import watch_conntrack_room
from userspace_proxy.agent.conntrack_sysctls import set_conntrack_sysctls
from userspace_proxy.agent.event_recorder import EventRecorder
from userspace_proxy.agent.fitted_captures import (
    FittedCaptures,
    KernelThread,
    open_backends,
    read_networks,
)
from userspace_proxy.agent.garbage import collect_rarely, leave_alone_what_is_there
from userspace_proxy.agent.gentle_import import import_gently
from userspace_proxy.agent.host import (
    adjust_oom_score,
    ephemeral_ports,
    give_up_capabilities,
    raise_descriptor_limit,
    require_privileges,
    reuse_ports_in_time_wait,
    udp_flows_per_worker,
)
from userspace_proxy.agent.network_watch import watch_network
from userspace_proxy.agent.observation import Observation
from userspace_proxy.agent.operator_ejections import OperatorEjections
from userspace_proxy.agent.proxier import Proxier
from userspace_proxy.agent.replacement import InstalledPackage
from userspace_proxy.agent.shared_ports import SharedPorts
from userspace_proxy.agent.single_instance import Request, SingleInstance
from userspace_proxy.agent.supervision import run_together
from userspace_proxy.agent.verbosity import Verbosity
from userspace_proxy.configuration.agent_configuration import Configuration
from userspace_proxy.configuration.loading import LiveConfiguration
from userspace_proxy.core.cluster_state import ClusterState
from userspace_proxy.core.event_reasons import STARTING
from userspace_proxy.core.port_claims import ProxyPortClaims
from userspace_proxy.core.service_port import EVERY_LOCAL_ADDRESS
from userspace_proxy.dataplane.build_identity import build_identity
from userspace_proxy.dataplane.control_sockets import ControlSockets
from userspace_proxy.dataplane.listening_sockets import ListeningSockets
from userspace_proxy.dataplane.messages import WorkerLimits
from userspace_proxy.dataplane.orphans import find_orphans, sort_out
from userspace_proxy.dataplane.worker_pool import WorkerPool
from userspace_proxy.errors import StartupError
from userspace_proxy.logs.log import Log
from userspace_proxy.netlink.listening_ports import listening_ports
from userspace_proxy.netlink.node_network import (
    NetworkChanges,
    NodeNetwork,
)
from userspace_proxy.observability.health_check_node_ports import HealthCheckNodePorts
from userspace_proxy.sources import Source
from userspace_proxy.sources.manifests import ManifestsSource

logger = logging.getLogger(__name__)

_TIDY_SECONDS: Final = 30.0


async def run_agent(live: LiveConfiguration, log: Log) -> bool:
    """Serve until SIGTERM or SIGINT, or until another agent asks to take over.

    Rules stay behind for the next run, and workers for as long as they were told; everything else is closed.
    An agent that runs already is asked to make room once this one is as ready as it can be: whatever may keep
    it from starting should have done so by then. `log` is started here; workers' logs look like it. Raises
    `StartupError` or `SourceError` if it cannot begin, `AgentRunningError` if another one serves and does not
    make room.

    Returns whether the process is to start again, because its package was replaced.
    """
    configuration = live.configuration
    require_privileges("userspace-proxy run")
    adjust_oom_score(configuration.oom_score_adj)
    give_up_capabilities(configuration.iptables_backend)
    log.start()
    max_descriptors = raise_descriptor_limit()
    if configuration.tcp_tw_reuse:
        reuse_ports_in_time_wait()
    collect_rarely()
    loop = asyncio.get_running_loop()
    build = build_identity()
    package = InstalledPackage(build)
    async with AsyncExitStack() as stack:
        instance = SingleInstance()
        stack.callback(instance.close)
        source = _source_of(configuration)
        await source.check()
        rules_thread, netlink_thread = KernelThread(loop, "rules"), KernelThread(loop, "netlink")
        for thread in (rules_thread, netlink_thread):
            stack.callback(thread.executor.shutdown)
        changes = NetworkChanges()  # before the first look, so that nothing between them is missed
        stack.callback(changes.close)
        networks = await read_networks(netlink_thread)
        _require_local(configuration.bind_address, list(networks.values()))

        state = ClusterState(
            configuration.node_name,
            configuration.proxy_port_range,
            configuration.service_settings,
            configuration.detect_local.cluster_cidrs,
        )
        events = EventRecorder(state, source.write_event if configuration.events else None, clock=loop.time)
        backends = await open_backends(rules_thread, configuration.iptables_backend, networks, events.record)
        networks = {family: networks[family] for family in backends}
        # After iptables, which loads what these belong to.
        await asyncio.to_thread(set_conntrack_sysctls, configuration.conntrack)

        sockets = ListeningSockets(
            ProxyPortClaims(configuration.proxy_port_range),
            {
                family: configuration.bind_address_of(family) or EVERY_LOCAL_ADDRESS[family]
                for family in networks
            },
            random.SystemRandom(),
        )
        stack.callback(sockets.close_all)
        control_sockets = ControlSockets(configuration.state_directory)
        control_sockets.prepare()
        stack.callback(control_sockets.remove)
        workers = WorkerPool(
            loop,
            size=configuration.workers,
            limits=WorkerLimits(
                udp_flows_per_worker(configuration.workers, max_descriptors, len(ephemeral_ports())),
                tcp_peer_timeout_seconds=configuration.tcp_peer_timeout_seconds,
                tcp_user_timeout_seconds=configuration.tcp_user_timeout_seconds,
            ),
            random=random.SystemRandom(),
            listener_of=sockets.socket_of,
            control_sockets=control_sockets,
            build=build,
            is_replaced=package.is_replaced,
            orphan_seconds=configuration.orphan_seconds,
            drain_seconds=configuration.drain_seconds,
            log_format=log.log_format,
            verbosity=log.verbosity,
            record_event=events.record,
        )
        stack.push_async_callback(workers.close)
        await workers.warm()

        stop, to_drain = asyncio.Event(), asyncio.Event()
        await _become_the_agent(instance, configuration)

        def asked(request: Request) -> None:
            match request:
                case Request.HAND_OVER:
                    logger.info("Another agent takes over, this one hands over to it")
                case Request.DRAIN if to_drain.is_set():
                    return  # it does, and who asks again waits for its end, too
                case Request.DRAIN:
                    to_drain.set()
            stop.set()

        instance.answer(loop, asked)
        inheritance = sort_out(
            await find_orphans(loop, control_sockets),
            build=build,
            pool_size=configuration.workers,
            accept=sockets.accept,
        )
        stack.callback(inheritance.close)
        captures = FittedCaptures(
            configuration,
            rules_thread,
            netlink_thread,
            refusing_port=sockets.reserve_port("refusing", inheritance.kept),
            silent_port=sockets.reserve_port("silent", inheritance.kept),
            record_event=events.record,
        )
        captures.open(networks, backends, state.node_facts)
        state.readdress(captures.node_addresses())
        health_checks = HealthCheckNodePorts(
            loop,
            is_healthy=lambda: all(capture.is_healthy() for capture in captures),
            addresses=captures.node_port_addresses,
            kept=inheritance.kept,
            keep=lambda checked: workers.keep({**sockets.reserved, **checked}),
            record_event=events.record,
        )
        stack.push_async_callback(health_checks.close)

        def refit_health_checks() -> None:
            if proxier.health_checks:  # none at first: what an earlier agent had is not to be closed for that
                health_checks.serve(proxier.health_checks)

        def node_changed() -> None:
            captures.fit(state.node_facts)
            refit_health_checks()

        async def network_changed() -> None:
            await captures.refit(lambda: state.node_facts)
            state.readdress(captures.node_addresses())
            proxier.observe(())  # to have planned again what that touches
            refit_health_checks()

        ejections = OperatorEjections()
        ejections.inherit(inheritance.told)
        proxier = Proxier(
            state=state,
            sockets=sockets,
            workers=workers,
            captures=list(captures),
            origin_of=source.origin_of,
            serve_health_checks=health_checks.serve,
            node_changed=node_changed,
            shared_ports=SharedPorts(listening_ports, record_event=events.record),
            ejections=ejections,
            udp_timeout_seconds=configuration.udp_timeout_seconds,
            max_descriptors=max_descriptors,
            record_event=events.record,
            serving_began=leave_alone_what_is_there,
        )

        verbosity = Verbosity(log, workers)

        async def reconfigure(fresh: Configuration) -> None:
            await verbosity.set(fresh.verbosity)
            captures.follow(fresh, state.node_facts)
            proxier.follow(fresh.service_settings, fresh.detect_local.cluster_cidrs)
            refit_health_checks()
            await asyncio.to_thread(set_conntrack_sysctls, fresh.conntrack)

        observation = Observation(
            loop,
            configuration,
            state=state,
            proxier=proxier,
            captures=list(captures),
            workers=workers,
            ejections=ejections.known,
            shown=lambda: {"kubeproxy.config.k8s.io": yaml.safe_load(live.loaded.written())},
            events=events.series,
            record_event=events.record,
        )
        stack.push_async_callback(observation.close)
        administration = Administration(
            control_sockets.folder,
            state=state,
            source=source,
            proxier=proxier,
            captures=captures,
            netlink_thread=netlink_thread,
            sockets=sockets,
            workers=workers,
            ejections=ejections,
            observation=observation,
            log=log,
            verbosity=verbosity,
            max_descriptors=max_descriptors,
        )
        stack.push_async_callback(administration.close)
        if inheritance.adopted or inheritance.outgoing:
            logger.info(
                "Workers of an earlier agent found: adopted, workers=%d; to be replaced, workers=%d",
                len(inheritance.adopted),
                len(inheritance.outgoing),
            )
        await workers.start(inheritance.adopted, inheritance.outgoing)
        await workers.keep({**sockets.reserved, **inheritance.kept})
        logger.info(
            "Started: node=%s families=%s workers=%d proxy_ports=%s",
            configuration.node_name,
            ",".join(family.value for family in networks),
            configuration.workers,
            configuration.proxy_port_range,
        )
        events.record(STARTING, f"Starting userspace-proxy {observation.version}")

        await run_together(
            {
                "signals": _until_told_to_stop(loop, stop),
                "source": source.run(proxier),
                "proxier": proxier.run(),
                "workers": workers.run(),
                "health checks": health_checks.run(),
                "conntrack room": watch_conntrack_room(record_event=events.record),
                "node network": watch_network(changes, network_changed),
                **observation.jobs(),
                **administration.jobs(),
                "resync": _resync(live, state, proxier),
                "control sockets": _tidy(control_sockets),
                "configuration": watch_configuration(live, reconfigure, source.renew, events.record),
                "events": events.run(),
                "package": package.until_startable(workers.was_replaced),
            }
        )
        if to_drain.is_set():
            logger.info("Draining: nothing new is taken, what runs may finish")
            observation.is_draining = True
            await health_checks.close()
            sockets.close_all()
            stop.clear()
            await run_together({"signals": _until_told_to_stop(loop, stop), "workers": workers.drain()})
        logger.info("Stopped: rules stay for the next run, `userspace-proxy cleanup` removes them")
    return package.is_startable and not stop.is_set()


async def _tidy(control_sockets: ControlSockets) -> None:
    while True:
        await asyncio.sleep(_TIDY_SECONDS)
        await asyncio.to_thread(control_sockets.remove_left)


async def _become_the_agent(instance: SingleInstance, configuration: Configuration) -> None:
    if not configuration.takes_over:
        instance.hold()
        return
    pid = await instance.take_over()
    if pid is not None:
        logger.info("Took over from a running agent: pid=%s", pid or "unknown")


def _require_local(bind_address: str | None, networks: Sequence[NodeNetwork]) -> None:
    local = [entry.address for network in networks for entry in network.addresses]
    if bind_address is not None and bind_address not in local:
        raise StartupError(
            f"--bind-address: {bind_address} is not an address of this node (it has {', '.join(local)})"
        )


def _source_of(configuration: Configuration) -> Source:
    if configuration.manifests is not None:
        return ManifestsSource(configuration.manifests)
    # Importing the API client takes half a second that a directory of manifests need not wait for.
    import_gently("userspace_proxy.sources.api_server")
    from userspace_proxy.sources.api_server import ApiServerSource

    return ApiServerSource(
        configuration.kubeconfig,
        configuration.node_name,
        master=configuration.master,
        qps=configuration.kube_api_qps,
        burst=configuration.kube_api_burst,
    )


async def _resync(live: LiveConfiguration, state: ClusterState, proxier: Proxier) -> NoReturn:
    """Now and then take nothing for granted that was made of what is known."""
    while True:
        await asyncio.sleep(live.configuration.config_sync_seconds)
        state.plan_all_again()
        proxier.observe(())
        proxier.ledger.record_again()


async def _until_told_to_stop(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await stop.wait()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
