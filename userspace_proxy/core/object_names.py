"""What a Kubernetes object may be called.

Source: https://kubernetes.io/docs/concepts/overview/working-with-objects/names/
"""

from __future__ import annotations

import re
from typing import Final

_DNS_LABEL: Final = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_DNS_SUBDOMAIN: Final = re.compile(rf"{_DNS_LABEL}(?:\.{_DNS_LABEL})*")


def is_dns_subdomain(name: str) -> bool:
    """Whether `name` can name a Kubernetes object (RFC 1123 subdomain, as the API server checks it).

    Such a name can go into rules and logs as it is.
    """
    return len(name) <= 253 and _DNS_SUBDOMAIN.fullmatch(name) is not None
