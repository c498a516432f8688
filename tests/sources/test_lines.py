from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userspace_proxy.sources.lines import Lines, LineTooLongError


@given(st.binary(max_size=40).map(lambda data: data.replace(b"x", b"\n")), st.lists(st.integers(0, 40)))
def test_lines_do_not_depend_on_where_chunks_end(data: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(data)]
    lines = Lines()
    found = [line for begin, end in itertools.pairwise(edges) for line in lines.feed(data[begin:end])]
    assert found == [line for line in data.split(b"\n")[:-1] if line]


def test_a_line_without_end_is_refused_in_time() -> None:
    lines = Lines(max_line_bytes=10)
    assert lines.feed(b"12345\n12345") == [b"12345"]
    assert lines.feed(b"67890") == []
    with pytest.raises(LineTooLongError, match="more than 10 bytes"):
        lines.feed(b"1")
