"""One node's kubelet: sees which pods are its own, and has a worker look after each."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NoReturn

import msgspec

from userspace_proxy.demo.api_client import ApiClient
from userspace_proxy.demo.api_resources import PODS, JsonObject
from userspace_proxy.demo.event_recorder import EventRecorder
from userspace_proxy.demo.kubelet.container_logs import LogOptions
from userspace_proxy.demo.kubelet.node_object import NodeDescription
from userspace_proxy.demo.kubelet.pod_life import PodLife
from userspace_proxy.demo.kubelet.pod_network import PodNetwork
from userspace_proxy.demo.kubelet.pod_spec import read_pod, unsupported_fields
from userspace_proxy.demo.kubelet.pod_worker import PodWorker, Surroundings
from userspace_proxy.demo.kubelet.probing import Prober
from userspace_proxy.demo.kubelet.processes import Processes
from userspace_proxy.demo.kubelet.registration import keep_node
from userspace_proxy.demo.mirror import Key, Mirror
from userspace_proxy.errors import UserspaceProxyError

_log = logging.getLogger(__name__)


class LogUnavailableError(UserspaceProxyError):
    """There is no log to show; the message is the one that kubectl's users know."""


class Kubelet:
    """Runs the pods that are bound to `node`, until `run` is cancelled.

    `processes` may serve other nodes too, and outlives the kubelet. Logs are kept below the folder `logs`.
    """

    def __init__(
        self,
        node: NodeDescription,
        client: ApiClient,
        network: PodNetwork,
        processes: Processes,
        logs: Path,
    ) -> None:
        self.node = node
        self._client = client
        self._network = network
        self._processes = processes
        self._logs = logs
        self._recorder = EventRecorder(client, "kubelet", host=node.name)
        self._pods = Mirror(client, PODS, field_selector=f"spec.nodeName={node.name}")
        self._workers: dict[Key, PodWorker] = {}
        self._forgetting: set[asyncio.Task[None]] = set()
        self._seen: dict[Key, JsonObject] = {}
        self._may_have_changed = asyncio.Event()
        self._pods.subscribe(self._may_have_changed.set)

    async def run(self) -> NoReturn:
        """Until cancelled. Whatever the API server does, pods that run go on running."""
        prober = Prober(self._network.node_namespace_path, self._processes)
        loop = asyncio.get_running_loop()
        epoch = time.time() - loop.time()
        surroundings = Surroundings(
            self.node,
            self._client,
            self._network,
            self._processes,
            prober,
            self._recorder,
            self._logs,
            lambda: epoch + loop.time(),
        )
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._recorder.run())
                tasks.create_task(keep_node(self._client, self.node))
                tasks.create_task(self._pods.run())
                await self._pods.synced()
                while True:
                    await self._may_have_changed.wait()
                    self._may_have_changed.clear()
                    self._follow(surroundings)
        finally:
            await asyncio.gather(*self._forgetting, *(worker.close() for worker in self._workers.values()))
            self._workers.clear()
            prober.close()

    def kill(self, namespace: str, name: str) -> bool:
        """Send SIGKILL to the processes of a pod; False if it is not here."""
        worker = self._workers.get((namespace, name))
        if worker is not None:
            worker.kill()
        return worker is not None

    def log_of(self, namespace: str, name: str, container: str, options: LogOptions) -> AsyncIterator[bytes]:
        """A container's log, in pieces; "" is the pod's first container. Raises LogUnavailableError."""
        worker = self._workers.get((namespace, name))
        if worker is None:
            raise LogUnavailableError(f'pod "{name}" in namespace "{namespace}" does not run on this node')
        spec = worker.life.pod.spec
        known = [one.name for one in (*spec.containers, *spec.init_containers)]
        chosen = container or known[0]
        if chosen not in known:
            raise LogUnavailableError(f"container {chosen} is not valid for pod {name}")
        log = worker.log_of(chosen, previous=options.previous)
        if log is None and options.previous:
            raise LogUnavailableError(f'previous terminated container "{chosen}" in pod "{name}" not found')
        if log is None:
            raise LogUnavailableError(
                f'container "{chosen}" in pod "{name}" is waiting to start: ContainerCreating'
            )
        return log.lines(options)

    def _follow(self, surroundings: Surroundings) -> None:
        """Have every pod looked after that is bound to this node, and none that is not any more."""
        for key, worker in list(self._workers.items()):
            there = self._pods.objects.get(key)
            if there is None or there["metadata"].get("uid") != worker.life.pod.metadata.uid:
                worker.vanished()
        for key, there in self._pods.objects.items():
            if self._seen.get(key) is not there:
                self._see(key, there, surroundings)
        self._seen = {key: seen for key, seen in self._seen.items() if key in self._pods.objects}

    def _see(self, key: Key, json: JsonObject, surroundings: Surroundings) -> None:
        worker = self._workers.get(key)
        if worker is not None and worker.life.pod.metadata.uid != json["metadata"].get("uid"):
            return  # its sandbox is still in the way; seen again when that is gone
        self._seen[key] = json
        try:
            pod = read_pod(json)
        except msgspec.ValidationError as error:
            _log.warning("A pod is left alone, it cannot be read: pod=%s/%s why=%s", *key, error)
            return
        if worker is not None:
            worker.changed(pod)
            return
        life = PodLife(pod, unsupported_fields(json), surroundings.now())
        worker = self._workers[key] = PodWorker(life, surroundings, self._is_over)
        worker.begin()

    def _is_over(self, worker: PodWorker) -> None:
        metadata = worker.life.pod.metadata
        key = metadata.namespace, metadata.name
        if self._workers.get(key) is not worker:
            return  # a step that was still under way has ended
        del self._workers[key]
        self._may_have_changed.set()
        task = asyncio.get_running_loop().create_task(self._forget(worker))
        self._forgetting.add(task)
        task.add_done_callback(self._forgetting.discard)

    async def _forget(self, worker: PodWorker) -> None:
        await worker.close()
        await asyncio.to_thread(shutil.rmtree, worker.log_folder, ignore_errors=True)
