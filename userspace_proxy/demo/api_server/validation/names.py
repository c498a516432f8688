"""The syntax of names, labels and addresses: each check returns what is wrong, or None.

Source: https://kubernetes.io/docs/concepts/overview/working-with-objects/names/
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Any, Final, TypeAlias

Check: TypeAlias = Callable[[str], str | None]

_LABEL: Final = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN: Final = rf"{_LABEL}(\.{_LABEL})*"
_LABEL_1035: Final = r"[a-z]([-a-z0-9]*[a-z0-9])?"
_QUALIFIED: Final = r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_LABEL_VALUE: Final = rf"({_QUALIFIED})?"


def dns_label(name: str) -> str | None:
    """RFC 1123 label, such as a namespace's name."""
    return _described(
        name,
        63,
        _LABEL,
        "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must "
        "start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc'",
    )


def dns_subdomain(name: str) -> str | None:
    """RFC 1123 subdomain, such as most objects' names."""
    return _described(
        name,
        253,
        _SUBDOMAIN,
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and "
        "must start and end with an alphanumeric character (e.g. 'example.com'",
    )


def dns_1035_label(name: str) -> str | None:
    """RFC 1035 label, such as a Service's name."""
    return _described(
        name,
        63,
        _LABEL_1035,
        "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an "
        "alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123'",
    )


def qualified_name(name: str) -> str | None:
    """A label's key, with or without `prefix/`."""
    prefix, slash, rest = name.rpartition("/")
    if slash and (wrong := dns_subdomain(prefix)):
        return f"prefix part {wrong}" if prefix else "prefix part must be non-empty"
    if not rest:
        return "name part must be non-empty"
    wrong = _described(
        rest,
        63,
        _QUALIFIED,
        "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
        "alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc'",
    )
    return f"name part {wrong}" if wrong else None


def label_value(value: str) -> str | None:
    """A label's value, which may be empty."""
    return _described(
        value,
        63,
        _LABEL_VALUE,
        "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and "
        "must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345'",
    )


def _described(text: str, most: int, pattern: str, rule: str) -> str | None:
    if len(text) > most:
        return f"must be no more than {most} bytes"
    return None if re.fullmatch(pattern, text) else f"{rule}, regex used for validation is '{pattern}')"


def port_name(name: str) -> str | None:
    """The name of a container's port, by which a targetPort names it (RFC 6335)."""
    if len(name) > 15:
        return "must be no more than 15 characters"
    if not re.fullmatch(r"[-a-z0-9]+", name):
        return "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"
    if not re.search(r"[a-z]", name):
        return "must contain at least one letter (a-z)"
    if "--" in name:
        return "must not contain consecutive hyphens"
    if name[0] == "-" or name[-1] == "-":
        return "must not begin or end with a hyphen"
    return None


def port_number(port: Any) -> str | None:
    """A TCP or UDP port."""
    in_range = type(port) is int and 1 <= port <= 65535
    return None if in_range else "must be between 1 and 65535, inclusive"


def ip_address(text: str) -> str | None:
    """An IPv4 or IPv6 address."""
    return (
        "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)" if parsed_ip(text) is None else None
    )


def cidr(text: str) -> str | None:
    """A network: address and prefix length."""
    try:
        if "/" in text:
            ipaddress.ip_network(text, strict=False)
            return None
    except ValueError:
        pass
    return "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"


def parsed_ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that text says; None if it says none, or one with a zone."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return None if "%" in text else address


def reachable_ip(text: str) -> str | None:
    """An address where an endpoint, or a Service's external address, can be."""
    address = parsed_ip(text)
    if address is None:
        return ip_address(text)
    if address.is_unspecified:
        return f"may not be unspecified ({text})"
    if address.is_loopback:
        return "may not be in the loopback range (127.0.0.0/8, ::1/128)"
    if address.is_link_local:
        return "may not be in the link-local range (169.254.0.0/16, fe80::/10)"
    if address.is_multicast:
        return "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"
    return None
