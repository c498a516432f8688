"""What `kube-proxy --init-only` does."""

from __future__ import annotations

from userspace_proxy.agent.conntrack_sysctls import set_conntrack_sysctls
from userspace_proxy.agent.host import reuse_ports_in_time_wait
from userspace_proxy.configuration.agent_configuration import Configuration


def set_node_sysctls(configuration: Configuration) -> None:
    """Set every sysctl that an agent sets, so that one may run where it cannot. Failures are logged."""
    if configuration.tcp_tw_reuse:
        reuse_ports_in_time_wait()
    set_conntrack_sysctls(configuration.conntrack)
