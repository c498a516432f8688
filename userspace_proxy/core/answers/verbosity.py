"""How much the agent and its workers log."""

from __future__ import annotations

from userspace_proxy.core.answers.shape import Parameters, Shape


class VerbosityQuestion(Parameters, frozen=True):
    """From now on as `-v VERBOSITY` has it; None: it stays."""

    verbosity: int | None = None


class VerbosityAnswer(Shape, frozen=True):
    """As it is now. It is so until the configuration is read again, or the agent starts again."""

    verbosity: int
