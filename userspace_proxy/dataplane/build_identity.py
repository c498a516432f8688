"""What tells one build of this package from another, whatever version they call themselves.

Agent and worker understand each other only if they are of one build: messages may change with any line. So
the identity is made of what is run: the package's files, Python, and the libraries that a worker runs in.
"""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path
from typing import Final

import msgspec
from uvloop._version import __version__ as uvloop_version

_PACKAGE: Final = Path(__file__).parents[1]


def build_identity(package: Path = _PACKAGE) -> str:
    """Equal for equal builds alone. Reads every source file of `package`: a few milliseconds."""
    digest = hashlib.sha256()
    for part in (platform.python_version(), uvloop_version, msgspec.__version__):
        digest.update(part.encode() + b"\0")
    for file in sorted(package.rglob("*.py")):
        source = file.read_bytes()
        digest.update(f"{file.relative_to(package)}\0{len(source)}\0".encode())
        digest.update(source)
    return digest.hexdigest()[:32]
