"""The demo cluster's page: over HTTP, and in a browser."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.chromium import Page, chromium, opened_page
from tests.support.waiting import wait_until
from userspace_proxy.demo.control import ClusterStatus
from userspace_proxy.demo.state_directory import VARIABLE

DEMO = (sys.executable, "-m", "userspace_proxy", "demo")
TIMEOUT_SECONDS = 120
POD = "[data-shows*=':default/web-']"

needs_chromium = pytest.mark.skipif(
    chromium() is None, reason="there is no Chromium (chromium-headless-shell in Debian)"
)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """That of commands which find a cluster of their own, which has a page."""
    folder = tmp_path_factory.mktemp("demo") / "cluster"
    environment = {**os.environ, VARIABLE: str(folder)}
    said = demo(environment, "up", "--web")
    assert "Look at it: http://127.0.0.1:" in said
    yield environment
    demo(environment, "down")
    assert not folder.exists()


@pytest.fixture(scope="module")
def url(environment: dict[str, str]) -> str:
    status = msgspec.json.decode(demo(environment, "status", "-o", "json"), type=ClusterStatus)
    assert status.web is not None
    assert f"page        {status.web}" in demo(environment, "status")
    return status.web


def demo(environment: dict[str, str], *arguments: str) -> str:
    completed = subprocess.run(
        [*DEMO, *arguments], env=environment, capture_output=True, text=True, timeout=TIMEOUT_SECONDS
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return completed.stdout


def answer(url: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
    """Status and body of an answer; with `body` something is posted."""
    data = None if body is None else json.dumps(body).encode()
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    if data is not None:
        fields.setdefault("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, data, fields), timeout=TIMEOUT_SECONDS
        ) as said:
            return said.status, said.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def events(url: str) -> Generator[tuple[str, Any], None, None]:
    """What the page is told, until the deadline."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    with urllib.request.urlopen(f"{url}events", timeout=TIMEOUT_SECONDS) as stream:
        for line in stream:
            assert time.monotonic() < deadline, "it was not told in time"
            if line.startswith(b"event: "):
                yield line[7:].decode().strip(), json.loads(next(stream)[6:])


def test_the_page_is_there_and_loads_nothing_from_elsewhere(url: str) -> None:
    status, page = answer(url)
    assert status == 200
    assert b"userspace-proxy demo" in page
    for name in ("style.css", "icon.svg", *(path.name for path in scripts())):
        status, text = answer(url + name)
        assert status == 200, name
        assert b"https://" not in text and b"import(" not in text, name
    assert answer(f"{url}site.py")[0] == 404
    assert answer(f"{url}..%2fsite.py")[0] == 404


def scripts() -> list[Path]:
    import userspace_proxy.demo.web as package

    assert package.__file__ is not None
    return sorted((Path(package.__file__).parent / "static").glob("*.js"))


def test_nobody_may_ask_who_does_not_know_the_address(url: str) -> None:
    place = url.rsplit("/", 2)[0]
    assert answer(f"{place}/")[0] == 404
    assert answer(f"{place}/events")[0] == 404
    assert answer(f"{place}/guessed/events")[0] == 404
    assert answer(f"{place}/guessed/load", {"service": "default/web", "perSecond": 1})[0] == 404
    kill = f"{url}pods/default/client/kill"
    assert answer(kill, {}, Origin="https://evil.example")[0] == 403
    assert answer(kill, {}, Content_Type="text/plain")[0] == 403
    assert answer(url, Host="evil.example")[0] == 403
    assert answer(url, Sec_Fetch_Site="cross-site")[0] == 403


def test_what_cannot_be_done_is_refused_with_a_reason(url: str) -> None:
    for path, body, status in (
        ("pods/default/nobody/kill", {}, 404),
        ("pods/default/client/ready", {"on": "perhaps"}, 400),
        ("pods/default/client/ready", {}, 400),
        ("deployments/default/web/scale", {"replicas": 1000}, 400),
        ("deployments/default/web/scale", {"replicas": -1}, 400),
        ("load", {"service": "default/nothing", "perSecond": 1}, 404),
        ("load", {"service": "default/../services/web", "perSecond": 1}, 400),
        ("load", {"service": "kube-system/kube-dns", "perSecond": "many"}, 400),
    ):
        said_status, said = answer(url + path, body)
        assert said_status == status, (path, said)
        assert json.loads(said)["message"]
    assert answer(f"{url}services/default/nothing")[0] == 404
    assert answer(f"{url}services/default/..%2fpods%2fclient")[0] == 404


def test_a_service_is_told_in_full(url: str) -> None:
    status, said = answer(f"{url}services/default/web")
    service = json.loads(said)
    assert status == 200
    assert "kind: Service" in service["yaml"]
    assert sorted(service["nodes"]) == ["node-1", "node-2", "node-3"]
    for node in service["nodes"].values():
        assert any("REDIRECT" in rule["rule"] for rule in node["rules"])
        assert len(node["servicePorts"][0]["endpoints"]) == 3


def test_events_begin_with_all_there_is_and_go_on_with_what_travels(url: str) -> None:
    stream = events(url)
    name, view = next(stream)
    assert name == "snapshot"
    assert set(view) == {"nodes", "pods", "services", "deployments", "counters", "load"}
    assert all(node["agentAnswers"] for node in view["nodes"].values())
    assert answer(f"{url}load", {"service": "default/web", "perSecond": 30})[0] == 204
    targets: set[str] = set()
    for name, what in stream:
        if name == "tick":
            targets |= {flow["target"] for flow in what["flows"] if flow["service"] == "default/web"}
        if len(targets) == 3:
            break
    assert targets <= set(view["pods"])
    for name, what in stream:
        if name == "changes" and (load := what.get("load")) and load["load"]["answered"] > 10:
            break
    assert load["load"]["client"] == "default/client"
    assert answer(f"{url}load", {"service": "", "perSecond": 0})[0] == 204
    stream.close()


def test_what_is_done_to_a_pod_is_seen(url: str) -> None:
    stream = events(url)
    _, view = next(stream)
    victim = next(key for key in view["pods"] if "/web-" in key)

    def until(field: str, value: object) -> None:
        for name, what in stream:
            pod = what["pods"].get(victim) if name in ("snapshot", "changes") and "pods" in what else None
            if pod is not None and pod[field] == value:
                return

    assert answer(f"{url}pods/{victim}/ready", {"on": False})[0] == 204
    until("mark", "not-ready")
    assert answer(f"{url}pods/{victim}/ready", {"on": True})[0] == 204
    until("mark", "ready")
    assert answer(f"{url}pods/{victim}/black-hole", {"on": True})[0] == 204
    until("isBlackHoled", True)
    assert answer(f"{url}pods/{victim}/black-hole", {"on": False})[0] == 204
    until("mark", "ready")
    stream.close()


@needs_chromium
def test_a_browser_shows_a_killed_pod_and_complains_of_nothing(url: str) -> None:
    async def look() -> Page:
        async with opened_page() as page:
            await page.open(url)
            await page.until(f"""document.querySelectorAll(".pod.ready{POD}").length === 3""")
            assert await page.evaluate("document.querySelectorAll('.node').length") == 3
            await page.evaluate(f"""document.querySelector("{POD}").focus()""")
            await page.press("Enter", 13, "\r")  # everything by keyboard
            await page.until("document.getElementById('detail-title')?.textContent.includes('default/web-')")
            await page.evaluate("[...document.querySelectorAll('.actions button')][0].focus()")
            await page.press("Enter", 13, "\r")
            await page.until("/killed|not ready|again/.test(document.getElementById('news').textContent)")
            await page.press("Escape", 27)
            await page.until("!document.querySelector('.actions')")
            await page.until("""document.activeElement.matches(".pod")""")
            await page.evaluate("document.querySelector('[data-shows=\"service:default/web\"]').click()")
            await page.until("document.querySelector('.rules code')")
            await page.until("document.querySelector('#detail pre').textContent.includes('kind: Service')")
            return page

    assert asyncio.run(look()).complaints == []


@needs_chromium
def test_a_browser_scales_and_sends_by_its_sliders(url: str) -> None:
    async def look() -> Page:
        async with opened_page() as page:
            await page.prefer(reduced_motion="reduce", color_scheme="dark")
            await page.open(url, width=390, height=844, mobile=True)
            await page.until("document.querySelectorAll('.pod.ready').length === 4")
            await page.evaluate("document.getElementById('replicas').focus()")
            await page.press("ArrowRight", 39)
            await page.until("document.querySelectorAll('.pod.ready').length === 5")
            await page.evaluate("document.getElementById('rate').focus()")
            for _ in range(5):
                await page.press("ArrowRight", 39)
            await page.until("/^5.s · [1-9]/.test(document.getElementById('sending').textContent)")
            assert await page.evaluate("document.documentElement.scrollWidth") <= 390
            return page

    assert asyncio.run(look()).complaints == []


def test_nothing_is_sent_when_nobody_looks(url: str) -> None:
    """The requests that a page began end with its last viewer."""
    stream = events(url)
    next(stream)
    assert answer(f"{url}load", {"service": "default/web", "perSecond": 5})[0] == 204
    stream.close()

    def is_forgotten() -> bool:
        time.sleep(0.5)  # whoever looks again at once may come before the last one is seen to have left
        stream = events(url)
        _, view = next(stream)
        stream.close()
        return bool(view["load"]["load"]["perSecond"] == 0)

    wait_until(is_forgotten)
