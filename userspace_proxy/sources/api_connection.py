"""Requests to a Kubernetes API server, by what a kubeconfig or the pod that this runs in says.

kubernetes_asyncio (`kubernetes_client`) brings configuration, authentication and transport.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import msgspec

from userspace_proxy.core.request_rate import RequestRate
from userspace_proxy.errors import SourceError
from userspace_proxy.sources.contact import GONE, RequestFailedError
from userspace_proxy.sources.kubernetes_client import (
    ApiClient,
    ConfigException,
    Configuration,
    load_incluster_config,
    load_kube_config,
)
from userspace_proxy.sources.yaml_documents import YAMLDocumentError, parse_documents

CONNECT_SECONDS = 10.0
CREDENTIALS_SECONDS = 60.0
WRITE_SECONDS = 30.0
SHOWN_CHARACTERS = 300
UNAUTHORIZED = 401


class _Status(msgspec.Struct, frozen=True):
    message: str = ""


@dataclass(frozen=True, slots=True)
class ApiServer:
    """Which one, and whose credentials: the kubeconfig's, or (None) those of the pod that this runs in.

    `master` is the server's URL if that is said apart; a pod that has no credentials then asks without.
    """

    kubeconfig: Path | None
    master: str | None = None

    @property
    def is_of_the_pod(self) -> bool:
        """Whether the pod's environment alone says where it is."""
        return self.kubeconfig is None and self.master is None


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    query: Mapping[str, str]
    body: object = None
    content_type: str = "application/json"


class Connection:
    """The session with the API server, and its credentials.

    A session whose certificates are outdated is closed when the last request on it has ended.
    """

    def __init__(self, server: ApiServer, configuration: Configuration, rate: RequestRate | None) -> None:
        self._server = server
        self._rate = rate
        # Before the session reads them: if they change between, they count as changed ever after.
        self._tls_files = _tls_files(configuration)
        self._client = _open_client(configuration)
        self._requests: Counter[ApiClient] = Counter()
        self._transports: set[asyncio.Transport] = set()
        self._watched: set[str] = set()
        self._unlisted: set[str] = set()
        self._renewing = asyncio.Lock()

    @property
    def url(self) -> str:
        """Where requests go now."""
        return str(self._client.configuration.host)

    @classmethod
    @asynccontextmanager
    async def open(cls, server: ApiServer, rate: RequestRate | None = None) -> AsyncIterator[Connection]:
        """Read the configuration; nothing is sent yet. Raises `SourceError`."""
        connection = cls(server, await _load_configuration(server), rate)
        try:
            yield connection
        finally:
            await connection._client.close()

    @asynccontextmanager
    async def get(
        self, path: str, query: Mapping[str, str], silence_seconds: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """See `list_watch.Api`. If one side does not accept the other, credentials are read again, once.

        Waits for its turn by the rate; the later pages of a list are no requests of their own.
        """
        if "watch" in query:
            self._watched.add(path)
            if path in self._unlisted:
                self._unlisted.remove(path)
                raise RequestFailedError("another server is followed now", GONE)
        if self._rate is not None and "continue" not in query:
            await asyncio.sleep(self._rate.take(asyncio.get_running_loop().time()))
        async with AsyncExitStack() as stack:
            response = await stack.enter_async_context(
                self._answer(_Request("GET", path, query), silence_seconds)
            )
            transport = _transport_of(response)
            if transport is not None:
                _keep_alive(transport)
                self._transports.add(transport)
                stack.callback(self._transports.discard, transport)
            yield await stack.enter_async_context(aclosing(_chunks(response)))

    async def write(self, method: str, path: str, body: object, content_type: str) -> None:
        """Send `body`, of what JSON can say, as JSON; credentials as with `get`. Not limited by the rate.

        Raises `RequestFailedError` unless it is answered well.
        """
        request = _Request(method, path, {}, body, content_type)
        async with self._answer(request, WRITE_SECONDS) as response:
            async for _ in _chunks(response):
                pass  # so that the connection can be used again

    @asynccontextmanager
    async def _answer(
        self, request: _Request, silence_seconds: float
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A good answer. If one side does not accept the other, credentials are read again, once."""
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(self._session())
            configuration = client.configuration
            try:
                response = await _send(client, request, silence_seconds)
            except _UnacceptedError:
                is_accepted = False
            else:
                stack.callback(response.close)
                is_accepted = response.status != UNAUTHORIZED
            if not is_accepted:
                await stack.aclose()
                await self._renew(configuration)
                client = await stack.enter_async_context(self._session())
                response = await _send(client, request, silence_seconds)
                stack.callback(response.close)
            if response.status not in (200, 201):
                raise await _refusal(response)
            yield response

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[ApiClient]:
        client = self._client
        self._requests[client] += 1
        try:
            yield client
        finally:
            self._requests[client] -= 1
            if not self._requests[client]:
                del self._requests[client]
                if client is not self._client:
                    await client.close()

    async def renew(self) -> None:
        """Read the configuration again, because its file has changed. Raises `SourceError`; all stays then.

        If it names another server, watches on the one before end, and all is listed there first: a version of
        the one means nothing to the other.
        """
        async with self._renewing:
            before = self._client
            host = before.configuration.host
            await self._replace()
            if self._client is not before and self._client.configuration.host != host:
                self._unlisted = set(self._watched)
                for transport in tuple(self._transports):
                    transport.abort()  # to close the session alone would leave its readers waiting

    async def _renew(self, refused: Configuration) -> None:
        """Read the credentials again: tokens and certificates are given for a time, or changed in place."""
        async with self._renewing:
            if self._client.configuration is not refused:
                return
            try:
                await self._replace()
            except SourceError as error:
                raise RequestFailedError(str(error), UNAUTHORIZED) from error

    async def _replace(self) -> None:
        """Go on by the configuration as it is now, with the present session if that can be."""
        fresh = await _load_configuration(self._server)
        tls_files = _tls_files(fresh)
        if (fresh.host, tls_files) == (self._client.configuration.host, self._tls_files):
            # The session and the watches on it can stay.
            self._client.configuration = fresh
            return
        client = _open_client(fresh)
        outdated, self._client, self._tls_files = self._client, client, tls_files
        if outdated not in self._requests:
            await outdated.close()


async def _load_configuration(server: ApiServer) -> Configuration:
    """Read the configuration, credentials included. Raises `SourceError` if it cannot be used."""
    kubeconfig = server.kubeconfig
    configuration = Configuration()
    # As client-go: Python 3.13 by itself refuses cluster CAs that lack key identifiers.
    configuration.disable_strict_ssl_verification = True
    try:
        if kubeconfig is None and server.master is not None:
            if server.master.startswith("https:"):  # else everybody could read the token
                with suppress(ConfigException):
                    load_incluster_config(client_configuration=configuration)
        elif kubeconfig is None:
            load_incluster_config(client_configuration=configuration)
        else:
            # The library takes a missing or empty file for one without contexts.
            content = list(parse_documents(await asyncio.to_thread(kubeconfig.read_bytes)))
            if not (content and isinstance(content[0], dict)):
                raise ConfigException("it holds no configuration")
            async with asyncio.timeout(CREDENTIALS_SECONDS):
                await load_kube_config(
                    str(kubeconfig), client_configuration=configuration, persist_config=False
                )
        configuration.host = server.master or configuration.host
        url = urlsplit(configuration.host)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ConfigException(f"{configuration.host!r} is no http or https URL")
    except Exception as error:
        # The library checks little: a malformed file ends in any exception.
        match error:
            case OSError(strerror=str(reason)):
                reason = f"{reason}: {error.filename}" if error.filename else reason
            case ConfigException() | YAMLDocumentError():
                reason = _one_line(error)
            case _:
                reason = f"it is malformed ({type(error).__name__}: {_one_line(error)})"
        where = (
            f"the kubeconfig {kubeconfig}"
            if kubeconfig
            else "the in-cluster configuration (give --kubeconfig or --manifests outside a cluster)"
        )
        raise SourceError(f"cannot use {where}: {reason}") from error
    return configuration


def _open_client(configuration: Configuration) -> ApiClient:
    """A session; its TLS files are read here. Raises `SourceError` if they cannot be used."""
    try:
        client = ApiClient(configuration)
    except (OSError, ValueError) as error:
        raise SourceError(
            f"cannot use the certificates for {configuration.host}: {_one_line(error)}"
        ) from error
    client.user_agent = "userspace-proxy"
    return client


def _tls_files(configuration: Configuration) -> list[bytes]:
    """The content of the certificates and the key. Raises `SourceError` if one cannot be read."""
    paths = (configuration.ssl_ca_cert, configuration.cert_file, configuration.key_file)
    try:
        return [Path(path).read_bytes() for path in paths if path]
    except OSError as error:
        raise SourceError(
            f"cannot use the certificates for {configuration.host}: {error.strerror}: {error.filename}"
        ) from error


async def _send(client: ApiClient, request: _Request, silence_seconds: float) -> aiohttp.ClientResponse:
    headers = {"Accept": "application/json", "Content-Type": request.content_type, **client.default_headers}
    timeout = aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS, sock_read=silence_seconds)
    with _failures_translated():
        await client.update_params_for_auth(headers, [], ["BearerToken"])
        response: aiohttp.ClientResponse = await client.rest_client.request(
            request.method,
            client.configuration.host + request.path,
            query_params=list(request.query.items()),
            headers=headers,
            body=request.body,
            _preload_content=False,
            _request_timeout=timeout,
        )
    return response


async def _chunks(response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
    with _failures_translated():
        async for chunk in response.content.iter_any():
            yield chunk


class _UnacceptedError(RequestFailedError):
    """One side may not accept the other's certificate.

    A client's is refused after the handshake, and then all that aiohttp knows is that the connection ended.
    """


@contextmanager
def _failures_translated() -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise RequestFailedError("it did not answer in time") from error
    except (aiohttp.ClientSSLError, ssl.SSLError, aiohttp.ServerDisconnectedError, ConnectionError) as error:
        raise _UnacceptedError(_one_line(error)) from error
    except (aiohttp.ClientError, ConfigException, OSError, ValueError) as error:
        raise RequestFailedError(_one_line(error)) from error


async def _refusal(response: aiohttp.ClientResponse) -> RequestFailedError:
    """What a status other than 200 says, with the message of the API's Status object if it sent one."""
    with _failures_translated():
        body = await response.content.read(64 * 1024)
    try:
        message = msgspec.json.decode(body, type=_Status).message
    except (ValueError, RecursionError):
        message = ""
    reason = _one_line(f"{response.status} {response.reason or ''}: {message}".removesuffix(": "))
    retry_after = response.headers.get("Retry-After", "")
    seconds = float(retry_after) if retry_after.isascii() and retry_after.isdigit() else 0.0
    return RequestFailedError(reason, response.status, seconds)


def _transport_of(response: aiohttp.ClientResponse) -> asyncio.Transport | None:
    """None if the answer is complete, and its connection given back."""
    return response.connection.transport if response.connection else None


def _keep_alive(transport: asyncio.Transport) -> None:
    """Have the kernel find out within a minute that the other machine is gone."""
    connected = transport.get_extra_info("socket")
    if connected is not None:
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


def _one_line(text: object) -> str:
    return " ".join(str(text).split())[:SHOWN_CHARACTERS] or type(text).__name__
