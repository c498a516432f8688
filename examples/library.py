"""A Service of your own in ten lines: python examples/library.py, then curl http://127.0.0.1:8080"""

import asyncio

from userspace_proxy import StaticService

ENDPOINTS = [("127.0.0.1", 9001), ("127.0.0.1", 9002)]  # python -m http.server 9001


async def main() -> None:
    async with StaticService(ENDPOINTS, listen=("127.0.0.1", 8080)) as service:
        print("serving at", *service.address)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
