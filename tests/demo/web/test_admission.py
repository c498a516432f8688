"""Who may ask the page's server."""

from __future__ import annotations

import pytest

from userspace_proxy.demo.web.admission import is_object, is_secret, refusal

PORT = 4711
OURS = {"Host": "127.0.0.1:4711"}
POSTED = {**OURS, "Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("GET", OURS),
        ("GET", {"Host": "localhost:4711"}),
        ("GET", {**OURS, "Sec-Fetch-Site": "none"}),
        ("POST", {**POSTED, "Sec-Fetch-Site": "same-origin", "Origin": "http://127.0.0.1:4711"}),
        ("POST", POSTED),
    ],
)
def test_the_page_itself_and_programs_may(method: str, headers: dict[str, str]) -> None:
    assert refusal(method, headers, PORT) is None


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("GET", {}),
        ("GET", {"Host": "evil.example:4711"}),
        ("GET", {"Host": "127.0.0.1"}),
        ("GET", {"Host": "127.0.0.1:80"}),
        ("GET", {**OURS, "Sec-Fetch-Site": "cross-site"}),
        ("GET", {**OURS, "Sec-Fetch-Site": "same-site"}),
        ("POST", {**POSTED, "Origin": "https://evil.example"}),
        ("POST", {**POSTED, "Origin": "null"}),
        ("POST", {**POSTED, "Origin": "http://localhost:4711"}),
        ("POST", {**OURS, "Content-Type": "text/plain"}),
        ("POST", {**OURS, "Content-Type": "application/x-www-form-urlencoded"}),
        ("POST", OURS),
    ],
)
def test_nobody_else_may(method: str, headers: dict[str, str]) -> None:
    assert refusal(method, headers, PORT)


@pytest.mark.parametrize("given", ["default/web", "kube-system/kube-dns", "a/b.c-1"])
def test_an_object_has_a_namespace_and_a_name(given: str) -> None:
    assert is_object(given)


@pytest.mark.parametrize(
    "given", ["", "web", "/web", "default/", "default/..", "a/../b", "a/b/c", "a/b?c", "a/b\n"]
)
def test_what_leads_elsewhere_is_no_object(given: str) -> None:
    assert not is_object(given)


def test_the_secret_is_the_whole_one() -> None:
    assert is_secret("abc", "abc")
    assert not is_secret("", "abc")
    assert not is_secret("ab", "abc")
    assert not is_secret("ä\udc80", "abc")
