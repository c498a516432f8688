"""What the built-in server is asked over HTTP, and what it answers; pure. RFC 9112."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import Final

MOST_HEAD_BYTES: Final = 16384
MOST_BODY_BYTES: Final = 1 << 40
MOST_SLEEP_SECONDS: Final = 3600.0
PROBE_AGENT: Final = "kube-probe/"
"""What a kubelet's probes call themselves first."""

_METHODS: Final = (b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"OPTIONS ", b"PATCH ")


class RequestError(Exception):
    """A request that cannot be answered as it is; the connection is closed behind the answer."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a pod is."""

    name: str
    namespace: str
    node: str
    image: str
    address: str

    def line(self, client: str, path: str | None = None) -> str:
        """What the pod says of itself to `client` (address and port); its name comes first."""
        asked = "" if path is None else f", and asked for {path}"
        image = f", image {self.image}" if self.image else ""
        return f"{self.name} here, in {self.namespace} on {self.node}{image}. You are {client}{asked}.\n"


@dataclass(frozen=True, slots=True)
class Request:
    """The head of a request. `body_bytes` follow it, `head_bytes` it took itself."""

    method: str
    path: str
    is_last: bool
    head_bytes: int
    body_bytes: int
    expects_continue: bool
    is_probe: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes out after `delay_seconds`: `head_and_body`, then `zeros` bytes more."""

    status: int
    head_and_body: bytes
    zeros: int = 0
    delay_seconds: float = 0.0


def may_be_http(data: bytes) -> bool | None:
    """Whether a connection that begins with `data` speaks HTTP; None while that is open."""
    if data.startswith(_METHODS):
        return True
    return None if any(method.startswith(data) for method in _METHODS) else False


def read_request(data: bytes) -> Request | None:
    """The request whose head `data` begins with; None while it is incomplete. Raises RequestError."""
    end = data.find(b"\r\n\r\n", 0, MOST_HEAD_BYTES)
    if end < 0:
        if len(data) >= MOST_HEAD_BYTES:
            raise RequestError(431, f"the head of a request has at most {MOST_HEAD_BYTES} bytes")
        return None
    first, *lines = data[:end].decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise RequestError(400, f"{first!r} is no request of HTTP/1")
    headers = {
        name.strip().lower(): value.strip().lower()
        for name, _, value in (line.partition(":") for line in lines)
    }
    if "transfer-encoding" in headers:
        raise RequestError(411, "send the body with a Content-Length")
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdecimal()):
        raise RequestError(400, f"Content-Length is {length!r}, which is no number")
    connection = headers.get("connection", "")
    return Request(
        method=words[0],
        path=words[1],
        is_last="keep-alive" not in connection if words[2] == "HTTP/1.0" else "close" in connection,
        head_bytes=end + 4,
        body_bytes=int(length),
        expects_continue=headers.get("expect") == "100-continue",
        is_probe=headers.get("user-agent", "").startswith(PROBE_AGENT),
    )


def answer(request: Request, identity: Identity, client: str, *, is_last: bool) -> Answer:
    """The answer to `request`, which came from `client`; with `is_last` the connection closes behind it."""
    path, _, _query = request.path.partition("?")
    _, verb, *arguments = path.split("/")
    argument = arguments[0] if len(arguments) == 1 else ""
    status, body, zeros, delay, kind = 200, identity.line(client, request.path), 0, 0.0, "text/plain"
    if verb == "json":
        kind = "application/json"
        body = json.dumps({**asdict(identity), "client": client, "path": request.path}) + "\n"
    elif verb == "name":
        body = f"{identity.name}\n"
    elif verb == "client":
        body = f"{client}\n"
    elif verb == "status" and argument.isdecimal() and 200 <= int(argument) <= 599:
        status = int(argument)
    elif verb == "bytes" and argument.isdecimal() and int(argument) <= MOST_BODY_BYTES:
        body, zeros, kind = "", int(argument), "application/octet-stream"
    elif verb == "sleep" and (seconds := _seconds(argument)) is not None:
        delay = seconds
    return _answer(status, body, zeros, delay, kind, is_head=request.method == "HEAD", is_last=is_last)


def refusal(error: RequestError) -> Answer:
    """The answer to what is no request that we take."""
    return _answer(error.status, f"{error}\n", 0, 0.0, "text/plain", is_head=False, is_last=True)


def _answer(
    status: int, body: str, zeros: int, delay: float, kind: str, *, is_head: bool, is_last: bool
) -> Answer:
    has_body = status not in (204, 304)
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Status"
    content = body.encode() if has_body else b""
    head = f"HTTP/1.1 {status} {phrase}\r\nContent-Type: {kind}\r\n"
    if has_body:
        head += f"Content-Length: {len(content) + zeros}\r\n"
    if is_last:
        head += "Connection: close\r\n"
    out = f"{head}\r\n".encode("latin-1")
    return Answer(status, out if is_head else out + content, 0 if is_head else zeros, delay)


def _seconds(text: str) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0 <= seconds <= MOST_SLEEP_SECONDS else None
