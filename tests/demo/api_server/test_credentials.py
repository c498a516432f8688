"""Certificates of one cluster, and the file that says how to come in."""

from __future__ import annotations

import json
import ssl
from contextlib import suppress
from pathlib import Path

import pytest

from userspace_proxy.demo.api_server.certificates import Certificates, write_private
from userspace_proxy.demo.api_server.kubeconfig import write_kubeconfig


def handshake(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> str | None:
    """The protocol that a client and a server agree on, in memory."""
    ends = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(ends[0], ends[1], server_hostname=name)
    answering = server.wrap_bio(ends[1], ends[0], server_side=True)
    for _ in range(4):
        for end in (asking, answering):
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
    return asking.version()


def test_a_server_is_trusted_by_the_names_it_has(tmp_path: Path) -> None:
    certificates = Certificates.make(["127.0.0.1", "fd00::1", "kubernetes.default.svc"])
    server = certificates.server_context(tmp_path)
    for name in ("127.0.0.1", "fd00::1", "kubernetes.default.svc"):
        assert handshake(certificates.client_context(), server, name) == "TLSv1.3"
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(certificates.client_context(), server, "127.0.0.2")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(Certificates.make(["127.0.0.1"]).client_context(), server, "127.0.0.1")


def test_files_are_their_owners(tmp_path: Path) -> None:
    certificates = Certificates.make(["127.0.0.1"])
    certificates.server_context(tmp_path)
    path = tmp_path / "kubeconfig"
    path.write_text("what was there before")
    path.chmod(0o644)
    write_kubeconfig(path, server="https://127.0.0.1:1", authority=certificates.authority, token="t")
    assert {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {
        "apiserver.pem": 0o600,
        "kubeconfig": 0o600,
    }
    content = json.loads(path.read_text())
    assert content["users"][0]["user"] == {"token": "t"}
    assert content["contexts"][0]["context"]["namespace"] == "default"


def test_a_write_that_was_cut_off_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "a.partial").write_text("half")
    write_private(tmp_path / "a", b"whole")
    assert (tmp_path / "a").read_bytes() == b"whole"
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
