"""The flags of `userspace-proxy run`: how they are read, and what of those that only kube-proxy has."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from userspace_proxy.cli import commands
from userspace_proxy.cli.run import run
from userspace_proxy.cli.table_options import load
from userspace_proxy.configuration.agent_configuration import Configuration
from userspace_proxy.configuration.loading import Loaded
from userspace_proxy.core.admission import UNLIMITED
from userspace_proxy.errors import UsageError


def loaded(*flags: str) -> Loaded:
    with run.make_context("run", ["--hostname-override=node-1", *flags]) as context:
        return load(context.params).loaded


def read(*flags: str) -> Configuration:
    """The configuration that `run` would be called with."""
    return loaded(*flags).configuration


@pytest.mark.parametrize("flag", ["--orphan-seconds", "--drain-seconds"])
@pytest.mark.parametrize(
    ("text", "seconds"), [("60", 60), ("60s", 60), ("1m30s", 90), ("0", 0), ("0.5", 0.5), ("500ms", 0.5)]
)
def test_flags_that_have_seconds_in_their_name_take_a_number_or_a_duration(
    flag: str, text: str, seconds: float
) -> None:
    assert getattr(read(flag, text), flag.strip("-").replace("-", "_")) == seconds


@pytest.mark.parametrize("text", ["-1", "1x", "1.2.3", "nan", "1 s", "²"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--orphan-seconds: .* is not a duration such as 250ms, 30s or 1m"):
        read("--orphan-seconds", text)


def test_other_durations_need_a_unit() -> None:
    assert read("--udp-timeout", "10s").udp_timeout_seconds == 10
    with pytest.raises(UsageError, match=r"^--udp-timeout: '10' is not a duration"):
        read("--udp-timeout", "10")


def test_each_limit_has_a_flag_of_its_own() -> None:
    settings = read(
        "--max-connections-per-service=1",
        "--max-connections-per-client=2",
        "--max-udp-flows-per-service=3",
        "--max-udp-flows-per-client=none",
    ).service_settings
    assert settings.max_connections == 1
    assert settings.max_connections_per_client == 2
    assert settings.max_udp_flows == 3
    assert settings.max_udp_flows_per_client == UNLIMITED


@pytest.mark.parametrize("flags", [("--v=4",), ("-v=4",), ("-v", "4"), ("-v4",), ("--v", "4")])
def test_verbosity_is_said_as_to_kube_proxy(flags: tuple[str, ...]) -> None:
    assert read(*flags).verbosity == 4


@pytest.mark.parametrize(
    ("flags", "takes_over"),
    [
        ((), True),
        (("--take-over",), True),
        (("--take-over=true",), True),
        (("--take-over=false",), False),
        (("--no-take-over",), False),
        (("--no-take-over", "--workers=1"), False),
        (("--take-over", "--workers=1"), True),
    ],
)
def test_yes_and_no_may_be_said_as_in_go(flags: tuple[str, ...], takes_over: bool) -> None:
    assert read(*flags).takes_over is takes_over


def test_lists_may_be_said_in_pieces_and_underscores_are_dashes() -> None:
    configuration = read("--nodeport_addresses=10.0.0.0/8", "--nodeport-addresses=fd00::/8,192.0.2.0/24")
    assert configuration.nodeport_addresses == ("10.0.0.0/8", "fd00::/8", "192.0.2.0/24")


def test_what_only_kube_proxy_has_is_accepted_and_said_to_be_ignored_once() -> None:
    notes = loaded(
        "--masquerade-all",
        "--ipvs-scheduler=rr",
        "--ipvs-strict-arp=true",
        "--nftables-sync-period=30s",
        "--logtostderr",
        "--vmodule=a=1",
        "--vmodule=b=2",
    ).notes
    assert notes == (
        "Ignored, for modes in which the kernel makes the connections: --masquerade-all, --ipvs-scheduler, "
        "--ipvs-strict-arp, --nftables-sync-period",
        "Ignored, for where and how kube-proxy logs and names its machine: --logtostderr, --vmodule",
    )


def test_who_says_nothing_that_is_ignored_is_told_nothing() -> None:
    assert loaded("--workers=1").notes == ()


@pytest.mark.parametrize("mode", ["iptables", "ipvs", "nftables", "Userspace"])
def test_another_mode_is_an_error(mode: str) -> None:
    with pytest.raises(UsageError, match=f"^--proxy-mode: '{mode}' is not userspace, the one mode"):
        read("--proxy-mode", mode)


@pytest.mark.parametrize("mode", ["userspace", ""])
def test_userspace_is_what_there_is(mode: str) -> None:
    assert read("--proxy-mode", mode) == read()


def test_a_flag_that_nobody_has_is_refused() -> None:
    with pytest.raises(click.NoSuchOption):
        read("--no-such-flag")


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
