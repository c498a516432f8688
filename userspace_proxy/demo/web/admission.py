"""Who may ask the page's server; pure.

It listens on loopback, where every page that a user visits can send requests. The address of the page has a
secret in its path, which no such page knows; a name that leads to 127.0.0.1 all of a sudden (DNS rebinding)
is told by the Host, and a request that another page makes by Origin and Sec-Fetch-Site. Sources: RFC 6454,
"Fetch Metadata Request Headers".
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from typing import Final

HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""With every answer: it loads nothing from elsewhere, and nobody may frame it or learn its address."""

NAME: Final = "[a-z0-9][a-z0-9.-]*"
"""A namespace, or an object's name: nothing that would lead elsewhere as a part of an API's path."""


def refusal(method: str, headers: Mapping[str, str], port: int) -> str | None:
    """Why a request is not answered, whatever its path; None if it may come in."""
    hosts = [f"127.0.0.1:{port}", f"localhost:{port}"]
    host = headers.get("Host", "")
    if host not in hosts:
        return f"this is {hosts[0]}, and not {host[:100] or 'without a Host'}"
    if headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        return "another site may not ask"
    origin = headers.get("Origin")
    if origin is not None and origin != f"http://{host}":
        return "another origin may not ask"
    if method == "POST" and headers.get("Content-Type", "").partition(";")[0].strip() != "application/json":
        return "what is posted has to be application/json"
    return None


def is_object(given: str) -> bool:
    """Whether this is a `namespace/name`."""
    return re.fullmatch(f"{NAME}/{NAME}", given) is not None


def is_secret(given: str, secret: str) -> bool:
    """Whether the path of a request begins as the page's address does."""
    return hmac.compare_digest(given.encode(errors="replace"), secret.encode())
