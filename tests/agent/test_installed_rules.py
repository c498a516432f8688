"""Which rules are listed, and what is said when they cannot be read."""

from __future__ import annotations

import asyncio

import pytest

from userspace_proxy.admin.protocol import AdminError, ErrorCode
from userspace_proxy.agent.installed_rules import RulesAnswers
from userspace_proxy.core.answers.rules import RuleAnswer, RulesQuestion
from userspace_proxy.core.service_port import IPFamily, Protocol, ServiceName, ServicePortName
from userspace_proxy.errors import RulesError

PRINTED = """\
*nat
:KUBE-PORTALS-HOST - [0:0]
[1:60] -A OUTPUT -m comment --comment "service portals" -j KUBE-PORTALS-HOST
[1:60] -A KUBE-PORTALS-HOST -d 10.96.0.10/32 -p tcp -m comment --comment "default/web:http" \
-m tcp --dport 80 -j REDIRECT --to-ports 11234
[0:0] -A KUBE-PORTALS-HOST -d 10.96.0.11/32 -p tcp -m comment --comment "default/web-too" \
-m tcp --dport 80 -j REDIRECT --to-ports 11235
COMMIT
"""


class FakeCapture:
    def __init__(self, family: IPFamily, printed: str | None) -> None:
        self.family = family
        self._printed = printed

    async def read_counted(self) -> str:
        if self._printed is None:
            raise RulesError("the table is locked")
        return self._printed


def named(text: str) -> list[ServicePortName]:
    """As much of `ServedAnswers.named` as these tests need."""
    names = [ServicePortName(ServiceName("default", "web"), "http", Protocol.TCP, IPFamily.IPV4)]
    return names if text in ("web", "default/web:http") else []


def listed(service: str, *captures: FakeCapture) -> list[RuleAnswer]:
    async def ask() -> list[RuleAnswer]:
        answer = RulesAnswers(captures, named).methods()["rules"].answer(RulesQuestion(service=service))
        return [each async for each in answer if isinstance(each, RuleAnswer)]

    return asyncio.run(ask())


def test_all_of_every_family_are_listed() -> None:
    families = [FakeCapture(family, PRINTED) for family in IPFamily]
    found = listed("", *families)
    assert [(each.family, each.chain, each.service_port) for each in found] == [
        (family.value, chain, name)
        for family in IPFamily
        for chain, name in (
            ("OUTPUT", None),
            ("KUBE-PORTALS-HOST", "default/web:http"),
            ("KUBE-PORTALS-HOST", "default/web-too"),
        )
    ]


@pytest.mark.parametrize("service", ["web", "default/web:http"])
def test_those_of_a_service_are_its_own_alone(service: str) -> None:
    (found,) = listed(service, FakeCapture(IPFamily.IPV4, PRINTED))
    assert (found.service_port, found.packets, found.bytes) == ("default/web:http", 1, 60)


def test_rules_that_cannot_be_read_are_an_error() -> None:
    with pytest.raises(AdminError, match="rules cannot be read: the table is locked") as raised:
        listed("", FakeCapture(IPFamily.IPV4, None))
    assert raised.value.code is ErrorCode.UNAVAILABLE
