"""The programs that make load, and what their output says."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from userspace_proxy.errors import StartupError, UserspaceProxyError

FOLDER: Final = Path(__file__).parent
WRK_SCRIPT: Final = FOLDER / "wrk.lua"


class MeasurementError(UserspaceProxyError):
    """A measurement that came to nothing: a program failed, or said something else than figures."""


@dataclass(frozen=True, slots=True)
class Exchanges:
    """What a generator of requests, connections or queries came to. Latencies are in microseconds."""

    done: int
    seconds: float
    failed: int
    lost: int
    p50_us: float
    p99_us: float
    max_us: float


@dataclass(frozen=True, slots=True)
class Transfer:
    """What arrived of a bulk transfer."""

    bytes: int
    seconds: float


def read_exchanges(output: str) -> Exchanges:
    """What wrk (with wrk.lua) or load.c printed: a line of JSON, perhaps among others."""
    for line in output.splitlines():
        if line.startswith("{"):
            try:
                return Exchanges(**json.loads(line))
            except (ValueError, TypeError) as error:
                raise MeasurementError(f"figures that cannot be read: {line}") from error
    raise MeasurementError(f"no figures in {output.strip()[-300:]!r}")


def read_transfer(output: str) -> Transfer:
    """What `iperf3 --json` printed, as the receiver saw it."""
    try:
        report = json.loads(output)
        if "error" in report:
            raise MeasurementError(f"iperf3: {report['error']}")
        received = report["end"]["sum_received"]
        return Transfer(received["bytes"], received["seconds"])
    except (ValueError, KeyError, TypeError) as error:
        raise MeasurementError(f"no report of iperf3 in {output.strip()[-300:]!r}") from error


def wrk(url: str, *, clients: int, seconds: int, headers: Sequence[str] = ()) -> list[str]:
    """wrk with one thread, which is enough for one core."""
    shown = [word for header in headers for word in ("-H", header)]
    options = ["-t", "1", "-c", str(clients), "-d", f"{seconds}s", "--timeout", "2s", "-s", str(WRK_SCRIPT)]
    return ["wrk", *options, *shown, url]


def iperf3(address: str, port: int, *, streams: int, seconds: int, is_download: bool) -> list[str]:
    """iperf3 that sends, or receives, for so long."""
    command = ["iperf3", "--json", "-c", address, "-p", str(port), "-P", str(streams), "-t", str(seconds)]
    return [*command, "-R"] if is_download else command


def compile_load(target: Path) -> None:
    """Compile load.c. Raises StartupError, with what to install, where that cannot be done."""
    command = ["cc", "-O2", "-o", str(target), str(FOLDER / "load.c")]
    try:
        completed = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except FileNotFoundError as error:
        raise StartupError("there is no C compiler `cc`; install the packages gcc and libc6-dev") from error
    if completed.returncode:
        raise StartupError(f"benchmarks/load.c could not be compiled:\n{completed.stderr}")
