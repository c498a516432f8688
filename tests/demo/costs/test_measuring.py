"""Asking a server on loopback, and those that do not answer."""

from __future__ import annotations

import os
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from userspace_proxy.demo.costs.figures import Role, Work
from userspace_proxy.demo.costs.measuring import Address, measure, roles_in_the_cluster
from userspace_proxy.errors import StartupError

SECONDS = 0.1


class Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    status = 200
    fates: ClassVar[Counter[str]] = Counter()

    def do_GET(self) -> None:
        self.fates[self.headers["Connection"]] += 1
        self.send_response(self.status)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"web\n")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[Address]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield "localhost", server.server_address[1]
        server.shutdown()
        thread.join()


def test_each_way_is_asked_on_new_connections_and_on_one(address: Address) -> None:
    Answering.fates.clear()
    report = measure({"a": address, "b": address}, SECONDS, lambda: {os.getpid(): Role.CLIENT})
    assert [(one.way, one.work) for one in report.figures] == [(way, work) for work in Work for way in "ab"]
    assert all(one.per_second > 0 and 0 < one.median_seconds <= one.p99_seconds for one in report.figures)
    assert all(one.cpu_seconds[Role.CLIENT] > 0 for one in report.figures)
    assert all(one.cpu_seconds[Role.PROXY] == 0 for one in report.figures)
    assert Answering.fates.keys() == {"close", "keep-alive"}


def test_a_process_that_has_gone_costs_nothing(address: Address) -> None:
    report = measure({"a": address}, SECONDS, lambda: {2**22 + 1: Role.POD})
    assert all(one.total_cpu_seconds == 0 for one in report.figures)


def test_an_error_is_no_answer(address: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Answering, "status", 503)
    with pytest.raises(StartupError, match=r"a: nobody answers at localhost:\d+: that is no web server"):
        measure({"a": address}, SECONDS, dict)


def test_who_refuses_is_named() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with pytest.raises(StartupError, match=r"a: nobody answers at 127\.0\.0\.1:\d+: .*refused"):
            measure({"a": ("127.0.0.1", nobody.getsockname()[1])}, SECONDS, dict)


def test_a_name_that_is_none_is_said() -> None:
    with pytest.raises(StartupError, match=r"a: nobody answers at nobody\.invalid:80"):
        measure({"a": ("nobody.invalid", 80)}, SECONDS, dict)


def test_outside_of_a_pod_nothing_is_measured() -> None:
    with pytest.raises(StartupError, match="from a pod of the demo cluster"):
        roles_in_the_cluster()
