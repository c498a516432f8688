"""Which variant is chosen on a host, and that looking leaves the host as it was."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.iptables.packet_table import BRIDGED, PORTALS
from userspace_proxy.core.service_port import IPFamily
from userspace_proxy.demo.namespaces import Namespace
from userspace_proxy.errors import StartupError
from userspace_proxy.iptables import python_iptables, variant
from userspace_proxy.iptables.capture import Capture
from userspace_proxy.iptables.iptables_restore import IptablesRestore, Variant, find_program
from userspace_proxy.iptables.portal_rules import PortalRules
from userspace_proxy.iptables.python_iptables import PythonIptables
from userspace_proxy.iptables.rule_changes import TableChange
from userspace_proxy.iptables.variant import (
    BackendChoice,
    detect_variant,
    installed_backends,
    open_backend,
    why_unavailable,
)

V4, V6 = IPFamily.IPV4, IPFamily.IPV6
ALL = PortalRules().rule_set(PORTALS, BRIDGED.settings)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Namespace]:
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))
    with Namespace("variant") as namespace:
        yield namespace


def detect(host: Namespace, family: IPFamily = V4) -> Variant:
    return host.call(lambda: detect_variant(family))


def test_a_host_without_rules_is_nft(host: Namespace) -> None:
    assert detect(host) is Variant.NFT
    assert detect(host, V6) is Variant.NFT


@pytest.mark.parametrize("hint", ["KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"])
@pytest.mark.parametrize("chosen", list(Variant), ids=lambda chosen: chosen.value)
def test_kubelet_s_hint_decides_whatever_else_there_is(host: Namespace, chosen: Variant, hint: str) -> None:
    other = next(known for known in Variant if known is not chosen)
    for _ in range(3):
        host.run(f"iptables-{other.value}", "-A", "INPUT", "-p", "icmp", "-j", "ACCEPT")
    host.run(f"iptables-{chosen.value}", "-t", "mangle", "-N", hint)
    assert detect(host) is chosen


@pytest.mark.parametrize("chosen", list(Variant), ids=lambda chosen: chosen.value)
def test_without_a_hint_it_is_where_we_were_and_then_what_is_in_use(host: Namespace, chosen: Variant) -> None:
    other = next(known for known in Variant if known is not chosen)
    host.run(f"iptables-{chosen.value}", "-A", "INPUT", "-p", "icmp", "-j", "ACCEPT")
    assert detect(host) is chosen
    host.call(lambda: Capture(IptablesRestore(other, V4)).sync(ALL))
    assert detect(host) is other


def test_families_are_looked_at_by_themselves(host: Namespace) -> None:
    host.run("ip6tables-legacy", "-A", "INPUT", "-j", "ACCEPT")
    assert detect(host, V6) is Variant.LEGACY
    assert detect(host, V4) is Variant.NFT


@pytest.mark.parametrize("choice", [BackendChoice.AUTO, BackendChoice.NFT], ids=lambda choice: choice.value)
def test_an_nft_host_gets_no_legacy_tables(host: Namespace, choice: BackendChoice) -> None:
    def work() -> str:
        capture = Capture(open_backend(choice, V4))
        capture.sync(ALL)
        capture.remove_everything()
        assert installed_backends(V4) == []
        return Path("/proc/thread-self/net/ip_tables_names").read_text()

    assert host.call(work) == ""
    assert "legacy" not in host.run("iptables-nft-save").stdout


def test_python_iptables_registers_the_tables_that_it_writes_and_no_others(host: Namespace) -> None:
    def work() -> str:
        Capture(open_backend(BackendChoice.PYTHON_IPTABLES, V4)).sync(ALL)
        return Path("/proc/thread-self/net/ip_tables_names").read_text()

    assert sorted(host.call(work).split()) == ["filter", "nat"]


def test_rules_of_an_earlier_run_are_found_in_every_variant(host: Namespace) -> None:
    for known in Variant:
        host.call(partial(Capture(IptablesRestore(known, V4)).sync, ALL))
    backends = host.call(lambda: installed_backends(V4))
    assert [str(backend) for backend in backends] == ["nft", "legacy"]


@pytest.mark.parametrize(
    ("choice", "family", "name"),
    [
        (BackendChoice.AUTO, V4, "nft"),
        (BackendChoice.NFT, V4, "nft"),
        (BackendChoice.LEGACY, V4, "legacy (python-iptables)"),
        (BackendChoice.PYTHON_IPTABLES, V4, "legacy (python-iptables)"),
        (BackendChoice.NFT, V6, "nft"),
        (BackendChoice.LEGACY, V6, "legacy"),
        (BackendChoice.PYTHON_IPTABLES, V6, "legacy"),
    ],
)
def test_what_is_opened(host: Namespace, choice: BackendChoice, family: IPFamily, name: str) -> None:
    assert str(host.call(lambda: open_backend(choice, family))) == name


@pytest.mark.parametrize("family", list(IPFamily), ids=lambda family: family.value)
def test_rules_can_be_had_in_both_families_here(host: Namespace, family: IPFamily) -> None:
    assert host.call(lambda: why_unavailable(family)) is None


def test_a_host_without_ip6tables_says_so(host: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    find = find_program
    monkeypatch.setattr(variant, "find_program", lambda name: None if "ip6" in name else find(name))
    assert host.call(lambda: why_unavailable(V4)) is None
    why = host.call(lambda: why_unavailable(V6))
    assert why == "neither ip6tables-nft-restore nor ip6tables-legacy-restore is on this machine"
    with pytest.raises(StartupError, match="ip6tables-nft-save is not on this machine"):
        host.call(lambda: open_backend(BackendChoice.NFT, V6))


def test_a_kernel_without_ipv6_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variant, "_IPV6_ADDRESSES", tmp_path / "if_inet6")
    assert why_unavailable(V6) == "the kernel runs without IPv6"
    assert why_unavailable(V4) is None


def test_without_iptables_it_is_said_what_to_install(
    host: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variant, "find_program", lambda name: None)
    for choice in BackendChoice:
        with pytest.raises(StartupError, match="apt-get install iptables"):
            host.call(partial(open_backend, choice, V4))


def test_without_python_iptables_legacy_goes_on_without_and_the_forced_backend_says_so(
    host: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "iptc", None)
    assert str(host.call(lambda: open_backend(BackendChoice.LEGACY, V4))) == "legacy"
    with pytest.raises(StartupError, match="python-iptables cannot be used"):
        host.call(lambda: open_backend(BackendChoice.PYTHON_IPTABLES, V4))


def test_small_changes_go_through_python_iptables_and_big_ones_do_not(
    host: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    bulk: list[int] = []

    class Restore(IptablesRestore):
        def commit(self, change: TableChange) -> None:
            bulk.append(change.rule_count)
            super().commit(change)

    def work() -> None:
        capture = Capture(PythonIptables(Restore(Variant.LEGACY, V4)))
        monkeypatch.setattr(python_iptables, "SMALL_CHANGE_RULES", 1)
        capture.sync(ALL)
        assert len(bulk) == 2
        monkeypatch.setattr(python_iptables, "SMALL_CHANGE_RULES", 1000)
        capture.remove_everything()
        assert len(bulk) == 2

    host.call(work)
