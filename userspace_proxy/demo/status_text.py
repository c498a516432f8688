"""How a demo cluster presents itself in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from userspace_proxy.demo.control import ClusterStatus


def greeting(status: ClusterStatus, problems: Sequence[str], seconds: float) -> str:
    """What `demo up` says of a cluster that is up."""
    pod = next((pod for pod in status.pods if pod.name == "client"), None)
    lines = [
        f"A cluster of {_count(len(status.nodes), 'node')} and {_count(len(status.pods), 'pod')} is up after "
        f"{seconds:.1f} s; it takes {_mebibytes(status.memory_bytes)} in {status.processes} processes.",
        *(f"But {problem}." for problem in problems),
        "",
        *([f"Look at it: {status.web}", ""] if status.web is not None else []),
        "Try:",
        f"  export KUBECONFIG={status.kubeconfig}",
        "  kubectl get pods,services -A -o wide",
        *(["  userspace-proxy demo exec client -- curl -s http://web"] if pod is not None else []),
        f"  userspace-proxy demo shell {status.nodes[0].name}",
        "  userspace-proxy demo status",
        "  userspace-proxy demo down",
    ]
    return "\n".join(lines)


def status_text(status: ClusterStatus) -> str:
    """What `demo status` says."""
    nodes = [
        (
            node.name,
            node.zone or "-",
            ", ".join(node.addresses),
            ", ".join(node.pod_cidrs),
            "serves" if node.agent_is_serving else "does not serve",
            str(node.agent_pid or "-"),
            str(node.agent_restarts),
        )
        for node in status.nodes
    ]
    pods = [
        (
            f"{pod.namespace}/{pod.name}",
            pod.node or "-",
            ", ".join(pod.addresses) or "-",
            pod.state if pod.state != "Running" or pod.is_ready else "Running, not ready",
        )
        for pod in status.pods
    ]
    return "\n".join(
        (
            *table(("NODE", "ZONE", "ADDRESSES", "PODS' NETWORKS", "AGENT", "PID", "RESTARTS"), nodes),
            "",
            *(table(("POD", "NODE", "ADDRESSES", "STATE"), pods) if pods else ["There are no pods."]),
            "",
            f"kubeconfig  {status.kubeconfig}",
            f"API server  {status.server}",
            *([f"page        {status.web}"] if status.web is not None else []),
            f"logs        {status.logs}",
            f"memory      {_mebibytes(status.memory_bytes)} in {status.processes} processes",
            f"up for      {_duration(status.up_seconds)}",
            *(f"without     {problem}" for problem in status.problems),
        )
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with columns as wide as what is in them."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    ]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    )
