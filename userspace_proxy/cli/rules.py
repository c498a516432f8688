"""`userspace-proxy rules`: each rule of ours, what it has counted, and why it is there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import click

from userspace_proxy.cli.asking import answer_options, ask_agent
from userspace_proxy.cli.completion import service_option
from userspace_proxy.cli.rendering import Block, Column, Output, Table, long, number, show
from userspace_proxy.core.answers.rules import RuleAnswer, RulesQuestion


@click.command()
@service_option
@answer_options
def rules(service: str, output: Output, state_directory: Path) -> None:
    """Say of each rule of ours what it has counted, and why it is there.

    Rules are read from the kernel, as they are installed now. `-o wide` has their text. iptables counts in
    nat the first packet of a connection only.
    """
    show(ask_agent(state_directory, "rules", RuleAnswer, RulesQuestion(service=service)), output, _blocks)


def _blocks(answers: Sequence[RuleAnswer], wide: bool) -> Iterator[Block]:
    for (family, table, chain), rules in groupby(answers, lambda each: (each.family, each.table, each.chain)):
        texts: list[Column | str] = ["RULE"] if wide else []
        yield Table(
            [number("PACKETS"), number("BYTES"), *texts, long("REASON")],
            [
                [str(each.packets), str(each.bytes), *([each.rule] if wide else ()), each.reason]
                for each in rules
            ],
            title=f"{chain}, table {table}, {family}",
        )
