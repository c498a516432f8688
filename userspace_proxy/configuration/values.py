"""What an option's text stands for. A reader takes the text and returns the value, or raises `ValueError`
with a clause that names the text and says what is expected.

An empty text is nobody's word: it stands for the default, in flags, variables and the file alike.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

from userspace_proxy.core.durations import parse_duration
from userspace_proxy.core.ip_addresses import read_network, why_not_dialled
from userspace_proxy.core.local_traffic import PRIMARY
from userspace_proxy.core.object_names import is_dns_subdomain
from userspace_proxy.core.port_claims import DEFAULT_PROXY_PORT_RANGE, PortRange

_T = TypeVar("_T")
_Reader = Callable[[str], _T]

MIN_PROXY_PORTS: Final = 4
_MAX_STATE_DIRECTORY: Final = 70
"""Bytes: the names of sockets in it must fit into 108; unix(7)."""
_INTERFACE: Final = re.compile(r"[a-zA-Z0-9_.@-]{1,15}")
_INTERFACE_PREFIX: Final = re.compile(r"[a-zA-Z0-9_.@-]{1,14}")
_DEFAULT_QPS: Final = 5.0
_NUMBER: Final = re.compile(r"-?\d{1,10}", re.ASCII)
_DECIMAL: Final = re.compile(r"-?\d{1,10}(\.\d{1,10})?", re.ASCII)
_TRUE: Final = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE: Final = frozenset({"0", "f", "F", "false", "FALSE", "False"})


class EntriesError(ValueError):
    """Some entries of a list are wrong; `reasons` by their position."""

    def __init__(self, reasons: dict[int, str]) -> None:
        super().__init__("; ".join(reasons.values()))
        self.reasons = reasons


def read_text(text: str) -> str:
    return text


def read_boolean(text: str) -> bool:
    """As Go's strconv.ParseBool, which kube-proxy's flags are read by."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f"{text!r} is neither true nor false")


def one_of(*choices: str) -> _Reader[str]:
    def read(text: str) -> str:
        if text not in choices:
            raise ValueError(f"{text!r} is none of {', '.join(choices)}")
        return text

    return read


def integer(least: int, most: int) -> _Reader[int]:
    def read(text: str) -> int:
        if not _NUMBER.fullmatch(text):
            raise ValueError(f"{text!r} is not a number")
        if not least <= int(text) <= most:
            raise ValueError(f"{text} is not within {_shown(least)}-{most}")
        return int(text)

    return read


def read_qps(text: str) -> float:
    """Requests a second; as client-go has it, below 0 there is no limit, and 0 is its default."""
    if not _DECIMAL.fullmatch(text):
        raise ValueError(f"{text!r} is not a number")
    return float(text) or _DEFAULT_QPS


def duration(
    least_seconds: float, most_seconds: float, expected: str, *, or_zero: bool = False
) -> _Reader[float]:
    """Seconds, from the text of a duration; `expected` says in words what is within the limits."""

    def read(text: str) -> float:
        seconds = parse_duration(text)
        if not (least_seconds <= seconds <= most_seconds or (or_zero and not seconds)):
            raise ValueError(f"{text} is {expected}")
        return seconds

    return read


def seconds(most_seconds: float) -> _Reader[float]:
    """The same for options that have the unit in their name: a bare number is in seconds."""

    def read(text: str) -> float:
        is_bare = _DECIMAL.fullmatch(text) and not text.startswith("-")
        found = parse_duration(f"{text}s" if is_bare else text)
        if found > most_seconds:
            raise ValueError(f"{text} is not within 0-{most_seconds:g} s")
        return found

    return read


def optional(read: _Reader[_T]) -> _Reader[_T | None]:
    """None where nothing is said."""
    return lambda text: read(text) if text else None


def read_proxy_mode(text: str) -> str:
    if text not in ("", "userspace"):
        raise ValueError(
            f"{text!r} is not userspace, the one mode there is here: leave it empty, or run kube-proxy itself"
        )
    return "userspace"


def read_hostname(text: str) -> str:
    """The name as kube-proxy takes it: trimmed, in lower case; "" where nothing is said."""
    name = text.strip().lower()
    if text and not is_dns_subdomain(name):
        raise ValueError(f"{name!r} is not a name that a node can have")
    return name


def read_bind_address(text: str) -> str | None:
    """The specific address, or None for all."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an IP address") from None
    if address.is_loopback:
        raise ValueError(f"{text} is a loopback address, where no pod could reach the proxy")
    if address.is_unspecified:
        return None
    if reason := why_not_dialled(address):
        raise ValueError(f"{text} {reason}")
    return str(address)


def read_cidrs(text: str) -> tuple[str, ...]:
    """CIDRs, of which commas stand between."""
    return _read_cidrs(text, "a CIDR such as 10.244.0.0/16")


def read_nodeport_addresses(text: str) -> tuple[str, ...]:
    """CIDRs, or `primary` alone."""
    if _listed(text) == (PRIMARY,):
        return (PRIMARY,)
    return _read_cidrs(text, "a CIDR such as 10.0.0.0/8 (or `primary`, alone)")


def _read_cidrs(text: str, expected: str) -> tuple[str, ...]:
    entries = _listed(text)
    wrong = {
        index: f"{entry!r} is not {expected}" for index, entry in enumerate(entries) if not _is_cidr(entry)
    }
    if wrong:
        raise EntriesError(wrong)
    return entries


def read_interface(text: str) -> str:
    if text and not _INTERFACE.fullmatch(text):
        raise ValueError(f"{text!r} is not a name that an interface can have")
    return text


def read_interface_prefix(text: str) -> str:
    if text and not _INTERFACE_PREFIX.fullmatch(text):
        raise ValueError(f"{text!r} is not what an interface's name can begin with")
    return text


def read_state_directory(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError(f"{text!r} is not an absolute path")
    if len(text.encode(errors="surrogateescape")) > _MAX_STATE_DIRECTORY:
        raise ValueError(f"{text!r} has more than {_MAX_STATE_DIRECTORY} bytes")
    return text


def read_api_server(text: str) -> str:
    """The URL of an API server, "" where none is named; a bare address counts as http, as in client-go."""
    url = text if "://" in text or not text else f"http://{text}"
    if text and not re.fullmatch(r"https?://[^/?#\s]+/?", url):
        raise ValueError(f"{text!r} is not a URL such as https://192.0.2.10:6443")
    return url.removesuffix("/")


def served_address(default_port: int) -> _Reader[tuple[str, int] | None]:
    """IP address and port to serve on, as kube-proxy reads them: the port may be missing; empty: nowhere."""

    def read(text: str) -> tuple[str, int] | None:
        if not text:
            return None
        host, port = text, str(default_port)
        if text.count(":") == 1 or text.startswith("["):
            host, _, port = text.rpartition(":")
            host = host.removeprefix("[").removesuffix("]")
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            raise ValueError(
                f"{text!r} is not an IP address and port such as 0.0.0.0:{default_port}"
            ) from None
        if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
            raise ValueError(f"{port!r} is not a port (1-65535)")
        return str(address), int(port)

    return read


def read_port_range(text: str) -> PortRange:
    """`first-last`, `first+size` or one port, as kube-proxy's flag has it; empty is the default."""
    try:
        if "+" in text:
            first, size = (int(part) for part in text.split("+"))
            last = first + size
        elif "-" in text:
            first, last = (int(part) for part in text.split("-"))
        else:
            first = last = int(text or "0")
    except ValueError:
        raise ValueError(f"{text!r} is not a range such as 11000-29999") from None
    if (first, last) == (0, 0):
        return DEFAULT_PROXY_PORT_RANGE
    if not 1 <= first <= last <= 65535:
        raise ValueError(f"{text!r} is not a range within 1-65535")
    if last - first < MIN_PROXY_PORTS - 1:
        raise ValueError(f"{text!r} has fewer than {MIN_PROXY_PORTS} ports")
    return PortRange(first, last)


def reasoned(read: _Reader[Any], expected: str) -> _Reader[Any]:
    """A reader of the core's, whose errors do not say what is expected."""

    def read_with_reason(text: str) -> Any:
        try:
            return read(text)
        except ValueError:
            raise ValueError(f"{text!r} is not {expected}") from None

    return read_with_reason


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _is_cidr(text: str) -> bool:
    try:
        read_network(text)
    except ValueError:
        return False
    return True


def _shown(number: int) -> str:
    return f"({number})" if number < 0 else str(number)


def listed(entries: Iterable[str]) -> str:
    """The text of a list."""
    return ",".join(entries)
