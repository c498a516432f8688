from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import gc
from userspace_proxy.agent.garbage import collect_rarely, leave_alone_what_is_there
collect_rarely()
stays = [[number] for number in range(10_000)]
leave_alone_what_is_there()
print(gc.get_threshold()[0] > 10_000, gc.get_freeze_count() > 10_000, len(gc.get_objects()) < 1000)
"""


def test_what_stays_is_not_looked_at() -> None:
    """In a process of its own: what is left alone is so for good."""
    assert subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True).stdout == (
        "True True True\n"
    )
