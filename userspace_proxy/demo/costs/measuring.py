"""Asking a web server in several ways, each for a moment and in turn, and reading what it cost: proc(5).

Runs in a pod of the demo cluster, where /proc shows the cluster's processes and /run/netns its namespaces. A
namespace says whose a process is: the client is in this one, the proxy in the node's, named `node-1` if this
one is `node-1-5`, and all other pods' belong to `pod`, of which only the one that is asked has much to do.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeAlias

from userspace_proxy.demo.costs.figures import Report, Role, Round, Work, figures_of
from userspace_proxy.errors import StartupError

_ROUNDS: Final = 9
_PATIENCE_SECONDS: Final = 5.0
_MOST_HEAD_BYTES: Final = 65536
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_TICKS: Final = os.sysconf("SC_CLK_TCK")

Address: TypeAlias = tuple[str, int]
Roles: TypeAlias = Callable[[], Mapping[int, Role]]
"""What says of each process whose it is."""


def measure(ways: Mapping[str, Address], seconds: float, roles: Roles) -> Report:
    """Ask at each address, by the names of the ways there, for so long in all.

    The ways take turns, so that what else the machine does disturbs all of them alike. Raises `StartupError`
    if somebody does not answer.
    """
    resolved = {way: _resolved(way, address) for way, address in ways.items()}
    moment = seconds / (len(ways) * len(Work) * _ROUNDS)
    rounds: dict[tuple[Work, str], list[Round]] = {(work, way): [] for work in Work for way in ways}
    for _ in range(_ROUNDS):
        for (work, way), done in rounds.items():
            try:
                done.append(_round(work, resolved[way], moment, roles))
            except OSError as error:
                raise _nobody(way, ways[way], error) from error
    figures = tuple(figures_of(way, work, done) for (work, way), done in rounds.items())
    return Report(datetime.now(UTC).date().isoformat(), machine(), figures)


def _resolved(way: str, address: Address) -> Address:
    """Asked once, so that the cost of DNS is not in the figures."""
    try:
        host, port = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0][4][:2]
    except OSError as error:
        raise _nobody(way, address, error) from error
    return str(host), int(port)


def _nobody(way: str, address: Address, error: OSError) -> StartupError:
    host, port = address
    return StartupError(f"{way}: nobody answers at {host}:{port}: {error}")


def machine() -> str:
    """This machine, in a few words."""
    about = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*: (.+)$", about, re.M)
    processor = model[1] if model else os.uname().machine
    return f"{os.cpu_count()} CPUs ({processor}), Linux {os.uname().release.partition('-')[0]}"


def _round(work: Work, address: Address, seconds: float, roles: Roles) -> Round:
    request = {Work.CONNECTIONS: _ask_anew, Work.REQUESTS: _ask_again}[work]
    latencies: list[float] = []
    # Our own time is read last before, and first after, so that reading the others' is not in it.
    whose = sorted(roles().items(), key=lambda item: item[0] == os.getpid())
    before, began = _cpu_seconds(whose), time.monotonic()
    with request(address) as ask:
        while not latencies or time.monotonic() - began < seconds:
            asked = time.monotonic()
            ask()
            latencies.append(time.monotonic() - asked)
    took, after = time.monotonic() - began, _cpu_seconds(reversed(whose))
    return Round(took, latencies, {role: max(0.0, after[role] - before[role]) for role in Role})


@contextmanager
def _ask_anew(address: Address) -> Iterator[Callable[[], None]]:
    def ask() -> None:
        with _connection(address) as connection:
            _ask(connection, address, "close")

    yield ask


@contextmanager
def _ask_again(address: Address) -> Iterator[Callable[[], None]]:
    with _connection(address) as connection:
        yield lambda: _ask(connection, address, "keep-alive")


def _connection(address: Address) -> socket.socket:
    connection = socket.create_connection(address, _PATIENCE_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _ask(connection: socket.socket, address: Address, fate: str) -> None:
    """One request and its whole answer. Raises `ConnectionError` if that is none."""
    connection.sendall(f"GET /name HTTP/1.1\r\nHost: {address[0]}\r\nConnection: {fate}\r\n\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer and len(answer) < _MOST_HEAD_BYTES:
        answer += _some(connection)
    head, _, rest = answer.partition(b"\r\n\r\n")
    length = _LENGTH.search(head)
    if length is None or not head.startswith(b"HTTP/1.1 200 "):
        raise ConnectionError("that is no web server with something to say")
    while len(rest) < int(length[1]):
        rest += _some(connection)


def _some(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise ConnectionError("it ends in the middle of an answer")
    return data


def roles_in_the_cluster() -> Roles:
    """Those that this pod of the demo cluster sees. Raises `StartupError` where it is none."""
    own = Path("/proc/self/ns/net").stat().st_ino
    try:
        names = {place.stat().st_ino: place.name for place in Path("/run/netns").iterdir()}
    except OSError:
        names = {}
    node, _, host = names.get(own, "").rpartition("-")
    if not host.isdigit() or node not in names.values():
        raise StartupError(
            "this is measured from a pod of the demo cluster: "
            "userspace-proxy demo exec POD -- userspace-proxy demo measure …"
        )
    nodes = {name.rpartition("-")[0] for name in names.values()} & set(names.values())
    places = {own: Role.CLIENT}
    for inode, name in names.items():
        if name == node:
            places[inode] = Role.PROXY
        elif inode != own and name.rpartition("-")[0] in nodes:
            places[inode] = Role.POD
    return lambda: {pid: places[inode] for pid, inode in _namespaces() if inode in places}


def _namespaces() -> Iterator[tuple[int, int]]:
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                yield int(process.name), (process / "ns/net").stat().st_ino
            except OSError:  # gone meanwhile
                continue


def _cpu_seconds(whose: Iterable[tuple[int, Role]]) -> dict[Role, float]:
    spent = dict.fromkeys(Role, 0.0)
    for pid, role in whose:
        spent[role] += _process_seconds(pid)
    return spent


def _process_seconds(pid: int) -> float:
    """The CPU time of a process' threads: exact where the kernel keeps schedstat, else in ticks."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9
    except OSError:
        return _process_ticks(pid) / _TICKS


def _process_ticks(pid: int) -> int:
    try:
        fields: Sequence[str] = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])
