"""How an endpoint's health is told in a word or two."""

from __future__ import annotations

import pytest

from userspace_proxy.cli.endpoints import health_text
from userspace_proxy.core.answers.endpoints import EndpointHealth

OUT = ("Cluster",)


@pytest.mark.parametrize(
    ("health", "text"),
    [
        (EndpointHealth(), "well"),
        (EndpointHealth(failures=2), "failing (2)"),
        (EndpointHealth(failures=3, ejected_seconds=12.0, left_out_of=OUT), "ejected for 12s"),
        (EndpointHealth(failures=3, ejected_seconds=0.0, left_out_of=OUT), "ejected, tried next"),
        (EndpointHealth(ejected_seconds=1.0, probed=True, left_out_of=OUT), "ejected, being tried"),
        (EndpointHealth(failures=3, ejected_seconds=12.0), "failing, used all the same"),
        (EndpointHealth(failures=3, ejected_seconds=12.0, taken_out=True, left_out_of=OUT), "taken out"),
        (EndpointHealth(taken_out=True, taken_out_seconds=90.0, left_out_of=OUT), "taken out for 1m30s"),
    ],
)
def test_health_is_told_in_a_word_or_two(health: EndpointHealth, text: str) -> None:
    assert health_text(health) == text
