"""The flags of `userspace-proxy run`: how they are read, and what is said of those that are not ours."""

from __future__ import annotations

from typing import Any

import click
import pytest
from click.testing import CliRunner

from userspace_proxy.cli import commands
from userspace_proxy.cli.kube_proxy_flags import HINTS, hint_for
from userspace_proxy.cli.run import run


def read(*flags: str) -> dict[str, Any]:
    """The values that `run` would be called with."""
    with run.make_context("run", [*flags]) as context:
        return context.params


@pytest.mark.parametrize("flag", ["--orphan-seconds", "--drain-seconds"])
@pytest.mark.parametrize(
    ("text", "seconds"), [("60", 60), ("60s", 60), ("1m30s", 90), ("0", 0), ("0.5", 0.5), ("500ms", 0.5)]
)
def test_flags_that_have_seconds_in_their_name_take_a_number_or_a_duration(
    flag: str, text: str, seconds: float
) -> None:
    assert read(flag, text)[flag.strip("-").replace("-", "_")] == seconds


@pytest.mark.parametrize(
    ("flag", "text"), [("--orphan-seconds", text) for text in ("", "-1", "1x", "1.2.3", "nan", "1 s", "²")]
)
def test_what_is_no_duration_is_refused(flag: str, text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a duration such as 250ms, 30s or 1m30s"):
        read(flag, text)


def test_other_durations_need_a_unit() -> None:
    assert read("--udp-timeout", "10s")["udp_timeout"] == 10
    with pytest.raises(click.BadParameter):
        read("--udp-timeout", "10")


def test_each_limit_has_a_flag_of_its_own() -> None:
    flags = (
        "--max-connections-per-service=1",
        "--max-connections-per-client=2",
        "--max-udp-flows-per-service=3",
        "--max-udp-flows-per-client=none",
    )
    limits = {name: value for name, value in read(*flags).items() if name.startswith("max_")}
    assert limits == {
        "max_connections": "1",
        "max_connections_per_client": "2",
        "max_udp_flows": "3",
        "max_udp_flows_per_client": "none",
    }


@pytest.mark.parametrize(
    ("flag", "hint"),
    [
        ("--cleanup", "`userspace-proxy cleanup`"),
        ("--conntrack-min=0", "sysctl"),
        ("--ipvs-scheduler", "leave it away"),
        ("--iptables-sync-period=30s", "leave it away"),
        ("--proxy-mode=userspace", "one mode"),
        ("--write-config-to", "leave it away"),
    ],
)
def test_a_flag_that_only_kube_proxy_has_is_answered_with_what_to_do(flag: str, hint: str) -> None:
    with pytest.raises(click.UsageError) as refused:
        read(flag)
    message = refused.value.format_message()
    assert message.startswith(f"No such option: {flag.partition('=')[0]} (kube-proxy has it, we do not; ")
    assert hint in message


def test_there_is_no_hint_for_a_flag_that_is_ours() -> None:
    ours = {flag for option in run.params for flag in option.opts if flag.startswith("--")}
    assert {flag: hint_for(flag) for flag in HINTS.keys() & ours} == {}


def test_a_flag_that_nobody_has_gets_no_such_hint() -> None:
    with pytest.raises(click.NoSuchOption) as refused:
        read("--no-such-flag")
    assert "kube-proxy" not in refused.value.format_message()


@pytest.mark.parametrize("words", [("drain",), ("cleanup",), ("--help",), ("supervise", "--", "run")])
def test_nothing_but_run_is_supervised(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(commands, ["supervise", "--", *words])
    assert result.exit_code == 2
    assert f"only `run` can be supervised, not `{words[0]}`" in result.output


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [(("run", "--help"), 0, "Serve a cluster's Services"), (("run", "--bogus"), 2, "No such option")],
)
def test_what_a_supervised_run_would_only_say_is_said_at_once(
    words: tuple[str, ...], status: int, said: str
) -> None:
    result = CliRunner().invoke(commands, ["supervise", "--", *words])
    assert (result.exit_code, said in result.output) == (status, True)
