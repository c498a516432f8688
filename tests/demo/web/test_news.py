"""What of a change is told in words."""

from __future__ import annotations

from typing import Any

import pytest

from userspace_proxy.demo.web.news import MOST, news

POD: dict[str, Any] = {
    "name": "web-a",
    "node": "node-1",
    "state": "ready",
    "why": "",
    "restarts": 0,
    "isBlackHoled": False,
}


def view(
    pods: dict[str, Any] | None = None, state: str = "used", *, answers: bool = True
) -> dict[str, dict[str, Any]]:
    endpoint = {"state": state, "reason": "3 connects failed"}
    return {
        "pods": {"default/web-a": POD} if pods is None else pods,
        "nodes": {"node-1": {"agentAnswers": answers}},
        "services": {"default/web": {"endpoints": {"default/web-a": endpoint}}},
    }


@pytest.mark.parametrize(
    ("after", "sentences"),
    [
        (view(), []),
        (view({}), ["web-a is gone"]),
        (view({"default/web-a": POD, "default/b": {**POD, "name": "b"}}), ["b is new on node-1"]),
        (view({"default/web-a": POD, "default/b": {**POD, "name": "b", "node": ""}}), ["b is new"]),
        (
            view({"default/web-a": {**POD, "state": "not-ready", "why": "its process was killed"}}),
            ["web-a is not ready: its process was killed"],
        ),
        (view({"default/web-a": {**POD, "restarts": 1}}), ["web-a was started again, the 1st time"]),
        (view({"default/web-a": {**POD, "restarts": 12}}), ["web-a was started again, the 12th time"]),
        (view({"default/web-a": {**POD, "isBlackHoled": True}}), ["web-a answers nobody"]),
        (view(answers=False), ["the agent of node-1 does not answer"]),
        (view(state="ejected"), ["default/web leaves out web-a: 3 connects failed"]),
        (view(state="unused"), []),
    ],
)
def test_a_change_is_told(after: dict[str, dict[str, Any]], sentences: list[str]) -> None:
    assert news(view(), after) == sentences


def test_what_is_mended_is_told() -> None:
    before = view({"default/web-a": {**POD, "isBlackHoled": True}}, "ejected", answers=False)
    assert news(before, view()) == [
        "web-a may be reached again",
        "the agent of node-1 answers again",
        "default/web uses web-a again",
    ]


def test_no_more_is_told_than_somebody_can_hear() -> None:
    many = {f"default/{number}": {**POD, "name": str(number)} for number in range(100)}
    assert len(news(view(), view(many))) == MOST
