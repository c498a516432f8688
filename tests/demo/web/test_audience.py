"""Who looks gets all messages, and is cut off if it does not take them."""

from __future__ import annotations

import asyncio

from userspace_proxy.demo.web.audience import MOST_WAITING, Audience, Viewer, encoded


def test_a_message_is_one_event() -> None:
    assert encoded("news", "one\ntwo") == b'event: news\ndata: "one\\ntwo"\n\n'


def test_each_gets_every_message_in_order() -> None:
    async def look() -> list[bytes]:
        audience = Audience()
        viewers = [Viewer(lambda: None), Viewer(lambda: None)]
        for viewer in viewers:
            audience.join(viewer)
        for number in range(3):
            audience.tell("tick", number)
        return [await viewer.next() for viewer in viewers for _ in range(3)]

    expected = [encoded("tick", number) for number in range(3)]
    assert asyncio.run(look()) == expected * 2


def test_who_waits_is_woken() -> None:
    async def look() -> bytes:
        viewer = Viewer(lambda: None)
        waiting = asyncio.create_task(viewer.next())
        await asyncio.sleep(0)
        viewer.tell(b"now")
        return await waiting

    assert asyncio.run(look()) == b"now"


def test_a_slow_one_is_cut_off_and_holds_no_more() -> None:
    cut: list[bool] = []
    viewer = Viewer(lambda: cut.append(True))
    for _ in range(MOST_WAITING):
        viewer.tell(b"x")
    assert not cut
    viewer.tell(b"x")
    assert cut
    assert len(viewer._waiting) == MOST_WAITING


def test_it_is_known_whether_anybody_looks() -> None:
    audience, viewer = Audience(), Viewer(lambda: None)
    assert audience.left.is_set() and not audience.came.is_set()
    audience.join(viewer)
    assert audience.came.is_set() and not audience.left.is_set()
    audience.leave(viewer)
    audience.leave(viewer)
    assert audience.left.is_set() and not audience.came.is_set()
