"""How the agent's garbage is collected: rarely, and not out of what stays.

In a large cluster the agent holds a million objects, and next to no garbage that has circles. Python by
itself would look through all of them many times while they are read, and now and then later, in scrapes most
of all: for 0.3 s at 10,000 Services, and longer on a busy machine, in which nothing else happens here.
"""

from __future__ import annotations

import gc
from typing import Final

_OBJECTS_BETWEEN_COLLECTIONS: Final = 50_000


def collect_rarely() -> None:
    """For a process that is about to make many objects that stay."""
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)


def leave_alone_what_is_there() -> None:
    """What there is now stays, most likely, and is not looked at again. To be called once: whatever of it has
    circles is never freed.
    """
    gc.freeze()
