"""A demo cluster's control plane, and the kubelets: what makes objects of the API come true.

They share the cluster's process, and speak to each other through the API server alone, as they would on
machines of their own.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Final, assert_never

from userspace_proxy.demo import state_directory
from userspace_proxy.demo.api_client import ApiClient, ApiError
from userspace_proxy.demo.api_resources import (
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    NAMESPACES,
    NODES,
    PODS,
    SERVICES,
    JsonObject,
)
from userspace_proxy.demo.api_server import ApiServer, LogRequest, PodLogsError
from userspace_proxy.demo.api_server.certificates import SERVER_CERTIFICATE, Certificates
from userspace_proxy.demo.api_server.kubeconfig import write_kubeconfig
from userspace_proxy.demo.cluster_network import ClusterNetwork
from userspace_proxy.demo.cluster_node import PodSandbox
from userspace_proxy.demo.cluster_objects import (
    API_ADDRESSES,
    API_PORT,
    DNS_PORT,
    LOAD_BALANCER_POOLS,
    OUTSIDE_NAME,
    SERVICE_CIDR,
    SERVICE_CIDR_V6,
    api_service,
    dns_service,
    endpoint_slices,
)
from userspace_proxy.demo.cluster_plan import ApiServerKind, ClusterPlan, manifest_files
from userspace_proxy.demo.control import PodStatus
from userspace_proxy.demo.controllers.cluster_controllers import run_controllers
from userspace_proxy.demo.dns.cluster_dns import run_cluster_dns
from userspace_proxy.demo.kube_apiserver import KubeApiServer
from userspace_proxy.demo.kubelet.container_logs import LogOptions
from userspace_proxy.demo.kubelet.kubelet import Kubelet, LogUnavailableError
from userspace_proxy.demo.kubelet.node_object import NodeDescription
from userspace_proxy.demo.kubelet.processes import Processes
from userspace_proxy.demo.launch import AGENTS_KUBECONFIG, PRIVATE
from userspace_proxy.demo.manifest_application import apply, put, read_objects
from userspace_proxy.errors import StartupError

_KUBE_APISERVER_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 0.2
_LOOPBACK: Final = "127.0.0.1"
_ZONE: Final = "topology.kubernetes.io/zone"


class ControlPlane:
    """The API server, and who acts on what it says: `start` it, `run` it until cancelled, `close` it.

    `api` listens on the machine's loopback; a kubeconfig for who comes that way is written into `folder`,
    which has the objects, too. `is_kept` says whether those of an earlier cluster were there.
    """

    def __init__(
        self,
        plan: ClusterPlan,
        network: ClusterNetwork,
        *,
        api: socket.socket,
        folder: Path,
    ) -> None:
        self._plan = plan
        self._network = network
        self._api = api
        self._folder = folder
        self._logs = folder / state_directory.LOGS
        is_embedded = plan.api_server is ApiServerKind.EMBEDDED
        objects = folder / (state_directory.DATABASE if is_embedded else state_directory.ETCD)
        self.is_kept = objects.exists()
        self._closing = AsyncExitStack()
        self.client: ApiClient
        self._kubelets: dict[str, Kubelet] = {}

    @property
    def server(self) -> str:
        """Where the API server is for who is on the machine."""
        return f"https://{_LOOPBACK}:{self._api.getsockname()[1]}"

    async def start(self) -> None:
        """Have the API server answer, with the objects of the cluster itself in it."""
        token = secrets.token_urlsafe(24)
        inside = [*self._network.control_plane_addresses, *API_ADDRESSES]
        names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost", _LOOPBACK]
        certificates = await asyncio.to_thread(Certificates.make, [*names, *inside])
        ours = socket.create_server((_LOOPBACK, 0), backlog=1024)
        port = ours.getsockname()[1]
        dns_node = next(iter(self._network.nodes.values()))
        self._dns = await dns_node.add_pod("kube-system/dns")
        tls = certificates.server_context(PRIVATE)
        service_cidrs = (SERVICE_CIDR, SERVICE_CIDR_V6) if self._plan.ipv6 else (SERVICE_CIDR,)
        server: ApiServer | KubeApiServer
        match self._plan.api_server:
            case ApiServerKind.EMBEDDED:
                server = ApiServer(
                    database=self._folder / state_directory.DATABASE,
                    sockets=[self._api, ours, *self._cluster_sockets()],
                    tls=tls,
                    token=token,
                    service_cidrs=service_cidrs,
                    pod_logs=self._pod_logs,
                )
            case ApiServerKind.KUBE_APISERVER:
                server = KubeApiServer(
                    self._network.control_plane,
                    addresses=self._network.control_plane_addresses,
                    port=API_PORT,
                    sockets=[self._api, ours],
                    certificate=PRIVATE / SERVER_CERTIFICATE,
                    token=token,
                    service_cidrs=service_cidrs,
                    data=self._folder / state_directory.ETCD,
                    private=PRIVATE,
                    logs=self._logs,
                )
            case _:
                assert_never(self._plan.api_server)
        write_kubeconfig(
            AGENTS_KUBECONFIG,
            server=f"https://{self._network.control_plane_addresses[0]}:{API_PORT}",
            authority=certificates.authority,
            token=token,
        )
        self._closing.push_async_callback(server.close)
        await server.start()
        self.client = await self._closing.enter_async_context(
            ApiClient(f"https://{_LOOPBACK}:{port}", token=token, tls=certificates.client_context())
        )
        if isinstance(server, KubeApiServer):
            await self._until_it_answers(server)
        await self._make_objects(self._dns, dns_node.name)
        write_kubeconfig(
            self._folder / state_directory.KUBECONFIG,
            server=self.server,
            authority=certificates.authority,
            token=token,
        )

    async def run(self) -> None:
        """Act on what the API server says, until cancelled."""
        processes = await self._closing.enter_async_context(Processes())
        for node, planned in zip(self._network.nodes.values(), self._plan.nodes, strict=True):
            labels = {_ZONE: planned.zone} if planned.zone else {}
            description = NodeDescription(node.name, node.own.addresses, node.own.pod_cidrs, labels)
            self._kubelets[node.name] = Kubelet(
                description, self.client, node, processes, self._logs / "pods"
            )
        pools = [network for network in LOAD_BALANCER_POOLS if self._plan.ipv6 or network.version == 4]
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._run_dns())
            tasks.create_task(run_controllers(self.client, pools=pools, announce=self._network.announce))
            for kubelet in self._kubelets.values():
                tasks.create_task(kubelet.run())

    async def apply_manifests(self) -> None:
        """Apply what the plan says, unless the cluster was kept. Raises `UserspaceProxyError`."""
        if not self.is_kept:
            await apply(self.client, read_objects(manifest_files(self._plan)))

    async def pods(self) -> tuple[PodStatus, ...]:
        """All pods, as the API has them."""
        return tuple(pod_status(pod) for pod in await self.client.list(PODS))

    async def not_ready(self) -> list[str]:
        """The pods and Deployments that are not ready, in sentences."""
        pods, deployments = await self.pods(), await self.client.list(DEPLOYMENTS)
        return [
            *(f"the pod {pod.namespace}/{pod.name} is not ready" for pod in pods if not pod.is_ready),
            *(sentence for deployment in deployments if (sentence := deployment_not_ready(deployment))),
        ]

    async def close(self) -> None:
        """End all of it. Safe to repeat."""
        await self._closing.aclose()

    def _cluster_sockets(self) -> list[socket.socket]:
        machine = self._network.control_plane
        return [
            machine.call(partial(_listening, address, API_PORT))
            for address in self._network.control_plane_addresses
        ]

    async def _make_objects(self, dns: PodSandbox, dns_node: str) -> None:
        """The Services of the API server and of DNS, and no Node that the cluster has no more."""
        services: list[tuple[JsonObject, Sequence[str], str | None]] = [
            (dns_service(self._plan.ipv6), dns.addresses, dns_node)
        ]
        if self._plan.api_server is ApiServerKind.EMBEDDED:  # kube-apiserver makes its own
            services.append((api_service(self._plan.ipv6), self._network.control_plane_addresses, None))
        for service, addresses, node_name in services:
            await put(self.client, SERVICES, service)
            for item in endpoint_slices(service, addresses, node_name):
                await put(self.client, ENDPOINT_SLICES, item)
        for node in await self.client.list(NODES):
            if node["metadata"]["name"] not in self._network.nodes:  # its pods follow it
                await self.client.delete(NODES, None, node["metadata"]["name"])

    async def _until_it_answers(self, server: KubeApiServer) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _KUBE_APISERVER_SECONDS
        while True:
            try:
                await self.client.get(NAMESPACES, None, "kube-system")
                return
            except ApiError as error:
                if (why := server.has_ended()) or loop.time() > deadline:
                    raise StartupError(why or f"kube-apiserver does not come to answer: {error}") from error
            await asyncio.sleep(_LOOK_SECONDS)

    async def _run_dns(self) -> None:
        """Answer pods' questions for names, in a pod of its own that no object tells of."""
        addresses = self._dns.addresses
        outside = self._network.outside
        await run_cluster_dns(
            self.client,
            udp=[self._dns.call(partial(_bound, address, DNS_PORT)) for address in addresses],
            tcp=[self._dns.call(partial(_listening, address, DNS_PORT)) for address in addresses],
            names={OUTSIDE_NAME: [outside.address, *([outside.address_v6] if outside.address_v6 else [])]},
        )

    async def _pod_logs(self, namespace: str, name: str, asked: LogRequest) -> AsyncIterator[bytes]:
        pod = await self.client.get(PODS, namespace, name)
        kubelet = self._kubelets.get(pod["spec"].get("nodeName", ""))
        if kubelet is None:
            raise PodLogsError(f"pod {name} does not have a host assigned")
        options = LogOptions(
            follow=asked.follow,
            previous=asked.previous,
            timestamps=asked.timestamps,
            tail_lines=asked.tail_lines,
            limit_bytes=asked.limit_bytes,
            since=asked.since,
        )
        try:
            async for piece in kubelet.log_of(namespace, name, asked.container, options):
                yield piece
        except LogUnavailableError as error:
            raise PodLogsError(str(error)) from error


def deployment_not_ready(deployment: JsonObject) -> str | None:
    """In a sentence, if a Deployment has fewer ready pods than it should have."""
    metadata, status = deployment["metadata"], deployment.get("status") or {}
    wanted, ready = deployment["spec"].get("replicas", 1), status.get("readyReplicas", 0)
    if ready >= wanted and status.get("observedGeneration") == metadata.get("generation"):
        return None
    name = f"{metadata['namespace']}/{metadata['name']}"
    return f"the Deployment {name} has {ready} of {wanted} pods ready"


def pod_status(pod: JsonObject) -> PodStatus:
    """What `demo status` tells of a Pod."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    conditions = {entry["type"]: entry["status"] for entry in status.get("conditions") or ()}
    return PodStatus(
        namespace=metadata["namespace"],
        name=metadata["name"],
        node=pod["spec"].get("nodeName", ""),
        addresses=tuple(entry["ip"] for entry in status.get("podIPs") or () if entry.get("ip")),
        state="Terminating" if metadata.get("deletionTimestamp") else status.get("phase", "Pending"),
        is_ready=conditions.get("Ready") == "True" or status.get("phase") == "Succeeded",
    )


def _bound(address: str, port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    bound.setblocking(False)
    bound.bind((address, port))
    return bound


def _listening(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, port), family=family, backlog=1024)
