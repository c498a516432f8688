"""What a changed file changes while the agent runs, and what has to wait for its next start."""

from __future__ import annotations

from dataclasses import dataclass

from userspace_proxy.configuration.options import OPTIONS, Takes
from userspace_proxy.configuration.precedence import Words


@dataclass(frozen=True, slots=True)
class Change:
    """What counts from now on, and where stands what is `applied` at once and what is `waiting`."""

    words: Words
    applied: tuple[str, ...]
    waiting: tuple[str, ...]


def follow(running: Words, fresh: Words) -> Change:
    """How to go from the words that are in force to `fresh` ones, which are right by themselves."""
    before, after = running.read([]), fresh.read([])
    differing = [name for name in OPTIONS if before[name] != after[name]]
    at_once = {name for name, option in OPTIONS.items() if option.takes is Takes.AT_ONCE}
    said = {
        name: words.said[name]
        for name in OPTIONS
        if name in (words := fresh if name in at_once else running).said
    }
    return Change(
        Words(said, fresh.overruled, fresh.path),
        tuple(fresh.where(name) for name in differing if name in at_once),
        tuple(fresh.where(name) for name in differing if name not in at_once),
    )
