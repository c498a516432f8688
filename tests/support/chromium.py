"""A headless Chromium, driven over the Chrome DevTools protocol; for tests of pages, and pictures of them."""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import aiohttp

DEADLINE_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 0.05
_PROGRAMS: Final = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


def chromium() -> str | None:
    """A program that is one; None if there is none."""
    return next((found for program in _PROGRAMS if (found := shutil.which(program))), None)


class PageError(Exception):
    """The browser refused what it was told, or a script threw."""


class Page:
    """One tab. `complaints` are its console's errors and warnings, and exceptions that nobody caught."""

    def __init__(self, connection: aiohttp.ClientWebSocketResponse) -> None:
        self.complaints: list[str] = []
        self._connection = connection
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def listen(self) -> None:
        """Hear what the browser says, until it says no more."""
        async for message in self._connection:
            said = message.json()
            if (waiting := self._answers.pop(said.get("id", 0), None)) is not None:
                waiting.set_result(said)
            elif said.get("method") == "Runtime.exceptionThrown":
                details = said["params"]["exceptionDetails"]
                self.complaints.append(details.get("exception", {}).get("description", details["text"]))
            elif said.get("method") == "Runtime.consoleAPICalled":
                if said["params"]["type"] in ("error", "warning", "assert"):
                    self.complaints.append(str(said["params"]["args"]))
            elif said.get("method") == "Log.entryAdded" and said["params"]["entry"]["level"] != "verbose":
                entry = said["params"]["entry"]
                self.complaints.append(f"{entry['text']} {entry.get('url', '')}")

    async def tell(self, method: str, **parameters: Any) -> dict[str, Any]:
        """What the browser answers. Raises PageError."""
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._connection.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(DEADLINE_SECONDS):
            said = await self._answers[number]
        if "error" in said:
            raise PageError(f"{method}: {said['error']['message']}")
        result: dict[str, Any] = said["result"]
        return result

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited if it is a promise. Raises PageError."""
        result = await self.tell(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in result:
            details = result["exceptionDetails"]
            raise PageError(details.get("exception", {}).get("description", details["text"]))
        return result["result"].get("value")

    async def until(self, expression: str) -> None:
        """Wait until an expression is true. Raises TimeoutError, with what the console says."""
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                while not await self.evaluate(f"Boolean({expression})"):
                    await asyncio.sleep(_LOOK_SECONDS)
        except TimeoutError as error:
            raise TimeoutError(f"never true: {expression}; the console says {self.complaints}") from error

    async def open(self, url: str, *, width: int = 1280, height: int = 800, mobile: bool = False) -> None:
        """Show a page in a window of this size."""
        await self.resize(width, height, mobile=mobile)
        await self.tell("Page.navigate", url=url)

    async def resize(self, width: int, height: int, *, mobile: bool = False) -> None:
        await self.tell(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=mobile,
        )

    async def prefer(self, **features: str) -> None:
        """Have the user prefer this: `prefer(color_scheme="dark", reduced_motion="reduce")`."""
        await self.tell(
            "Emulation.setEmulatedMedia",
            features=[
                {"name": f"prefers-{name.replace('_', '-')}", "value": value}
                for name, value in features.items()
            ],
        )

    async def press(self, key: str, code: int, text: str = "") -> None:
        """Press a key and let it go; `code` is its Windows virtual key code."""
        for type_ in ("keyDown" if text else "rawKeyDown", "keyUp"):
            await self.tell(
                "Input.dispatchKeyEvent",
                type=type_,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
                **({"text": text} if text and type_ == "keyDown" else {}),
            )

    async def picture(self, *, whole: bool = False) -> bytes:
        """What it looks like, as PNG; the window, or with `whole` all that one could scroll to."""
        answer = await self.tell("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(answer["data"])


@asynccontextmanager
async def opened_page() -> AsyncIterator[Page]:
    """A tab of a browser of its own, which keeps nothing and speaks to nobody but the page."""
    program = chromium()
    assert program is not None
    folder = Path(tempfile.mkdtemp(prefix="chromium-"))
    browser = await asyncio.create_subprocess_exec(
        program,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        "--hide-scrollbars",
        "--remote-debugging-port=0",
        f"--user-data-dir={folder}",
        "about:blank",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,  # Debian's program is a shell script that waits for the browser
    )
    try:
        port = await _port(folder / "DevToolsActivePort", browser)
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                tab = next(each for each in await answer.json() if each["type"] == "page")
            async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as connection:
                page = Page(connection)
                listening = asyncio.create_task(page.listen())
                for domain in ("Page", "Runtime", "Log"):
                    await page.tell(f"{domain}.enable")
                yield page
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(browser.pid, signal.SIGKILL)
        await browser.wait()
        shutil.rmtree(folder, ignore_errors=True)


async def _port(file: Path, browser: asyncio.subprocess.Process) -> str:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not (said := await asyncio.to_thread(_text, file)).endswith("\n") and "/" not in said:
            if browser.returncode is not None:
                raise PageError(f"the browser ended with {browser.returncode}")
            await asyncio.sleep(_LOOK_SECONDS)
    return said.splitlines()[0]


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except FileNotFoundError:
        return ""
