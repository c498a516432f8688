"""Asks a live agent over its admin socket; for commands, so everything here blocks."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from userspace_proxy.admin.protocol import AdminError, AnswerLine, ErrorCode, NoParameters, Request
from userspace_proxy.errors import NoAgentError

ANSWER_SECONDS: Final = 60.0
"""The longest that nothing may come: an agent under load takes its time."""

_T = TypeVar("_T")


def ask(
    path: Path,
    method: str,
    item_type: type[_T],
    parameters: msgspec.Struct | None = None,
    *,
    timeout_seconds: float = ANSWER_SECONDS,
) -> Iterator[_T]:
    """The items of the agent's answer, as they come.

    Raises `NoAgentError` if none answers at `path`, `AdminError` if it does and says no.
    """
    request = Request(method, 1, msgspec.Raw(msgspec.json.encode(parameters or NoParameters())))
    decoder = msgspec.json.Decoder(item_type)
    lines = msgspec.json.Decoder(AnswerLine)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout_seconds)
        try:
            sock.connect(str(path))
            sock.sendall(msgspec.json.encode(request) + b"\n")
            with sock.makefile("rb") as answer:
                for line in answer:
                    said = lines.decode(line)
                    if said.error is not None:
                        raise AdminError(said.error.code, said.error.message)
                    if said.done:
                        return
                    yield decoder.decode(said.item)
        except FileNotFoundError as error:
            raise NoAgentError(f"no agent runs here: there is no {path}") from error
        except ConnectionRefusedError as error:
            raise NoAgentError(f"no agent runs here: nobody answers at {path}") from error
        except ConnectionError:
            pass  # it ended, as below
        except PermissionError as error:
            raise NoAgentError(f"{path} may be used by root alone") from error
        except TimeoutError as error:
            raise NoAgentError(f"the agent does not answer at {path} within {timeout_seconds:g} s") from error
        except (OSError, msgspec.DecodeError) as error:
            raise NoAgentError(f"the agent's answer at {path} cannot be understood: {error}") from error
    raise AdminError(ErrorCode.UNAVAILABLE, "the agent ended in the middle of its answer")
