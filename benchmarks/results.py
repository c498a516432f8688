"""What a run came to, as one value, and its files: JSON for programs, Markdown and plots for people."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryFile

from benchmarks import plots
from benchmarks.peers import PEERS
from benchmarks.reports import figures_table, limits_table, ratios_table, study_table, targets_table
from benchmarks.samples import Samples
from benchmarks.studies import STUDIES, Step
from benchmarks.tables import markdown
from benchmarks.targets import OURS
from benchmarks.works import WORKS
from userspace_proxy.errors import UsageError


@dataclass(slots=True)
class Results:
    """`peers` took part, `skipped` say who did not and why, `failures` what came to
    nothing."""

    date: str
    rounds: int
    seconds: int
    peers: list[str]
    machine: dict[str, str]
    samples: Samples = field(default_factory=Samples)
    studies: dict[str, list[Step]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def as_json(self) -> str:
        """All of it."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    def as_markdown(self, pictures: list[str] | None = None) -> str:
        """The tables, and pictures by their file names."""
        titles = [(name, PEERS[name].title) for name in self.peers]
        works = [work for name, work in WORKS.items() if name in self.samples.figures]
        parts = [f"# {self.date}"]
        if works:
            parts += [
                f"Medians of {self.rounds} rounds of {self.seconds} s, the peers in turn, and how far they "
                "spread. CPU is what all processes of a proxy took.",
                figures_table(self.samples, works, titles),
            ]
            others = [(name, title) for name, title in titles if name != OURS]
            if OURS in self.peers and others:
                parts += [
                    f"## {PEERS[OURS].title} divided by the others",
                    "Within rounds.",
                    ratios_table(self.samples, works, OURS, others),
                ]
                if targets := targets_table(self.samples, works):
                    parts += ["## Targets", targets]
        for name, steps in self.studies.items():
            parts += [f"## {STUDIES[name].title}", study_table(STUDIES[name], steps)]
        if limits := limits_table(self.studies):
            parts += ["## Limits", limits]
        parts += [f"![{Path(picture).stem}]({picture})" for picture in pictures or ()]
        parts += ["## The machine", markdown(["", ""], [[key, value] for key, value in self.machine.items()])]
        if self.skipped:
            parts += ["## Who did not take part", "\n".join(f"- {reason}" for reason in self.skipped)]
        if self.failures:
            parts += ["## What came to nothing", "\n".join(f"- {failure}" for failure in self.failures)]
        return "\n\n".join(parts) + "\n"

    def write(self, folder: Path, name: str) -> Path:
        """Write NAME.json, NAME.md and NAME-*.svg; returns the Markdown's path."""
        (folder / f"{name}.json").write_text(self.as_json())
        pictures = []
        for stem, picture in plots.draw(self.samples, self.peers, self.studies).items():
            (folder / f"{name}-{stem}.svg").write_text(picture)
            pictures.append(f"{name}-{stem}.svg")
        page = folder / f"{name}.md"
        page.write_text(self.as_markdown(pictures))
        return page


def require_folder(folder: Path) -> None:
    """Make sure, before anything is measured, that results can be written there. Raises UsageError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"--output: {folder} cannot be written to: {error.strerror}") from error
