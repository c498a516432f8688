"""The certificate authority of one cluster, and the API server's certificate."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import trustme

SERVER_CERTIFICATE: Final = "apiserver.pem"
"""A file with the server's certificate and its key."""


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM text: the authority's certificate, which clients trust, and the server's own with its key."""

    authority: bytes
    server: bytes
    server_key: bytes

    @classmethod
    def make(cls, names: Sequence[str]) -> Self:
        """A new authority and a certificate of its for a server with these names and addresses.

        The authority's key is thrown away: nobody can ever sign another.
        """
        authority = trustme.CA(organization_name="userspace-proxy demo")
        issued = authority.issue_cert(*names)
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        return cls(authority.cert_pem.bytes(), chain, issued.private_key_pem.bytes())

    def server_context(self, folder: Path) -> ssl.SSLContext:
        """What a server listens with. OpenSSL reads certificate and key from a file in `folder`."""
        certificate = folder / SERVER_CERTIFICATE
        write_private(certificate, self.server + self.server_key)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
        return context

    def client_context(self) -> ssl.SSLContext:
        """What a client connects with."""
        return ssl.create_default_context(cadata=self.authority.decode())


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    partial.touch(mode=0o600)
    partial.write_bytes(content)
    partial.replace(path)
