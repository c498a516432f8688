"""An API server that speaks nonsense, in HTTP or JSON, is one that is down: nothing else follows from it."""

from __future__ import annotations

import asyncio
import gzip
from pathlib import Path

import pytest

from tests.sources.test_api_server import briefly, run, service, wait_until
from tests.support.fake_api_server import FakeApiServer, write_kubeconfig
from tests.support.recording_sink import running
from userspace_proxy.sources.api_server import ApiServerSource

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
LIST = b'{"metadata": {"resourceVersion": "5"}, "items": []}'


def answer(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    lines = (b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *headers, b"", body)
    return b"\r\n".join(lines)


NONSENSE = {
    "nothing": b"",
    "noise": bytes(range(256)) * 10,
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "no end of headers": OK,
    "endless header": OK + b"X: " + b"x" * 100_000,
    "bad length": OK + b"Content-Length: -5\r\n\r\n",
    "huge length": OK + b"Content-Length: %d\r\n\r\n{" % 2**80,
    "cut body": OK + b"Content-Length: 100\r\n\r\n{",
    "bad chunks": OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "cut chunks": OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
    "no gzip": answer(LIST, b"Content-Encoding: gzip"),
    "cut gzip": answer(gzip.compress(LIST * 100)[:-20], b"Content-Encoding: gzip"),
    "unknown encoding": answer(LIST, b"Content-Encoding: br"),
    "redirect to itself": answer(b"", b"Location: /api/v1/services", status=b"302 Found"),
    "redirect nowhere": answer(b"", b"Location: file:///etc/passwd", status=b"307 Go"),
    "redirect to nonsense": answer(b"", b"Location: http://[::1", status=b"301 Go"),
    "no content": answer(b"", status=b"204 No Content"),
    "switching": answer(b"", b"Upgrade: h2c", b"Connection: upgrade", status=b"101 Switching"),
    "status beyond HTTP": answer(b"", status=b"999 \xff\xfe\x1b[31m"),
    "retry after an age": answer(b"", b"Retry-After: " + b"9" * 5000, status=b"429 Busy"),
    "retry after a date": answer(b"", b"Retry-After: Sun, 22 Nov 2026 20:16:17 GMT", status=b"503 Busy"),
    "nested status": answer(b"[" * 100_000, status=b"500 Oops"),
    "truncated list": answer(LIST[:-3]),
    "nested list": answer(b'{"metadata": {}, "items": ' + b"[" * 100_000),
    "list of nothing": answer(b"null"),
    "list of numbers": answer(b'{"metadata": {"resourceVersion": "5"}, "items": [1, null, "x", [], {}]}'),
    "version of digits": answer(LIST.replace(b"5", b"5" * 10_000)),
}


@pytest.mark.parametrize("nonsense", NONSENSE.values(), ids=NONSENSE.keys())
def test_nonsense_is_survived(nonsense: bytes, tmp_path: Path) -> None:
    asked = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        try:
            await reader.readuntil(b"\r\n\r\n")
            asked += 1
            writer.write(nonsense)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def scene() -> None:
        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", f"http://127.0.0.1:{port}")
        # Who asks one server for its version and the next for what came later waits in silence at first.
        source = ApiServerSource(kubeconfig, "node-1", sleep=briefly, silence_seconds=1.0)
        async with running(source) as sink:
            await wait_until(lambda: asked > 9)
            server.close()
            await server.wait_closed()
            async with FakeApiServer(port) as good:
                good.apply(service("a"))
                await sink.until(lambda: sink.names() == ["default/a"])

    run(scene())
