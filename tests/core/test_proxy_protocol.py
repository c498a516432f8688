from __future__ import annotations

from userspace_proxy.core.proxy_protocol import header


def test_ipv4() -> None:
    assert header(("10.244.0.7", 40000), ("10.96.0.10", 80)) == bytes.fromhex(
        "0d0a0d0a000d0a515549540a"  # the signature
        "21 11 000c"  # version 2, PROXY; TCP over IPv4; 12 bytes
        "0af40007 0a60000a 9c40 0050"
    )


def test_ipv6() -> None:
    assert header(("fd00:10:244::7", 40000), ("fd00:10:96::a", 443)) == bytes.fromhex(
        "0d0a0d0a000d0a515549540a"
        "21 21 0024"
        "fd0000100244000000000000000000 07"
        "fd0000100096000000000000000000 0a"
        "9c40 01bb"
    )
