"""From the command line, the environment, the file and the machine to a checked configuration."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from userspace_proxy.configuration.accepted_options import Why
from userspace_proxy.configuration.agent_configuration import Configuration, configuration_of
from userspace_proxy.configuration.changes import Change, follow
from userspace_proxy.configuration.kube_proxy_file import ConfigurationFile, read_file, write_file
from userspace_proxy.configuration.precedence import Words, weigh
from userspace_proxy.configuration.watched_files import WatchedFiles
from userspace_proxy.core.object_names import is_dns_subdomain
from userspace_proxy.errors import UsageError

_MOST_DEFAULT_WORKERS: Final = 8
_MAX_FILE_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration, the words that it was made of, and what was said to no effect, as `notes`."""

    configuration: Configuration
    words: Words
    notes: tuple[str, ...] = ()

    def written(self) -> str:
        """The effective configuration as a file."""
        return write_file(self.words.texts())


class LiveConfiguration:
    """The configuration in force, and the files that may change it while the agent runs.

    `flags` are texts by option, `ignored` flags without effect that were given. Raises `UsageError` that
    names everything wrong. Its methods block.
    """

    def __init__(
        self,
        flags: Mapping[str, str],
        *,
        environment: Mapping[str, str] | None = None,
        file: Path | None = None,
        ignored: Mapping[str, Why] | None = None,
        wait: Callable[[threading.Event, float], bool] = threading.Event.wait,
    ) -> None:
        self._flags = flags
        self._environment = environment
        self._ignored = ignored
        self.file = file
        files = WatchedFiles([file] if file is not None else [], wait)
        self.loaded = self._load()
        kubeconfig = self.configuration.kubeconfig
        if kubeconfig is not None:
            files.add(kubeconfig)
        self._files = files

    @property
    def configuration(self) -> Configuration:
        return self.loaded.configuration

    def next_change(self, ended: threading.Event) -> set[Path]:
        """Block until the file or the kubeconfig has changed, and say which; none once it is `ended`."""
        return self._files.next_change(ended)

    def reload(self) -> Change:
        """Read the file again, and put in force what can be. Raises `UsageError`; then all stays as it is."""
        fresh = self._load()
        change = follow(self.loaded.words, fresh.words)
        running = self.configuration
        configuration = configuration_of(
            change.words, [], host_name=running.node_name, default_workers=running.workers
        )
        self.loaded = Loaded(configuration, change.words, fresh.notes)
        return change

    def _load(self) -> Loaded:
        return load_configuration(
            self._flags, environment=self._environment, file=self.file, ignored=self._ignored
        )


def default_workers() -> int:
    """One worker for each core that this process may use, as far as that is worth their memory."""
    return min(len(os.sched_getaffinity(0)), _MOST_DEFAULT_WORKERS)


def load_configuration(
    flags: Mapping[str, str],
    *,
    environment: Mapping[str, str] | None = None,
    file: Path | None = None,
    ignored: Mapping[str, Why] | None = None,
) -> Loaded:
    """Weigh and check what is said by `flags` (texts by option), the environment and the file.

    `ignored` are flags without effect that were given. Raises `UsageError` that names everything wrong.
    """
    problems: list[str] = []
    content = None if file is None else _read(file)
    if content is not None:
        problems += map(str, content.problems)
    words = weigh(flags, os.environ if environment is None else environment, content)
    configuration = configuration_of(
        words, problems, host_name=socket.gethostname().strip().lower(), default_workers=default_workers()
    )
    _check_machine(configuration, words, problems)
    if problems:
        raise UsageError("; ".join(dict.fromkeys(problems)))
    fields = content.ignored if content is not None else {}
    return Loaded(configuration, words, tuple(_notes(words, {**(ignored or {}), **fields})))


def _read(path: Path) -> ConfigurationFile:
    """Read the file. Raises `UsageError` if that cannot be done at all."""
    try:
        with path.open("rb") as opened:
            content = opened.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UsageError(f"--config: {path} cannot be read: {error.strerror}") from error
    if len(content) > _MAX_FILE_BYTES:
        raise UsageError(f"--config: {path} has more than {_MAX_FILE_BYTES >> 20} MiB")
    return read_file(str(path), content)


def _check_machine(configuration: Configuration, words: Words, problems: list[str]) -> None:
    """What only a look at this machine can tell."""
    name, manifests, kubeconfig = configuration.node_name, configuration.manifests, configuration.kubeconfig
    if "hostname_override" not in words.said and not is_dns_subdomain(name):
        problems.append(
            f"--hostname-override: the host's name {name!r} is not one that a node can have; say the node's"
        )
    if manifests is not None and not manifests.is_dir():
        problems.append(f"{words.where('manifests')}: {manifests} is not a directory")
    if kubeconfig is not None:
        try:
            with kubeconfig.open("rb"):
                pass
        except OSError as error:
            problems.append(f"{words.where('kubeconfig')}: {kubeconfig} cannot be read: {error.strerror}")


def _notes(words: Words, ignored: Mapping[str, Why]) -> list[str]:
    """What was said to no effect, for the log; one line a reason."""
    notes = [
        f"Ignored, {why.value}: {', '.join(where for where, its in ignored.items() if its is why)}"
        for why in Why
        if why in ignored.values()
    ]
    if words.overruled:
        notes.append(f"Ignored, the file of --config counts: {', '.join(words.overruled)}")
    return notes
