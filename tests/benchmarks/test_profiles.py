"""What strace counted, as calls per connection."""

from __future__ import annotations

import pytest

from benchmarks.profiles import calls_table, per_thing, read_system_calls, units

STRACE = """\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 60.00    0.060000           2     30000           recvfrom
 39.99    0.039990           3     10000        12 sendto
  0.01    0.000010           1        10           mmap
------ ----------- ----------- --------- --------- ----------------
100.00    0.100000           2     40010        12 total
"""
CALLS = {"recvfrom": 30000, "sendto": 10000, "mmap": 10}


def test_calls_are_read_with_and_without_errors() -> None:
    assert read_system_calls(STRACE) == CALLS


@pytest.mark.parametrize("table", ["", "strace: attach: Operation not permitted\n"])
def test_what_is_no_table_has_no_calls(table: str) -> None:
    assert read_system_calls(table) == {}


def test_calls_are_divided_by_what_was_done() -> None:
    assert per_thing(CALLS, {"done": 10_000, "rate": 1.0}) == {"recvfrom": 3.0, "sendto": 1.0, "mmap": 0.001}


def test_the_table_leaves_out_what_hardly_happens() -> None:
    counted = {"http": per_thing(CALLS, {"done": 10_000}), "udp-flows": {"recvmsg": 1.0}}
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in calls_table(counted).splitlines()]
    assert rows[0] == ["", "http", "udp-flows"]
    assert rows[2:] == [
        ["recvfrom", "3", "-"],
        ["sendto", "1", "-"],
        ["recvmsg", "-", "1"],
        ["all", "4.00", "1"],
    ]
    assert units(counted) == "http: per request; udp-flows: per exchange"
