"""What to say of flags that kube-proxy has and `run` has not, so that whoever comes from there finds a way.

Source: https://kubernetes.io/docs/reference/command-line-tools-reference/kube-proxy/, and `kube-proxy --help`
of 1.25, the last one that had `--proxy-mode=userspace`.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Final

import click

_LEAVE_AWAY: Final = "leave it away"
_OTHER_MODES: Final = "it is for modes in which the kernel makes the connections: leave it away"
_TO_STANDARD_ERROR: Final = "the log goes to standard error: leave it away"

HINTS: Final = {
    "--alsologtostderr": _TO_STANDARD_ERROR,
    "--bind-address-hard-fail": "an address that the node does not have ends the agent anyway: leave it away",
    "--cleanup": "the command `userspace-proxy cleanup` does that",
    "--config": "there is no file for it: say what stands in it by flags",
    "--config-sync-period": _LEAVE_AWAY,
    "--conntrack-*": "set net.netfilter.nf_conntrack_* on the node, with sysctl",
    "--feature-gates": _LEAVE_AWAY,
    "--healthz-port": "the port is a part of --healthz-bind-address",
    "--init-only": _LEAVE_AWAY,
    "--iptables-localhost-nodeports": _OTHER_MODES,
    "--iptables-masquerade-bit": _OTHER_MODES,
    "--iptables-*": _LEAVE_AWAY,
    "--ipvs-*": _OTHER_MODES,
    "--kube-api-*": _LEAVE_AWAY,
    "--log-*": _TO_STANDARD_ERROR,
    "--logtostderr": _TO_STANDARD_ERROR,
    "--masquerade-all": _OTHER_MODES,
    "--master": "name the API server in the file that --kubeconfig names",
    "--metrics-port": "the port is a part of --metrics-bind-address",
    "--nftables-*": _OTHER_MODES,
    "--oom-score-adj": "whoever starts the agent can set it (OOMScoreAdjust= in a systemd unit)",
    "--profiling": _LEAVE_AWAY,
    "--proxy-mode": "there is one mode only, in user space: leave it away",
    "--show-hidden-metrics-for-version": _LEAVE_AWAY,
    "--stderrthreshold": _TO_STANDARD_ERROR,
    "--version": "the command is `userspace-proxy --version`",
    "--vmodule": "use --v",
    "--write-config-to": _LEAVE_AWAY,
}
"""By the flag, or by a pattern for several (fnmatch). The first that fits counts."""


def hint_for(flag: str) -> str | None:
    """What to do about a flag that `run` does not know; None if kube-proxy does not know it either."""
    for pattern, hint in HINTS.items():
        if fnmatchcase(flag, pattern):
            return f"kube-proxy has it, we do not; {hint}"
    return None


class CommandForKubeProxyUsers(click.Command):
    """A command that answers flags of kube-proxy's that it does not know with what to do instead."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            hint = hint_for(error.option_name)
            if hint is not None:
                raise click.UsageError(f"No such option: {error.option_name} ({hint}).", ctx) from error
            raise
