"""Every test runs in network and mount namespaces of this run's own; nothing of the host can be touched."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from userspace_proxy.demo import isolation

# How long an example takes says something about the machine, not about the code.
settings.register_profile("ci", deadline=None)
settings.register_profile("thorough", deadline=None, max_examples=3000, stateful_step_count=80)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

ISOLATION_REFUSAL = pytest.StashKey[str | None]()


def pytest_configure(config: pytest.Config) -> None:
    """Leave the host behind while this process has one thread; tests/netns skips where that is refused."""
    refusal = isolation.refusal()
    config.stash[ISOLATION_REFUSAL] = refusal
    if refusal is None:
        # pytest names its temporary folder after the user, and inside everybody looks like root.
        os.environ["LOGNAME"] = f"uid-{os.getuid()}"
        isolation.enter()
