"""What the built-in server takes for a request, and what it answers."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userspace_proxy.demo.kubelet.pod_http import (
    MOST_HEAD_BYTES,
    Answer,
    Identity,
    RequestError,
    answer,
    may_be_http,
    read_request,
    refusal,
)

WEB = Identity("web-1", "default", "node-2", "nginx:1.27", "10.244.2.3")
CLIENT = "10.244.1.2:40000"


def ask(path: str, method: str = "GET", *, is_last: bool = False) -> Answer:
    request = read_request(f"{method} {path} HTTP/1.1\r\nHost: web\r\n\r\n".encode())
    assert request is not None
    return answer(request, WEB, CLIENT, is_last=is_last)


def body_of(reply: Answer) -> str:
    return reply.head_and_body.partition(b"\r\n\r\n")[2].decode()


@pytest.mark.parametrize(
    ("data", "is_http"),
    [(b"GET / HTTP/1.1", True), (b"GE", None), (b"P", None), (b"PING\r\n", False), (b"\x16\x03", False)],
)
def test_first_bytes_say_what_is_spoken(data: bytes, is_http: bool | None) -> None:
    assert may_be_http(data) is is_http


def test_request_is_read_once_its_head_is_there() -> None:
    head = (
        b"POST /x HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\nUser-Agent: kube-probe/1\r\n\r\n"
    )
    assert read_request(head[:-1]) is None
    request = read_request(head + b"abcGET")
    assert request is not None
    assert (request.method, request.path, request.head_bytes, request.body_bytes) == (
        "POST",
        "/x",
        len(head),
        3,
    )
    assert request.expects_continue and request.is_probe and not request.is_last


@pytest.mark.parametrize(
    ("version", "connection", "is_last"),
    [
        ("1.1", "", False),
        ("1.1", "Connection: close\r\n", True),
        ("1.0", "", True),
        ("1.0", "Connection: Keep-Alive\r\n", False),
    ],
)
def test_client_says_whether_the_connection_stays(version: str, connection: str, is_last: bool) -> None:
    request = read_request(f"GET / HTTP/{version}\r\n{connection}\r\n".encode())
    assert request is not None
    assert request.is_last is is_last


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        (b"GET /" + b"x" * MOST_HEAD_BYTES, 431),
    ],
)
def test_what_is_no_request_is_refused_and_the_connection_ended(data: bytes, status: int) -> None:
    with pytest.raises(RequestError) as refused:
        read_request(data)
    reply = refusal(refused.value)
    assert reply.status == status
    assert b"Connection: close\r\n" in reply.head_and_body


@given(st.binary())
def test_whatever_comes_is_a_request_or_refused_or_waited_for(data: bytes) -> None:
    try:
        request = read_request(data + b"\r\n\r\n")
    except RequestError:
        return
    assert request is not None
    assert answer(request, WEB, CLIENT, is_last=False).status in range(200, 600)


def test_pod_says_who_it_is() -> None:
    line = (
        "web-1 here, in default on node-2, image nginx:1.27. You are 10.244.1.2:40000, and asked for /a?b.\n"
    )
    assert body_of(ask("/a?b")) == line
    assert body_of(ask("/name")) == "web-1\n"
    assert body_of(ask("/client")) == f"{CLIENT}\n"
    assert json.loads(body_of(ask("/json"))) == {
        "name": "web-1",
        "namespace": "default",
        "node": "node-2",
        "image": "nginx:1.27",
        "address": "10.244.2.3",
        "client": CLIENT,
        "path": "/json",
    }


def test_answer_is_of_the_status_size_and_slowness_asked_for() -> None:
    assert ask("/status/503").head_and_body.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert ask("/status/299").head_and_body.startswith(b"HTTP/1.1 299 ")
    assert b"Content-Length" not in ask("/status/204").head_and_body
    assert [ask(f"/status/{text}").status for text in ("100", "600", "x", "503/x")] == [200] * 4
    assert (ask("/bytes/1000").zeros, body_of(ask("/bytes/1000"))) == (1000, "")
    assert b"Content-Length: 1000\r\n" in ask("/bytes/1000").head_and_body
    assert (ask("/sleep/2.5").delay_seconds, ask("/sleep/-1").delay_seconds) == (2.5, 0)
    assert ask("/sleep/nan").delay_seconds == 0


def test_head_has_the_length_and_no_body() -> None:
    assert body_of(ask("/", "HEAD")) == ""
    assert ask("/bytes/1000", "HEAD").zeros == 0


def test_last_answer_says_so() -> None:
    assert b"Connection: close\r\n" in ask("/", is_last=True).head_and_body
    assert b"Connection" not in ask("/").head_and_body
