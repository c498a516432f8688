"""What the README says can be done as it says it."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest

from benchmarks.peers import PEERS
from benchmarks.reports import summary_table
from benchmarks.samples import Samples
from benchmarks.works import WORKS
from userspace_proxy.cli import commands
from userspace_proxy.core.port_claims import DEFAULT_PROXY_PORT_RANGE

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands_shown() -> list[str]:
    lines = [line for block in blocks("console") for line in block.splitlines()]
    inline = re.findall(r"`((?:make|userspace-proxy) [^`]+)`", README)
    return [line.removeprefix("$ ") for line in lines] + inline


def words_of(program: str) -> list[list[str]]:
    """The arguments of every command of `program` that the README shows."""
    found = []
    for command in commands_shown():
        words = [word for word in shlex.split(command) if not re.match(r"[A-Z_]+=", word)]
        if Path(words[0]).name == program:
            found.append(words[1:])
    return found


def test_the_readme_shows_the_commands() -> None:
    programs = {
        Path(re.sub(r"^([A-Z_]+=\S+ )+", "", command).split()[0]).name for command in commands_shown()
    }
    assert programs == {"make", "python3", "pip", "userspace-proxy"}


@pytest.mark.parametrize("target", sorted({words[0] for words in words_of("make")} | {"help", "clean"}))
def test_make_knows_the_target(target: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    completed = subprocess.run(
        ["make", "--dry-run", target], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30
    )
    assert completed.returncode == 0, completed.stderr


@pytest.mark.parametrize("words", words_of("userspace-proxy"), ids=shlex.join)
def test_the_command_line_knows_the_verb_and_its_flags(words: list[str]) -> None:
    verb = commands.commands[words[0]]
    known = {flag for option in verb.params if isinstance(option, click.Option) for flag in option.opts}
    flags = {word for word in words[1:] if word.startswith("-") and word != "--"}
    assert flags <= known | {"--help"}


def test_flags_in_the_text_exist() -> None:
    run = commands.commands["run"]
    known = {flag for option in run.params for flag in (*option.opts, *option.secondary_opts)} | {"--help"}
    text = re.sub(r"^```.*?^```", "", README, flags=re.MULTILINE | re.DOTALL)
    ours = set(re.findall(r"`(--[a-z-]+)`", text))
    assert ours
    assert ours <= known


def test_the_default_range_of_proxy_ports_is_the_agent_s() -> None:
    assert f"({DEFAULT_PROXY_PORT_RANGE}, or `--proxy-port-range`)" in README


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!https?:)([^)]+)\)", README))))
def test_links_lead_somewhere(target: str) -> None:
    assert (ROOT / target).exists()


def test_every_make_target_is_in_the_help() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony is not None
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    assert re.findall(r"^make (\S+)", shown.stdout, re.MULTILINE) == phony[1].split()


def test_the_figures_are_those_that_were_published() -> None:
    published = json.loads((ROOT / "benchmarks" / "results" / "published.json").read_text())
    samples = Samples(published["samples"]["figures"], published["samples"]["rounds"])
    works = [work for name, work in WORKS.items() if name in samples.figures]
    peers = [(name, PEERS[name].title) for name in published["peers"]]
    assert summary_table(samples, works, peers) in README
    assert published["date"].split()[0] in README
