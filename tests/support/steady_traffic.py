"""Clients who never stop: one connection that echoes all the time, and new ones, one after another."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from tests.support.clients import Address, connect, greeting, outcome
from tests.support.waiting import wait_until
from userspace_proxy.demo.namespaces import Namespace

_SPACING_SECONDS = 0.02
_PATIENCE_SECONDS = 10.0
_SERVED_AGAIN = 5


class SteadyTraffic:
    """From inside `where` to a greeting port at `address`.

    `failed` is when new connections that were not served were begun, and what they met.
    """

    def __init__(self, where: Namespace, address: Address) -> None:
        self._where = where
        self._address = address
        self._stop = threading.Event()
        self._broken: list[BaseException] = []
        self._echoes = 0
        self.served: list[float] = []
        self.failed: list[tuple[float, str]] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        established = self._stack.enter_context(connect(self._where, self._address))
        greeting(established)

        def echo() -> None:
            try:
                while not self._stop.wait(_SPACING_SECONDS):
                    established.sendall(b"echo\n")
                    assert greeting(established) == "echo"
                    self._echoes += 1
            except (OSError, AssertionError) as error:
                self._broken.append(error)

        def come_anew() -> None:
            while not self._stop.wait(_SPACING_SECONDS):
                began = time.monotonic()
                try:
                    met = outcome(self._where, "TCP", self._address, patience_seconds=_PATIENCE_SECONDS)
                except OSError as error:
                    met = str(error)
                if met.startswith("web-"):
                    self.served.append(began)
                else:
                    self.failed.append((began, met))

        for work in (echo, come_anew):
            thread = threading.Thread(target=work)
            thread.start()
            self._stack.callback(thread.join)
        self._stack.callback(self._stop.set)
        wait_until(lambda: self.served)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def expect_served_since(self, since: float) -> None:
        """Whoever came after that was served, and the established connection has gone on all the time."""
        echoes = self._echoes
        wait_until(lambda: sum(began > since for began in self.served) >= _SERVED_AGAIN)
        wait_until(lambda: self._echoes > echoes or self._broken)
        assert not self._broken, f"the established connection broke: {self._broken}"
        assert [(began, met) for began, met in self.failed if began > since] == []

    def expect_nobody_noticed(self) -> None:
        """Everybody has been served all the time."""
        self.expect_served_since(0.0)
