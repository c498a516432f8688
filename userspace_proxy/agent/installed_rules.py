"""What `rules` answers: what is installed of ours, read anew, each with its counters and its reason."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Protocol

from userspace_proxy.admin.protocol import AdminError, ErrorCode
from userspace_proxy.admin.server import Method
from userspace_proxy.core.answers.rules import RuleAnswer, RulesQuestion
from userspace_proxy.core.service_port import IPFamily, ServicePortName
from userspace_proxy.errors import RulesError
from userspace_proxy.iptables.rule_reasons import reason_for, service_port_of
from userspace_proxy.iptables.saved_rules import counted_rules


class Captures(Protocol):
    """What this needs of a `PortalCapture`."""

    @property
    def family(self) -> IPFamily: ...

    async def read_counted(self) -> str: ...


class RulesAnswers:
    """`named` says which Service ports a name means, and raises `AdminError` if none."""

    def __init__(
        self, captures: Sequence[Captures], named: Callable[[str], Sequence[ServicePortName]]
    ) -> None:
        self._captures = captures
        self._named = named

    def methods(self) -> dict[str, Method]:
        return {"rules": Method(self._rules, RulesQuestion)}

    async def _rules(self, question: RulesQuestion) -> AsyncGenerator[RuleAnswer, None]:
        wanted = {str(name) for name in self._named(question.service)} if question.service else None
        naming = question.service.partition(":")[0]
        for capture in self._captures:
            try:
                printed = await capture.read_counted()
            except RulesError as error:
                raise AdminError(ErrorCode.UNAVAILABLE, f"rules cannot be read: {error}") from error
            for counted in counted_rules(printed, naming):
                name = service_port_of(counted.rule)
                if wanted is None or name in wanted:
                    yield RuleAnswer(
                        family=capture.family.value,
                        table=counted.chain.table.value,
                        chain=counted.chain.name,
                        rule=str(counted.rule),
                        packets=counted.packets,
                        bytes=counted.bytes,
                        service_port=name,
                        reason=reason_for(counted.chain, counted.rule),
                    )
