"""Which iptables the host uses, and the backend for it.

The two variants do not see each other's rules, and mixing them makes rules that surprise everybody; so we
follow the host: kubelet leaves a chain as a hint for exactly this question. Looking must not change the
answer: the legacy programs are run only where legacy tables are registered already.
Source: https://kubernetes.io/docs/reference/networking/virtual-ips/ and kubernetes/enhancements KEP-3178.
"""

from __future__ import annotations

import re
from contextlib import suppress
from enum import Enum
from pathlib import Path

from userspace_proxy.core.service_port import IPFamily
from userspace_proxy.errors import RulesError, StartupError
from userspace_proxy.iptables.capture import Backend
from userspace_proxy.iptables.chains import NAMES_OF_OURS
from userspace_proxy.iptables.change_marks import NftMarks
from userspace_proxy.iptables.iptables_restore import (
    HiddenTableError,
    IptablesRestore,
    Variant,
    find_program,
    program,
    saved_rules,
)
from userspace_proxy.iptables.python_iptables import PythonIptables

_KUBELET_HINT = re.compile(r"^:(?:KUBE-IPTABLES-HINT|KUBE-KUBELET-CANARY) ", re.MULTILINE)
_OURS = re.compile(rf"^:(?:{NAMES_OF_OURS}) ", re.MULTILINE)
_RULE = re.compile(r"^-A ", re.MULTILINE)

_IPV6_ADDRESSES = Path("/proc/thread-self/net/if_inet6")
"""Where a kernel that runs IPv6, and no other, lists the addresses."""


class BackendChoice(Enum):
    """What `--iptables-backend` can say."""

    AUTO = "auto"
    NFT = "nft"
    LEGACY = "legacy"
    PYTHON_IPTABLES = "python-iptables"


def open_backend(choice: BackendChoice, family: IPFamily, nft_marks: NftMarks | None = None) -> Backend:
    """The backend that was chosen, or the one that fits the host. Blocks.

    Backends of both families are given the same `nft_marks`. python-iptables can write IPv4 rules only, so
    IPv6 rules go through ip6tables-legacy-restore beside it.
    Raises StartupError when what it needs is not on this machine.
    """
    match choice:
        case BackendChoice.AUTO:
            variant = detect_variant(family)
        case BackendChoice.NFT:
            variant = Variant.NFT
        case BackendChoice.LEGACY | BackendChoice.PYTHON_IPTABLES:
            variant = Variant.LEGACY
    _require_programs(variant, family)
    restore = IptablesRestore(variant, family, nft_marks)
    if variant is Variant.NFT or family is not IPFamily.IPV4:
        return restore
    if choice is BackendChoice.PYTHON_IPTABLES:
        return PythonIptables(restore, always=True)
    try:
        return PythonIptables(restore)
    except StartupError:  # only small changes would have been quicker
        return restore


def why_unavailable(family: IPFamily) -> str | None:
    """Why this host can have no rules of the family, in a sentence; None if it can.

    IPv4 there must be. A host without IPv6, or without ip6tables, is served in IPv4 alone.
    """
    if family is IPFamily.IPV6 and not _IPV6_ADDRESSES.exists():
        return "the kernel runs without IPv6"
    names = [program(variant, family, "restore") for variant in Variant]
    if not any(find_program(name) for name in names):
        return f"neither {' nor '.join(names)} is on this machine"
    return None


def installed_backends(family: IPFamily) -> list[Backend]:
    """A backend for each variant in which something of ours is installed, whichever the host uses now.

    Raises HiddenTableError where that cannot be seen.
    """
    return [
        IptablesRestore(variant, family)
        for variant in Variant
        if find_program(program(variant, family, "save")) and _OURS.search(saved_by(variant, family))
    ]


def detect_variant(family: IPFamily) -> Variant:
    """The variant that this host uses: kubelet's hint, else where we were, else the one with more rules.

    A host without any rules counts as nft. Raises StartupError when there is no iptables at all.
    """
    available = [variant for variant in Variant if find_program(program(variant, family, "save"))]
    if not available:
        raise StartupError(
            "no iptables on this machine: install the package iptables "
            "(Debian and Ubuntu: apt-get install iptables; Fedora: dnf install iptables-nft)"
        )
    saved = dict.fromkeys(available, "")
    for variant in available:
        with suppress(HiddenTableError):
            saved[variant] = saved_by(variant, family)
    for sign in (_KUBELET_HINT, _OURS):
        for variant, text in saved.items():
            if sign.search(text):
                return variant
    return max(available, key=lambda variant: len(_RULE.findall(saved[variant])))


def saved_by(variant: Variant, family: IPFamily) -> str:
    """All rules of a variant; none where the kernel lacks it or it was never used in this namespace.

    Raises HiddenTableError.
    """
    if variant is Variant.LEGACY and not _legacy_tables(family):
        return ""
    try:
        return saved_rules(program(variant, family, "save"))
    except HiddenTableError:
        raise
    except RulesError:
        return ""


def _legacy_tables(family: IPFamily) -> bool:
    """Whether any legacy table is registered in the network namespace of the calling thread."""
    name = "ip_tables_names" if family is IPFamily.IPV4 else "ip6_tables_names"
    try:
        return bool(Path("/proc/thread-self/net", name).read_text().strip())
    except OSError:
        return False


def _require_programs(variant: Variant, family: IPFamily) -> None:
    for verb in ("save", "restore"):
        name = program(variant, family, verb)
        if find_program(name) is None:
            raise StartupError(
                f"{name} is not on this machine: install the package iptables "
                "(Debian and Ubuntu: apt-get install iptables), or choose another --iptables-backend"
            )
