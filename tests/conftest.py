"""Every test runs in network and mount namespaces of this run's own; nothing of the host can be touched.

Where pytest-xdist spreads them over processes (`pytest -n 3 --dist loadfile`), each of these has its own, so
that they share no port, no name of a namespace, and no `/run` with its locks and state directories.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

from userspace_proxy.demo import isolation

# How long an example takes says something about the machine, not about the code.
settings.register_profile("ci", deadline=None)
settings.register_profile("thorough", deadline=None, max_examples=3000, stateful_step_count=80)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

NETNS = Path(__file__).parent / "netns"
ISOLATION_REFUSAL = pytest.StashKey[str | None]()


def pytest_configure(config: pytest.Config) -> None:
    """Leave the host behind; tests/netns skips where that is refused.

    Whatever is started later inherits from this thread. A process of xdist's has another one already, and so
    could enter no user namespace; but its parent has.
    """
    # When memory is short it is these agents' turn before what runs beside them.
    os.environ.setdefault("USERSPACE_PROXY_OOM_SCORE_ADJ", "0")
    refusal = isolation.refusal()
    config.stash[ISOLATION_REFUSAL] = refusal
    if refusal is None:
        # pytest names its temporary folder after the user, and inside everybody looks like root.
        os.environ["LOGNAME"] = f"uid-{os.getuid()}"
        isolation.enter()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that in the end no process waits for another one's last file."""
    items.sort(key=lambda item: not item.path.is_relative_to(NETNS))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make what a test has logged sendable: as UTF-8, which has no lone surrogates."""
    report = yield
    report.sections = [
        (name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections
    ]
    return report
