"""What is called as kube-apiserver is by the demo, and serves as that does: for where the real one is not.

It understands only the flags that the demo gives it, and fails for any other. It keeps nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import ssl
import sys
import tempfile
from pathlib import Path

from userspace_proxy.demo.api_server import ApiServer

IGNORED = (
    *("etcd-servers", "advertise-address", "service-account-key-file", "service-account-signing-key-file"),
    *("service-account-issuer", "authorization-mode", "disable-admission-plugins"),
)


def install(folder: Path, *, etcd: str = "exec sleep infinity") -> None:
    """Put programs called etcd and kube-apiserver there; the first is a shell script that does `etcd`."""
    root = Path(__file__).parents[2]
    serve = f'cd {root} && exec {sys.executable} -m tests.support.fake_kube_apiserver "$@"'
    for name, script in (("etcd", etcd), ("kube-apiserver", serve)):
        program = folder / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)


async def serve(arguments: argparse.Namespace, token: str) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(arguments.tls_cert_file, arguments.tls_private_key_file)
    is_dual = ":" in arguments.bind_address
    listening = socket.create_server(
        (arguments.bind_address, int(arguments.secure_port)),
        family=socket.AF_INET6 if is_dual else socket.AF_INET,
        dualstack_ipv6=is_dual,
    )
    with tempfile.TemporaryDirectory() as folder:
        server = ApiServer(
            database=Path(folder, "objects"),
            sockets=[listening],
            tls=tls,
            token=token,
            service_cidrs=arguments.service_cluster_ip_range.split(","),
        )
        await server.start()
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for flag in ("bind-address", "secure-port", "tls-cert-file", "tls-private-key-file"):
        parser.add_argument(f"--{flag}", required=True)
    for flag in ("token-auth-file", "service-cluster-ip-range", *IGNORED):
        parser.add_argument(f"--{flag}", required=True)
    given = parser.parse_args()
    asyncio.run(serve(given, Path(given.token_auth_file).read_text().split(",")[0]))
