"""The same seed means the same faults, whatever the length of the run, and no place has two at once."""

from __future__ import annotations

from itertools import pairwise, product

from tests.chaos.schedule import schedule
from tests.chaos.table import FAULTS, faults_of


def test_a_seed_is_replayed() -> None:
    assert schedule(7, 600, FAULTS) == schedule(7, 600, FAULTS)
    assert schedule(7, 600, FAULTS) != schedule(8, 600, FAULTS)


def test_a_short_run_is_the_beginning_of_a_long_one() -> None:
    short = schedule(7, 60, FAULTS)
    assert schedule(7, 600, FAULTS)[: len(short)] == short


def test_faults_of_one_place_come_one_after_the_other() -> None:
    steps = schedule(7, 600, FAULTS)
    for place in {fault.place for fault in FAULTS}:
        there = [step for step in steps if step.place == place]
        assert all(before.at + before.seconds < after.at for before, after in pairwise(there))


def test_a_long_run_has_every_fault() -> None:
    for is_legacy, has_api_server, is_supervised in product((False, True), repeat=3):
        faults = faults_of(is_legacy=is_legacy, has_api_server=has_api_server, is_supervised=is_supervised)
        assert {step.name for step in schedule(7, 600, faults)} == {fault.name for fault in faults}
