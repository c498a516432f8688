"""A short run of `python -m tests.chaos`, which mixes faults of every kind.

USERSPACE_PROXY_TEST_SEED has it try another seed. What fails is told with the events before.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.chaos.report import report
from tests.chaos.run import BARE, LAUNCHES, SUPERVISED, run

SECONDS = 12.0
RATE = 40.0
SEEDS = {BARE: 10, SUPERVISED: 2}


@pytest.mark.parametrize("launch", LAUNCHES)
def test_nothing_is_lost_while_everything_fails(launch: str, tmp_path: Path) -> None:
    seed = int(os.environ.get("USERSPACE_PROXY_TEST_SEED", SEEDS[launch]))
    result = run(seed, SECONDS, tmp_path, rate=RATE, launch=launch)
    print(f"\n{report(result)}")
    assert result.is_good, report(result)
