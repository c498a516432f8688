"""The captures of every family that this node has, fitted to its interfaces, addresses and Node object."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from userspace_proxy.agent.capture_settings import capture_settings, local_addresses
from userspace_proxy.agent.portal_capture import PortalCapture
from userspace_proxy.agent.stale_conntrack import StaleConntrack
from userspace_proxy.configuration.agent_configuration import Configuration
from userspace_proxy.core.cluster_state import NodeFacts
from userspace_proxy.core.event_reasons import FAMILY_NOT_SERVED
from userspace_proxy.core.event_series import RecordEvent
from userspace_proxy.core.service_port import EVERY_LOCAL_ADDRESS, IPFamily, ProxyPort
from userspace_proxy.errors import RulesError
from userspace_proxy.iptables.capture import Backend, Capture
from userspace_proxy.iptables.change_marks import NftMarks
from userspace_proxy.iptables.iptables_restore import HiddenTableError
from userspace_proxy.iptables.other_variant import OtherVariant
from userspace_proxy.iptables.portal_rules import CaptureSettings
from userspace_proxy.iptables.variant import BackendChoice, detect_variant, open_backend, why_unavailable
from userspace_proxy.netlink.conntrack import delete_stale_entries
from userspace_proxy.netlink.node_network import NodeNetwork, read_node_network

logger = logging.getLogger(__name__)

_T = TypeVar("_T")


class KernelThread:
    """One thread to block in: `rules` for iptables, `netlink` for conntrack, addresses and routes."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self.executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._loop = loop

    async def run(self, work: Callable[[], _T]) -> _T:
        return await self._loop.run_in_executor(self.executor, work)


async def read_networks(netlink_thread: KernelThread) -> dict[IPFamily, NodeNetwork]:
    """The node's network in IPv4, and in IPv6 where this host has it. Raises `NodeNetworkError`."""
    families = [IPFamily.IPV4]
    why = await netlink_thread.run(partial(why_unavailable, IPFamily.IPV6))
    if why is None:
        families.append(IPFamily.IPV6)
    else:
        logger.info("Services are served in IPv4 alone: %s", why)
    return {family: await netlink_thread.run(partial(read_node_network, family)) for family in families}


async def open_backends(
    rules_thread: KernelThread, chosen: str, families: Iterable[IPFamily], record_event: RecordEvent
) -> dict[IPFamily, Backend]:
    """What writes each family's rules. `chosen` is `--iptables-backend`. Raises `StartupError`.

    IPv6 is left out if ip6tables cannot show its tables: IPv4 is not to wait until somebody has mended that.
    """
    choice = BackendChoice(chosen)
    if choice is BackendChoice.AUTO:
        # One for both families: what the host uses for IPv4 decides.
        variant = await rules_thread.run(partial(detect_variant, IPFamily.IPV4))
        choice = BackendChoice(variant.value)
    nft_marks = NftMarks()
    backends = {}
    for family in families:
        backend = await rules_thread.run(partial(open_backend, choice, family, nft_marks))
        why = await rules_thread.run(partial(_why_hidden, backend)) if family is IPFamily.IPV6 else None
        if why is None:
            backends[family] = backend
        else:
            logger.error("Services are served in IPv4 alone until the agent is started again: %s", why)
            record_event(FAMILY_NOT_SERVED, f"Services are served in IPv4 alone until the next start: {why}")
    return backends


def _why_hidden(backend: Backend) -> str | None:
    try:
        backend.save()
    except HiddenTableError as error:
        return str(error)
    except RulesError:
        pass  # it may pass, and is tried again
    return None


@dataclass(slots=True)
class _Fitted:
    capture: PortalCapture
    settings: CaptureSettings
    network: NodeNetwork


class FittedCaptures:
    """Iterates over the captures. `open` makes them, `fit` and `refit` fit them to a changed node."""

    def __init__(
        self,
        configuration: Configuration,
        rules_thread: KernelThread,
        netlink_thread: KernelThread,
        *,
        refusing_port: ProxyPort,
        silent_port: ProxyPort,
        record_event: RecordEvent,
    ) -> None:
        self._record_event = record_event
        self._configuration = configuration
        self._rules_thread = rules_thread
        self._netlink_thread = netlink_thread
        self._refusing_port = refusing_port
        self._silent_port = silent_port
        self._fitted: dict[IPFamily, _Fitted] = {}

    def __iter__(self) -> Iterator[PortalCapture]:
        return iter([fitted.capture for fitted in self._fitted.values()])

    def find(self, family: IPFamily) -> PortalCapture | None:
        """The capture of a family; None if it is not served here."""
        return self._fitted[family].capture if family in self._fitted else None

    def addresses_by_interface(self, family: IPFamily) -> dict[str, tuple[str, ...]]:
        """The node's addresses of a family that is served."""
        found: dict[str, tuple[str, ...]] = {}
        for entry in self._fitted[family].network.addresses:
            found[entry.interface] = (*found.get(entry.interface, ()), entry.address)
        return found

    def follow(self, configuration: Configuration, facts: NodeFacts) -> None:
        """Capture by another configuration from now on."""
        self._configuration = configuration
        for fitted in self._fitted.values():
            fitted.capture.space(
                verify_seconds=configuration.iptables_sync_seconds,
                max_spacing_seconds=configuration.iptables_min_sync_seconds,
            )
        self.fit(facts)

    def _settings_for(
        self, family: IPFamily, network: NodeNetwork, facts: NodeFacts, before: CaptureSettings | None
    ) -> CaptureSettings:
        return capture_settings(
            self._configuration,
            family,
            network,
            facts,
            refusing_port=self._refusing_port,
            silent_port=self._silent_port,
            before=before,
        )

    def open(
        self, networks: dict[IPFamily, NodeNetwork], backends: dict[IPFamily, Backend], facts: NodeFacts
    ) -> None:
        """Make a capture for each family."""
        for family, network in networks.items():
            backend = backends[family]
            settings = self._settings_for(family, network, facts, before=None)
            capture = PortalCapture(
                capture=Capture(backend),
                settings=settings,
                local_addresses=local_addresses(network),
                stale_conntrack=StaleConntrack(settings, delete_stale_entries, self._netlink_thread.executor),
                rules_thread=self._rules_thread.executor,
                other_variant=OtherVariant(backend.variant, family),
                verify_seconds=self._configuration.iptables_sync_seconds,
                max_spacing_seconds=self._configuration.iptables_min_sync_seconds,
                record_event=self._record_event,
            )
            self._fitted[family] = _Fitted(capture, settings, network)
            logger.info("Rules are written: family=%s by=%s", family.value, backend)

    def fit(self, facts: NodeFacts) -> None:
        """Fit the captures to what the Node object says, before anything else is made of it."""
        for family, fitted in self._fitted.items():
            fitted.settings = self._settings_for(family, fitted.network, facts, before=fitted.settings)
            fitted.capture.capture_with(fitted.settings, local_addresses(fitted.network))

    async def refit(self, facts: Callable[[], NodeFacts]) -> None:
        """Look at the node's network again. Raises `NodeNetworkError`; nothing changes then."""
        networks = {
            family: await self._netlink_thread.run(partial(read_node_network, family))
            for family in self._fitted
        }
        for family, network in networks.items():
            self._fitted[family].network = network
        self.fit(facts())

    def node_addresses(self) -> frozenset[str]:
        """Every address that an interface of this node has."""
        return frozenset(
            entry.address for fitted in self._fitted.values() for entry in fitted.network.addresses
        )

    def node_port_addresses(self) -> list[str]:
        """Where ports of the node are to be open: what `--nodeport-addresses` leaves of its addresses."""
        addresses: list[str] = []
        for family, fitted in self._fitted.items():
            cidrs = fitted.settings.nodeport_addresses
            if cidrs is None:
                addresses.append(EVERY_LOCAL_ADDRESS[family])
                continue
            networks = [ipaddress.ip_network(cidr) for cidr in cidrs]
            addresses += [
                address
                for address in local_addresses(fitted.network)
                if any(ipaddress.ip_address(address) in network for network in networks)
            ]
        return addresses
