"""What a command hears: items, an error of the agent's, or that there is none."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from userspace_proxy.admin.client import ask
from userspace_proxy.admin.protocol import AdminError, ErrorCode
from userspace_proxy.core.answers.verbosity import VerbosityAnswer, VerbosityQuestion
from userspace_proxy.errors import NoAgentError


@contextmanager
def an_agent_that_says(path: Path, said: bytes) -> Iterator[list[bytes]]:
    """It says so whatever it is asked, and hangs up; yields what it was asked."""
    asked: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                asked.append(connection.recv(65536))
                connection.sendall(said)

        thread = threading.Thread(target=answer)
        thread.start()
        yield asked
        thread.join()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "admin.sock"


def answers(path: Path) -> list[VerbosityAnswer]:
    return list(ask(path, "log-level", VerbosityAnswer, VerbosityQuestion(verbosity=2), timeout_seconds=20))


def test_items_are_what_is_heard_until_the_end(path: Path) -> None:
    with an_agent_that_says(path, b'{"id":1,"item":{"verbosity":2}}\n{"id":1,"done":true}\n') as asked:
        assert answers(path) == [VerbosityAnswer(verbosity=2)]
    assert asked == [b'{"method":"log-level","id":1,"params":{"verbosity":2}}\n']


def test_an_error_of_the_agents_keeps_its_code(path: Path) -> None:
    said = b'{"id":1,"error":{"code":"not-found","message":"there is no web"}}\n'
    with an_agent_that_says(path, said), pytest.raises(AdminError, match="there is no web") as raised:
        answers(path)
    assert raised.value.code is ErrorCode.NOT_FOUND


def test_an_answer_without_an_end_is_none(path: Path) -> None:
    said = b'{"id":1,"item":{"verbosity":2}}\n'
    with an_agent_that_says(path, said), pytest.raises(AdminError, match="ended in the middle") as raised:
        answers(path)
    assert raised.value.code is ErrorCode.UNAVAILABLE


@pytest.mark.parametrize("said", [b"nonsense\n", b'{"id":1,"item":{"verbosity":"two"}}\n'])
def test_what_is_no_answer_is_not_taken_for_one(path: Path, said: bytes) -> None:
    with an_agent_that_says(path, said), pytest.raises(NoAgentError, match="cannot be understood"):
        answers(path)


def test_where_there_is_no_agent_that_is_said(path: Path) -> None:
    with pytest.raises(NoAgentError, match="no agent runs here: there is no ") as raised:
        answers(path)
    assert raised.value.exit_code == 3
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with pytest.raises(NoAgentError, match="no agent runs here: nobody answers at "):
        answers(path)


def test_an_agent_that_stands_still_is_not_waited_for_for_ever(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with pytest.raises(NoAgentError, match=r"does not answer at .* within 0\.05 s"):
            list(ask(path, "status", object, timeout_seconds=0.05))
