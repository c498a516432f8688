"""A TCP proxy as one would write it first, with asyncio's streams: what all the rest of this project adds to.

`python asyncio_streams.py LISTEN_PORT=ADDRESS:PORT...`
"""

from __future__ import annotations

import asyncio
import contextlib
import sys


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Everything from one side to the other, and then the end."""
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


async def listen(port: int, address: str, endpoint_port: int) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            theirs, ours = await asyncio.open_connection(address, endpoint_port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(carry(reader, ours), carry(theirs, writer))
        writer.close()
        ours.close()

    await asyncio.start_server(serve, "0.0.0.0", port, backlog=4096)


async def main() -> None:
    for argument in sys.argv[1:]:
        port, _, endpoint = argument.partition("=")
        address, _, endpoint_port = endpoint.rpartition(":")
        await listen(int(port), address, int(endpoint_port))
    await asyncio.Event().wait()


asyncio.run(main())
