"""A short run of `python -m tests.chaos`, which mixes faults of every kind.

USERSPACE_PROXY_TEST_SEED has it try another seed. What fails is told with the events before.
"""

from __future__ import annotations

import os
from pathlib import Path

from tests.chaos.report import report
from tests.chaos.run import run

SECONDS = 25.0
RATE = 40.0
SEED = int(os.environ.get("USERSPACE_PROXY_TEST_SEED", "1"))


def test_nothing_is_lost_while_everything_fails(tmp_path: Path) -> None:
    result = run(SEED, SECONDS, tmp_path, rate=RATE)
    print(f"\n{report(result)}")
    assert result.is_good, report(result)
