"""Whose word counts for each option: the flags', the environment's, the file's, or the default's.

With a file, kube-proxy takes no flags but `--hostname-override` and those of logging, and so do we, for its
options; for ours (the section `userspaceProxy`) a flag counts as long as the file does not say it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, assert_never

from userspace_proxy.configuration.kube_proxy_file import ConfigurationFile
from userspace_proxy.configuration.options import OPTIONS, Option, Precedence
from userspace_proxy.configuration.values import EntriesError


@dataclass(frozen=True, slots=True)
class Said:
    """An option's text and where it stands: a flag, a variable, or a file and a path in it."""

    text: str
    where: str


@dataclass(slots=True)
class Words:
    """What counts, by option, and what is `overruled`: flags and variables beside a file."""

    said: dict[str, Said] = field(default_factory=dict)
    overruled: list[str] = field(default_factory=list)
    path: str = ""
    """The file's."""

    def where(self, name: str) -> str:
        """Where an option is said, or would be."""
        option = OPTIONS[name]
        if name in self.said:
            return self.said[name].where
        return _in_file(self.path, option) if self.path and option.field else option.long_flag

    def read(self, problems: list[str]) -> dict[str, Any]:
        """The value of every option; the default's where what is said is wrong, which goes to `problems`."""
        values = {}
        for name, option in OPTIONS.items():
            said = self.said.get(name, Said(option.default, ""))
            try:
                values[name] = option.read(said.text)
                continue
            except EntriesError as error:
                if said.where.endswith(f": {option.field}"):
                    problems += [f"{said.where}[{index}]: {why}" for index, why in error.reasons.items()]
                else:
                    problems.append(f"{said.where}: {error}")
            except ValueError as error:
                problems.append(f"{said.where}: {error}")
            values[name] = option.read(option.default)
        return values

    def texts(self) -> dict[str, str]:
        """The effective text of every option, the default's included."""
        return {
            name: self.said[name].text if name in self.said else option.default
            for name, option in OPTIONS.items()
        }


def weigh(
    flags: Mapping[str, str], environment: Mapping[str, str], file: ConfigurationFile | None = None
) -> Words:
    """What counts of `flags` (by option), `environment` (by variable) and `file`. Empty texts say nothing,
    but for options of which they do."""
    words = Words(path=file.path if file is not None else "")
    for name, option in OPTIONS.items():
        told = [
            Said(text, where)
            for text, where in (
                (flags.get(name), option.long_flag),
                (environment.get(option.variable), option.variable),
            )
            if text or (text is not None and option.empty_counts)
        ]
        written = []
        if file is not None and name in file.texts:
            written.append(Said(file.texts[name], _in_file(file.path, option)))
        match option.precedence:
            case Precedence.KUBE_PROXY if file is not None:
                words.overruled += [said.where for said in told]
                ranked = written
            case Precedence.KUBE_PROXY:
                ranked = told
            case Precedence.FLAG:
                ranked = told + written
            case Precedence.OURS:
                words.overruled += [said.where for said in told if written]
                ranked = written + told
            case _:
                assert_never(option.precedence)
        if ranked:
            words.said[name] = ranked[0]
    return words


def _in_file(path: str, option: Option) -> str:
    return f"{path}: {option.field}"
