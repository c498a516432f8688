"""Where a worker's log lines go, and what of them arrives."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import msgspec
import pytest

from userspace_proxy.dataplane.messages import Logged
from userspace_proxy.dataplane.worker_log import WorkerLog, log_again
from userspace_proxy.logs.formats import JsonFormatter
from userspace_proxy.logs.log import Log


class Agent:
    """What has adopted the worker: takes messages, unless it `is_slow`."""

    def __init__(self) -> None:
        self.told: list[Logged] = []
        self.is_slow = False

    def tell(self, message: Logged) -> bool:
        if not self.is_slow:
            self.told.append(msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=Logged))
        return not self.is_slow


def record_of(template: str, *arguments: object, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("test", level, __file__, 1, template, arguments, None)


def test_lines_go_to_the_agent_as_long_as_there_is_one(tmp_path: Path) -> None:
    file = tmp_path / "log"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT)
    agent = Agent()
    log = WorkerLog(Log(descriptor))
    log.emit(record_of("own"))
    log.tell = agent.tell
    log.emit(record_of("told: client=%s connections=%d", "10.0.0.1", 7))
    log.tell = None
    log.emit(record_of("own again"))
    assert [line.split("INFO    ")[1] for line in file.read_text().splitlines()] == ["own", "own again"]
    assert [(message.template, message.arguments) for message in agent.told] == [
        ("told: client=%s connections=%d", ("10.0.0.1", 7))
    ]
    os.close(descriptor)


def test_an_agent_that_is_slow_costs_lines_and_hears_how_many() -> None:
    agent = Agent()
    log = WorkerLog(Log())
    log.tell = agent.tell
    agent.is_slow = True
    for _ in range(3):
        log.emit(record_of("lost"))
    agent.is_slow = False
    log.emit(record_of("next"))
    log.emit(record_of("last"))
    assert [message.template % message.arguments for message in agent.told] == [
        "Log lines of a worker were lost: lines=3",
        "next",
        "last",
    ]


def test_the_agent_logs_it_with_its_time_its_level_its_keys_and_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    message = Logged(0, 1_700_000_000.25, logging.ERROR, "Failed: pid=%d", (7,), "Traceback …")
    log_again(message, logging.getLogger("test"))
    [record] = caplog.records
    assert json.loads(JsonFormatter().format(record)) == {
        "ts": "2023-11-14T22:13:20.250Z",
        "level": "error",
        "msg": "Failed",
        "pid": 7,
        "trace": "Traceback …",
    }


def test_what_the_agent_does_not_show_it_does_not_log(caplog: pytest.LogCaptureFixture) -> None:
    log_again(Logged(0, 0.0, logging.DEBUG, "detail", ()), logging.getLogger("test"))
    assert caplog.records == []


def test_a_template_that_fits_nothing_harms_nobody(tmp_path: Path) -> None:
    file = tmp_path / "log"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT)
    log = Log(descriptor)
    logger = logging.getLogger("test of a wrong template")
    logger.propagate = False
    logger.addHandler(log)
    log_again(Logged(0, 0.0, logging.ERROR, "%d %d", ("x",)), logger)
    log_again(Logged(0, 0.0, logging.ERROR, "%(name)s", ("x",)), logger)
    log_again(Logged(0, 0.0, logging.ERROR, "fine", ()), logger)
    lines = file.read_text().splitlines()
    assert [line.partition("Z ")[2] for line in lines] == [
        "ERROR   fine",
        "WARNING Log lines were lost: lines=2",
    ]
    os.close(descriptor)
