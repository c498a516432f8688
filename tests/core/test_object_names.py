from __future__ import annotations

import pytest

from userspace_proxy.core.object_names import is_dns_subdomain


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("a", True),
        ("web-1.example", True),
        ("0", True),
        ("a" * 253, True),
        ("", False),
        ("a" * 254, False),
        ("-a", False),
        ("a-", False),
        ("a.", False),
        (".a", False),
        ("a..b", False),
        ("a.-b", False),
        ("Web", False),
        ("a_b", False),
        ("a/b", False),
        ("a\n", False),
        ("ä", False),
        ('a" -j ACCEPT', False),
    ],
)
def test_names_that_kubernetes_allows(name: str, is_one: bool) -> None:
    assert is_dns_subdomain(name) is is_one
