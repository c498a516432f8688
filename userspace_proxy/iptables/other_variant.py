"""Whether somebody uses the variant of iptables that we do not: said once, and left alone.

A packet passes the chains of both variants. What those of the other one redirect or drop is decided without
ours, and they are not ours to order: an agent that was told to use one variant writes in no other.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Final

from userspace_proxy.core.service_port import IPFamily
from userspace_proxy.iptables.chains import NAMES_OF_OURS
from userspace_proxy.iptables.iptables_restore import HiddenTableError, Variant, find_program, program
from userspace_proxy.iptables.variant import saved_by

_RULE: Final = re.compile(r"^-A ", re.MULTILINE)
_OURS: Final = re.compile(rf"^-A (?:{NAMES_OF_OURS}) ", re.MULTILINE)


class OtherVariant:
    """Looks at the rules of one family in the variant that `variant` is not, until it has found some."""

    def __init__(self, variant: Variant, family: IPFamily) -> None:
        self._variant = variant
        self._other = Variant.LEGACY if variant is Variant.NFT else Variant.NFT
        self._family = family
        self._has_found = False

    def warning(self) -> str | None:
        """What there is to say; None the second time, and if there is nothing. Blocks."""
        save = program(self._other, self._family, "save")
        if self._has_found or find_program(save) is None:
            return None
        saved = ""
        with suppress(HiddenTableError):  # rules that nft(8) wrote are nobody's iptables
            saved = saved_by(self._other, self._family)
        rules = len(_RULE.findall(saved))
        self._has_found = rules > 0
        if not rules:
            return None
        ours = len(_OURS.findall(saved))
        advice = (
            "those of ours are from a run with another --iptables-backend and lead astray, "
            "to have them gone stop the agent, run `userspace-proxy cleanup` and start it again"
            if ours
            else "what they drop or redirect does not come to ours, and they are left alone"
        )
        return (
            f"Rules of the other iptables variant are in force beside ours: {advice}: "
            f"family={self._family.value} by_us={self._variant.value} by_others={self._other.value} "
            f"rules={rules} of_ours={ours} shown_by={save}"
        )
