"""Take the pictures of the demo's page that the documentation shows, light and dark.

    userspace-proxy demo up --web && python scripts/take_screenshots.py && userspace-proxy demo down

A cluster has to run, and a Chromium be installed. Requests are sent, a pod is made a black hole, and all is
put back in the end.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.chromium import Page, chromium, opened_page  # noqa: E402
from userspace_proxy.demo.commands import status_of_cluster  # noqa: E402

PICTURES = ROOT / "docs" / "pictures"
POST = """fetch({path!r}, {{method: "POST", headers: {{"Content-Type": "application/json"}},
  body: JSON.stringify({body})}}).then((answer) => answer.ok)"""


async def take(url: str) -> None:
    """Write the pictures."""
    async with opened_page() as page:
        await page.open(url)
        await page.until("document.querySelectorAll('.pod.ready').length >= 4")
        await act(page, "deployments/default/web/scale", "{replicas: 6}")
        await page.until("document.querySelectorAll('.pod.ready').length === 7")
        await act(page, "load", "{service: 'default/web', perSecond: 20}")
        await page.evaluate(
            "document.getElementById('rate').value = 20,"
            "document.querySelector('[data-shows=\"service:default/web\"]').click()"
        )
        await page.until("document.querySelector('.rules code')")
        await page.until("Number(document.getElementById('opened').textContent.replaceAll(',', '')) > 300")
        victim = await page.evaluate("document.querySelectorAll('.pod[data-shows*=\"/web\"]')[2].dataset.key")
        try:
            await act(page, f"pods/{victim}/black-hole", "{on: true}")
            await page.until("document.getElementById('retried').textContent !== '0'")
            for theme in ("light", "dark"):
                await page.prefer(color_scheme=theme)
                await asyncio.sleep(0.7)
                save(f"demo-web-{theme}.png", await page.picture())
            await page.prefer(color_scheme="light")
            await page.evaluate(f"""document.querySelector('[data-key="{victim}"]').click()""")
            await page.resize(390, 844, mobile=True)
            await asyncio.sleep(0.7)
            save("demo-web-phone.png", await page.picture(whole=True))
        finally:
            await act(page, f"pods/{victim}/black-hole", "{on: false}")
            await act(page, "load", "{service: '', perSecond: 0}")
            await act(page, "deployments/default/web/scale", "{replicas: 3}")
        if page.complaints:
            sys.exit(f"The console says: {page.complaints}")


async def act(page: Page, path: str, body: str) -> None:
    """Have the page's server do something."""
    if not await page.evaluate(POST.format(path=path, body=body)):
        sys.exit(f"{path} was refused")


def save(name: str, picture: bytes) -> None:
    """Write a picture among those of the documentation."""
    PICTURES.mkdir(exist_ok=True)
    (PICTURES / name).write_bytes(picture)
    print(f"docs/pictures/{name}: {len(picture) // 1024} KiB")


if __name__ == "__main__":
    page_url = status_of_cluster().web
    if page_url is None or chromium() is None:
        sys.exit("It takes a cluster that was started with `demo up --web`, and a Chromium.")
    asyncio.run(take(page_url))
