"""Certificates for tests, by the openssl program: authorities, and what they sign."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Signed:
    """The files of a certificate and its key."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates for this machine's loopback, all files in `directory`."""

    def __init__(self, directory: Path, name: str) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("openssl is not installed")
        self._directory = directory
        self._name = name
        self._own = self._make(name, "-addext", "basicConstraints=critical,CA:TRUE")

    @property
    def certificate(self) -> Path:
        return self._own.certificate

    def sign(self, name: str) -> Signed:
        """A certificate for a server or a client."""
        return self._make(
            f"{self._name}-{name}",
            *("-CA", str(self._own.certificate), "-CAkey", str(self._own.key)),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE"),
        )

    def _make(self, name: str, *options: str) -> Signed:
        made = Signed(self._directory / f"{name}.crt", self._directory / f"{name}.key")
        fixed = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1"
        files = ("-keyout", str(made.key), "-out", str(made.certificate))
        subprocess.run(
            [*fixed.split(), "-subj", f"/CN={name}", *files, *options], check=True, capture_output=True
        )
        return made
