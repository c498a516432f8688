"""Ends of generated names, of the letters and digits of which Kubernetes makes them: they spell no words."""

from __future__ import annotations

import hashlib
import random
from typing import Final

import msgspec

SUFFIX_CHARACTERS: Final = 5
HASH_CHARACTERS: Final = 10
_SAFE_CHARACTERS: Final = "bcdfghjklmnpqrstvwxz2456789"


def name_suffix(chance: random.Random) -> str:
    """What makes one of many names its own."""
    return "".join(chance.choices(_SAFE_CHARACTERS, k=SUFFIX_CHARACTERS))


def content_hash(content: object) -> str:
    """A short name for what can be JSON, the same for the same content."""
    digest = hashlib.sha256(msgspec.json.encode(content, order="deterministic")).digest()
    return "".join(_SAFE_CHARACTERS[byte % len(_SAFE_CHARACTERS)] for byte in digest[:HASH_CHARACTERS])
