"""Certificates that change under a running source: read again when one side refuses the other's."""

from __future__ import annotations

import asyncio
import base64
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.sources.test_api_server import briefly, run, service, wait_for_watches, wait_until
from tests.support.certificates import Authority
from tests.support.fake_api_server import FakeApiServer, Object, write_kubeconfig
from tests.support.recording_sink import RecordingSink, running
from userspace_proxy.sources.api_server import ApiServerSource


class Refusals:
    """Counts how often the source has waited before it tried again."""

    def __init__(self) -> None:
        self.count = 0

    async def sleep(self, seconds: float) -> None:
        self.count += 1
        await briefly(seconds)

    async def some(self) -> None:
        before = self.count
        await wait_until(lambda: self.count > before + 4)


@asynccontextmanager
async def following(kubeconfig: Path, refusals: Refusals) -> AsyncIterator[RecordingSink]:
    async with running(ApiServerSource(kubeconfig, "node-1", sleep=refusals.sleep)) as sink:
        yield sink


def by_files(ca: Path, directory: Path) -> Callable[[Path], Object]:
    """A kubeconfig's cluster section that names a file, which changes in place."""

    def trust(authority: Path) -> Object:
        shutil.copy(authority, ca)
        return {"certificate-authority": str(ca)}

    return trust


def by_data(ca: Path, directory: Path) -> Callable[[Path], Object]:
    """One that holds the certificate itself, and changes as a whole."""
    return lambda authority: {"certificate-authority-data": base64.b64encode(authority.read_bytes()).decode()}


@pytest.mark.parametrize("how", [by_files, by_data])
def test_an_authority_that_changed_is_read_again(
    tmp_path: Path, how: Callable[[Path, Path], Callable[[Path], Object]]
) -> None:
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    certificates = [(signed.certificate, signed.key) for signed in (old.sign("server"), new.sign("server"))]
    trust = how(tmp_path / "ca.crt", tmp_path)
    refusals = Refusals()

    async def scene() -> None:
        async with FakeApiServer(certificate=certificates[0]) as before:
            kubeconfig = tmp_path / "kubeconfig"
            write_kubeconfig(kubeconfig, before.url, cluster=trust(old.certificate))
            before.apply(service("a"))
            async with following(kubeconfig, refusals) as sink:
                await sink.until(lambda: sink.names() == ["default/a"])
                await wait_for_watches(before)
                await before.__aexit__()
                async with FakeApiServer(before.port, certificate=certificates[1]) as after:
                    after.apply(service("a"), service("b"))
                    await refusals.some()
                    assert sink.names() == ["default/a"]
                    assert after.requests == []
                    write_kubeconfig(kubeconfig, before.url, cluster=trust(new.certificate))
                    await sink.until(lambda: sink.names() == ["default/a", "default/b"])

    run(scene())


def test_a_client_certificate_that_changed_is_read_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its key is written a moment later, and until then the two do not fit: that is waited for too."""
    authority = Authority(tmp_path, "cluster")
    signed = authority.sign("server")
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    clients = {name: signer.sign("client") for name, signer in (("old", old), ("new", new))}
    shutil.copy(clients["old"].certificate, certificate)
    shutil.copy(clients["old"].key, key)
    refusals = Refusals()

    def server(port: int, clients_of: Authority) -> FakeApiServer:
        return FakeApiServer(
            port,
            certificate=(signed.certificate, signed.key),
            client_authority=clients_of.certificate,
        )

    async def scene() -> None:
        async with server(0, old) as before:
            kubeconfig = write_kubeconfig(
                tmp_path / "kubeconfig",
                before.url,
                cluster={"certificate-authority": str(authority.certificate)},
                **{"client-certificate": str(certificate), "client-key": str(key)},
            )
            before.apply(service("a"))
            async with following(kubeconfig, refusals) as sink:
                await sink.until(lambda: sink.names() == ["default/a"])
                await wait_for_watches(before)
                await before.__aexit__()
                async with server(before.port, new) as after:
                    after.apply(service("b"))
                    await refusals.some()
                    shutil.copy(clients["new"].certificate, certificate)
                    await refusals.some()
                    key.unlink()
                    await refusals.some()
                    assert sink.names() == ["default/a"]
                    shutil.copy(clients["new"].key, key)
                    await sink.until(lambda: sink.names() == ["default/b"])

    run(scene())
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_token_that_is_away_for_a_moment_is_waited_for(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old")
    refusals = Refusals()

    async def scene() -> None:
        async with FakeApiServer() as server:
            server.tokens = {"old"}
            server.apply(service("a"))
            kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", server.url, tokenFile=str(token))
            async with following(kubeconfig, refusals) as sink:
                await sink.until(lambda: sink.names() == ["default/a"])
                await wait_for_watches(server)
                server.tokens = {"new"}
                token.unlink()
                server.end_watches()
                await refusals.some()
                token.write_text("")
                await refusals.some()
                server.delete(service("a"))
                await asyncio.sleep(0)
                assert sink.names() == ["default/a"]
                token.write_text("new")
                await sink.until(lambda: sink.names() == [])

    run(scene())
