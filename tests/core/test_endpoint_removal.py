from __future__ import annotations

from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.endpoint_removal import plan_removals
from userspace_proxy.core.service_port import Port

ONE, TWO, THREE = (Endpoint(f"10.1.0.{number}", Port(80)) for number in (1, 2, 3))


def test_connections_to_a_removed_endpoint_end_after_the_drain() -> None:
    assert plan_removals({}, [ONE, TWO], [TWO, THREE], 30, now=100) == {ONE: 130}


def test_at_once_is_now() -> None:
    assert plan_removals({}, [ONE], [], 0, now=100) == {ONE: 100}


def test_to_keep_them_takes_every_deadline_back() -> None:
    assert plan_removals({ONE: 130}, [ONE], [], None, now=101) == {}


def test_a_deadline_does_not_move_when_something_else_changes() -> None:
    assert plan_removals({ONE: 130}, [ONE, TWO], [], 30, now=110) == {ONE: 130, TWO: 140}


def test_a_shorter_drain_holds_for_those_that_were_removed_before() -> None:
    assert plan_removals({ONE: 130}, [ONE], [], 5, now=110) == {ONE: 115}


def test_an_endpoint_that_is_back_is_not_removed() -> None:
    assert plan_removals({ONE: 130}, [ONE], [ONE], 30, now=110) == {}


def test_what_nobody_is_connected_to_is_forgotten() -> None:
    assert plan_removals({ONE: 130}, [], [], 30, now=110) == {}
