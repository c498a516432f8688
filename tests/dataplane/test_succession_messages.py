"""What is said between versions, byte for byte: a later version must read, and be read by, an earlier one."""

from __future__ import annotations

import msgspec
import pytest

from userspace_proxy.dataplane.messages import AgentMessage, WorkerMessage
from userspace_proxy.dataplane.succession import (
    Acknowledged,
    AffineClient,
    Drain,
    End,
    GaveUp,
    GiveUp,
    HandBack,
    HandedBack,
    HeldFlow,
    HeldServicePort,
    Hello,
    Introduction,
    SuccessionMessage,
)

HELD = HeldServicePort("default/web TCP IPv4", "TCP", "IPv4", (("Cluster", 11002),), b"\x90")
FLOW = HeldFlow(
    "default/dns UDP IPv4",
    11003,
    ("10.1.1.1", 5353),
    b"\n\x60\0\n",
    (0, 8, b"\1"),
    ("10.2.2.2", 53),
    True,
    1.5,
)
CLIENT = AffineClient("default/web TCP IPv4", "10.1.1.1", ("10.2.2.2", 80), 2.0)

ORDERS: list[tuple[SuccessionMessage, list[object]]] = [
    (Hello(1), ["hello", 1]),
    (HandBack(2, 0), ["hand-back", 2, 0]),
    (GiveUp(3, ("a",)), ["give-up", 3, ["a"]]),
    (Drain(4, 300.0), ["drain", 4, 300.0]),
    (End(5), ["end", 5]),
]
ANSWERS: list[tuple[SuccessionMessage, list[object]]] = [
    (Introduction(1, "0.1.0", 2, 4026531836, False), ["introduction", 1, "0.1.0", 2, 4026531836, False]),
    (
        HandedBack(2, (HELD,), ("refusing IPv4",), None),
        [
            "handed-back",
            2,
            [["default/web TCP IPv4", "TCP", "IPv4", [["Cluster", 11002]], b"\x90"]],
            ["refusing IPv4"],
            None,
        ],
    ),
    (
        GaveUp(3, (FLOW,), (CLIENT,), True),
        [
            "gave-up",
            3,
            [
                [
                    "default/dns UDP IPv4",
                    11003,
                    ["10.1.1.1", 5353],
                    b"\n\x60\0\n",
                    [0, 8, b"\1"],
                    ["10.2.2.2", 53],
                    True,
                    1.5,
                ]
            ],
            [["default/web TCP IPv4", "10.1.1.1", ["10.2.2.2", 80], 2.0]],
            True,
        ],
    ),
    (Acknowledged(4), ["acknowledged", 4]),
]


@pytest.mark.parametrize(("message", "said"), [*ORDERS, *ANSWERS])
def test_what_is_said(message: SuccessionMessage, said: list[object]) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(message)) == said


@pytest.mark.parametrize(("message", "said"), ORDERS)
def test_a_worker_understands_it_though_a_later_version_says_more(
    message: SuccessionMessage, said: list[object]
) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode([*said, "more"]), type=AgentMessage) == message


@pytest.mark.parametrize(("message", "said"), ANSWERS)
def test_an_agent_understands_it_though_a_later_version_says_more(
    message: SuccessionMessage, said: list[object]
) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode([*said, "more"]), type=WorkerMessage) == message
