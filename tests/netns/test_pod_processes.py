"""The processes of pods: the built-in server as clients see it, host binaries, and how all of them end."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests.support.waiting import DEADLINE_SECONDS, TRIES
from userspace_proxy.demo.kubelet.pod_http import Identity
from userspace_proxy.demo.kubelet.pod_spec import (
    Container,
    ContainerPort,
    Exec,
    HttpGet,
    HttpHeader,
    Probe,
    TcpSocket,
)
from userspace_proxy.demo.kubelet.probing import Prober
from userspace_proxy.demo.kubelet.processes import Execute, Process, Processes, Serve
from userspace_proxy.demo.namespaces import Namespace

WEB = Identity("web-1", "default", "node-2", "nginx:1.27", "127.0.0.1")
ENV = {"PATH": os.environ["PATH"]}
PORTS = (ContainerPort(8080, "http"),)
LINE = "web-1 here, in default on node-2, image nginx:1.27. You are "


class Pod(Namespace):
    """A namespace in the place of a pod's sandbox."""

    @property
    def addresses(self) -> tuple[str, ...]:
        return ("127.0.0.1", "::1")

    @property
    def namespace_path(self) -> Path:
        return self.path

    def entering(self, argv: Any) -> list[str]:
        return ["ip", "netns", "exec", self.name, *argv]


@pytest.fixture(scope="module")
def pod() -> Iterator[Pod]:
    with Pod("pod") as namespace:
        yield namespace


def run(scene: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(scene, 2 * DEADLINE_SECONDS))


class Output:
    """The pipe that a process writes to."""

    def __init__(self) -> None:
        self._reader, self.writer = os.pipe()
        os.set_blocking(self._reader, False)
        self.text = ""

    async def until(self, text: str) -> None:
        """Wait until it has said `text`."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while text not in self.text:
                with suppress(BlockingIOError):
                    self.text += os.read(self._reader, 65536).decode()
                await asyncio.sleep(0.005)

    def close(self) -> None:
        os.close(self._reader)
        os.close(self.writer)


@asynccontextmanager
async def serving(pod: Pod, *ports: int) -> AsyncIterator[tuple[Processes, Process, Output]]:
    """The built-in server in `pod`."""
    output = Output()
    try:
        async with Processes() as processes:
            process = await processes.launch(Serve.pod(pod.path, WEB, ports), output.writer)
            await output.until("serves HTTP, TCP and UDP on port")
            yield processes, process, output
    finally:
        output.close()


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().split()[3])


def arguments_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0")


async def curl(pod: Pod, *arguments: str) -> str:
    done = await asyncio.to_thread(pod.run, "curl", "-sS", "--max-time", "20", *arguments, check=False)
    return done.stdout + done.stderr


def connected(pod: Pod, port: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    """A client with time-outs long enough for a busy machine."""
    client = pod.call(lambda: socket.socket(socket.AF_INET, kind))
    client.settimeout(20)
    client.connect(("127.0.0.1", port))
    return client


def lines_until_the_end(client: socket.socket) -> list[bytes]:
    with client.makefile("rb") as stream:
        return stream.read().splitlines()


def test_server_says_who_it_is_over_http_tcp_and_udp_in_both_families(pod: Pod) -> None:
    async def scene() -> None:
        async with serving(pod, 8080, 9090) as (_, _, output):
            assert (await curl(pod, "http://127.0.0.1:8080/a")).startswith(f"{LINE}127.0.0.1:")
            assert (await curl(pod, "http://[::1]:9090/a")).startswith(f"{LINE}[::1]:")
            assert json.loads(await curl(pod, "http://127.0.0.1:8080/json"))["node"] == "node-2"
            with connected(pod, 8080) as client:
                client.sendall(b"hello\n")
                client.shutdown(socket.SHUT_WR)
                greeting, echo = await asyncio.to_thread(lines_until_the_end, client)
                assert greeting.decode().startswith(f"{LINE}127.0.0.1:")
                assert echo == b"hello"
            with connected(pod, 9090, socket.SOCK_DGRAM) as client:
                client.send(b"?")
                assert client.recv(2000).decode().startswith(LINE)
            await output.until(" UDP\n")
            assert "GET /a 200\n" in output.text

    run(scene())


def test_server_answers_one_request_after_the_other_bodies_and_bulk(pod: Pod) -> None:
    async def scene() -> None:
        async with serving(pod, 8080):
            url = "http://127.0.0.1:8080"
            body = "@/proc/self/exe"
            assert await curl(pod, "--data-binary", body, f"{url}/name", f"{url}/name") == "web-1\nweb-1\n"
            paths = [f"{url}/bytes/10000000", "-o", "/dev/null", f"{url}/status/503", "-o", "/dev/null"]
            said = await curl(pod, "-w", "%{http_code} %{size_download} %{num_connects}\n", *paths)
            assert said.splitlines()[0] == "200 10000000 1"
            assert said.splitlines()[1].startswith("503 ") and said.endswith(" 0\n")
            with connected(pod, 8080) as client:
                client.sendall(
                    b"GET /sleep/0.2 HTTP/1.1\r\n\r\nGET /name HTTP/1.1\r\nConnection: close\r\n\r\n"
                )
                said = b"\n".join(await asyncio.to_thread(lines_until_the_end, client)).decode()
                assert "asked for /sleep/0.2" in said and said.endswith("\nweb-1")

    run(scene())


def test_server_that_is_asked_to_end_finishes_what_is_under_way(pod: Pod) -> None:
    async def scene() -> None:
        async with serving(pod, 8080) as (_, process, output):
            slow = asyncio.create_task(curl(pod, "http://127.0.0.1:8080/sleep/4"))
            await output.until("GET /sleep/4")
            idle = connected(pod, 8080)
            idle.sendall(b"GET /name HTTP/1.1\r\n\r\n")
            assert b"web-1" in idle.recv(2000)
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(idle.recv, 1) == b""
            assert "asked for /sleep/4" in await slow
            assert await process.exited == 0
            assert "Failed to connect" in await curl(pod, "http://127.0.0.1:8080/")
            idle.close()

    run(scene())


def test_server_that_is_asked_to_end_serves_on_for_a_while(pod: Pod) -> None:
    async def answered() -> bytes:
        """To one who comes after SIGTERM; a busy machine may let that be too late."""
        async with serving(pod, 8080) as (_, process, output):
            process.send_signal(signal.SIGTERM)
            await output.until("asked to end")
            with suppress(ConnectionError), connected(pod, 8080) as client:
                client.sendall(b"GET /name HTTP/1.1\r\n\r\n")
                return b"\n".join(await asyncio.to_thread(lines_until_the_end, client))
            return b""

    async def scene() -> None:
        for _ in range(TRIES):
            if said := await answered():
                break
        assert b"Connection: close\n" in said and said.endswith(b"\nweb-1")

    run(scene())


def test_server_that_cannot_listen_says_so_and_ends(pod: Pod) -> None:
    async def scene() -> None:
        async with serving(pod, 8080) as (processes, _, output):
            process = await processes.launch(Serve.pod(pod.path, WEB, [8080]), output.writer)
            assert await process.exited == 1
            await output.until("Address already in use (port 8080)")

    run(scene())


def test_server_without_a_descriptor_left_lets_clients_wait(pod: Pod) -> None:
    async def scene() -> None:
        async with serving(pod, 8080) as (_, process, _):
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (16, 16))
            clients = [connected(pod, 8080) for _ in range(20)]
            clients[-1].sendall(b"GET /name HTTP/1.1\r\nConnection: close\r\n\r\n")
            for client in clients[:-1]:
                client.close()
            assert (await asyncio.to_thread(lines_until_the_end, clients[-1]))[-1] == b"web-1"
            clients[-1].close()

    run(scene())


def test_zygote_without_a_descriptor_left_refuses(pod: Pod) -> None:
    async def scene() -> None:
        async with serving(pod, 8080) as (processes, process, output):
            resource.prlimit(parent_of(process.pid), resource.RLIMIT_NOFILE, (4, 4))
            with pytest.raises(OSError, match="Too many open files"):
                await processes.launch(Serve.pod(pod.path, WEB, [8081]), output.writer)
            assert await curl(pod, "http://127.0.0.1:8080/name") == "web-1\n"

    run(scene())


def test_command_has_its_environment_folder_and_status(pod: Pod) -> None:
    async def scene() -> None:
        async with Processes() as processes:
            command = pod.entering(["sh", "-c", "echo $X in $PWD; exit 3"])
            assert await processes.run(Execute(command, {**ENV, "X": "5"}, "/usr"), 20) == (3, "5 in /usr\n")
            status, said = await processes.run(Execute(["nonsense"], ENV), 20)
            assert status == 126 and "No such file" in said
            much = Execute(["sh", "-c", "head -c 1000000 /dev/zero; exit 4"], ENV)
            assert (await processes.run(much, 20))[0] == 4
            with pytest.raises(OSError, match="over 131072"):
                await processes.run(Execute(["true"], {"X": "x" * 200000}), 20)

    run(scene())


def test_whatever_a_command_has_started_dies_with_it(pod: Pod) -> None:
    async def scene() -> None:
        async with Processes() as processes:
            with pytest.raises(TimeoutError):
                await processes.run(Execute(pod.entering(["sh", "-c", "sleep 600 & sleep 600"]), ENV), 0.3)
            for leaver in ("sleep 600 &", "setsid sleep 600 &", "(setsid sh -c 'sleep 600 & sleep 600' &) &"):
                left = Execute(pod.entering(["sh", "-c", f"exec > /dev/null; {leaver} sleep 0.1"]), ENV)
                assert await processes.run(left, 20) == (0, "")
            async with asyncio.timeout(DEADLINE_SECONDS):
                while await asyncio.to_thread(pod.pids):
                    await asyncio.sleep(0.01)

    run(scene())


def test_killed_process_is_dead_and_a_killed_zygote_takes_all_with_it(pod: Pod) -> None:
    async def scene() -> None:
        async with serving(pod, 8080) as (processes, first, output):
            second = await processes.launch(Serve.pod(pod.path, WEB, [8081]), output.writer)
            os.kill(first.pid, signal.SIGKILL)
            assert await first.exited == -signal.SIGKILL
            first.send_signal(signal.SIGTERM)
            os.kill(parent_of(second.pid), signal.SIGKILL)
            assert await second.exited == -signal.SIGKILL
            third = await processes.launch(Serve.pod(pod.path, WEB, [8080]), output.writer)
            await processes.launch(Execute(pod.entering(["sh", "-c", "sleep 600; true"]), ENV), output.writer)
            await output.until("serves HTTP, TCP and UDP on port 8080\nweb-1 serves")
        assert await third.exited == -signal.SIGKILL
        async with asyncio.timeout(DEADLINE_SECONDS):
            while await asyncio.to_thread(pod.pids):
                await asyncio.sleep(0.01)

    run(scene())


def test_server_shows_in_ps_whose_it_is(pod: Pod) -> None:
    async def scene() -> None:
        async with serving(pod, 8080) as (_, process, _):
            assert arguments_of(process.pid) == b"pod-server: default/web-1"

    run(scene())


def _patient(**what: Any) -> Probe:
    return Probe(**what, timeout_seconds=20)


PROBES: dict[str, tuple[Probe, str | None]] = {
    "tcp by name": (_patient(tcp_socket=TcpSocket("http")), None),
    "tcp, other family": (_patient(tcp_socket=TcpSocket(8080, "::1")), None),
    "nobody listens": (_patient(tcp_socket=TcpSocket(1)), "connection refused"),
    "no such port": (_patient(tcp_socket=TcpSocket("https")), "container web has no port named 'https'"),
    "no address": (_patient(tcp_socket=TcpSocket(1, "web.example")), "host 'web.example' is no IP address"),
    "http": (_patient(http_get=HttpGet(8080)), None),
    "header": (_patient(http_get=HttpGet(8080, "/x", http_headers=(HttpHeader("Host", "web"),))), None),
    "status": (_patient(http_get=HttpGet(8080, "status/503")), "HTTP probe failed with statuscode: 503"),
    "no answer": (Probe(http_get=HttpGet(8080, "/sleep/600"), timeout_seconds=1), "no answer within 1 s"),
    "true": (_patient(exec=Exec(("true",))), None),
    "says why": (_patient(exec=Exec(("sh", "-c", "echo bad; false"))), "bad"),
    "says nothing": (_patient(exec=Exec(("false",))), "the command ended with status 1"),
    "sleeps": (Probe(exec=Exec(("sleep", "600")), timeout_seconds=1), "no answer within 1 s"),
}


def test_probe_says_why_it_fails(pod: Pod) -> None:
    async def scene() -> None:
        async with serving(pod, 8080) as (processes, _, output):
            prober = Prober(pod.path, processes)
            container = Container("web", ports=PORTS)
            outcomes = await asyncio.gather(
                *(prober.probe(probe, container, "127.0.0.1", pod, ENV) for probe, _ in PROBES.values())
            )
            prober.close()
            assert dict(zip(PROBES, outcomes, strict=True)) == {
                name: failure for name, (_, failure) in PROBES.items()
            }
            assert "GET" not in output.text

    run(scene())
