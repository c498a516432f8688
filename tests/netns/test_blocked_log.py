"""Nobody reads the log: everything is served all the same."""

from __future__ import annotations

import fcntl
import os
import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support import objects
from tests.support.agent import USERSPACE_PROXY
from tests.support.clients import greeting, sockets, who_greets
from tests.support.service_node import PORTS, ServiceNode
from tests.support.waiting import wait_until

PIPE_BYTES = 4096


@pytest.fixture
def full_pipe() -> Iterator[tuple[int, int]]:
    """Its reading and its writing end."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    os.write(writer, b"." * PIPE_BYTES)
    yield reader, writer
    for descriptor in (reader, writer):
        with suppress(OSError):
            os.close(descriptor)


def capabilities_of_threads(pid: int) -> set[str]:
    """What the threads of a process may do: one item, if it is the same for all."""
    statuses = [(task / "status").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    assert len(statuses) > 1
    return {"".join(re.findall(r"^Cap(?:Prm|Eff|Bnd):.*$", status, re.MULTILINE)) for status in statuses}


@pytest.mark.parametrize("has_left", [False, True])
def test_who_reads_the_log_may_stop_or_leave(
    tmp_path: Path, full_pipe: tuple[int, int], has_left: bool
) -> None:
    reader, writer = full_pipe
    with ServiceNode(tmp_path, "--v", "10", "--max-connections-per-client", "1") as node:
        with os.fdopen(writer, "wb") as log:
            agent = node.node.popen(*USERSPACE_PROXY, "run", *node.agent.flags, stderr=log)
        if has_left:
            os.close(reader)
        service = node.serve("greet")
        with sockets(node.client, 1)[0] as client:
            client.connect(service["greet"])
            assert greeting(client)
            for refused in sockets(node.client, 3):  # of which a worker has something to say
                with refused, pytest.raises(ConnectionError):
                    refused.connect(service["greet"])
                    greeting(refused)
            other = node.serve("greet")
            assert who_greets(node.client, other["greet"], 1)
        for number in range(300):  # changes, each of which the agent has something to say of
            node.objects.apply(objects.service(f"changing-{number}", at=None, ports=[f"{PORTS['greet']}"]))
        for pid in (agent.pid, *node.agent.worker_pids):
            assert len(capabilities_of_threads(pid)) == 1, "who writes the log may do what the others gave up"
        last = node.serve("greet")
        wait_until(lambda: bool(who_greets(node.client, last["greet"], 1)))
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(10) == 0
        if not has_left:
            os.set_blocking(reader, False)
            assert os.read(reader, PIPE_BYTES) == b"." * PIPE_BYTES
