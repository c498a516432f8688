"""What the verbs of `userspace-proxy demo` do, on the machine's side: start a cluster, ask it, go inside."""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn
from urllib.parse import quote

import msgspec

from userspace_proxy.demo import isolation, state_directory
from userspace_proxy.demo.cluster_plan import ApiServerKind, ClusterPlan, manifest_files, plan_of, read_plan
from userspace_proxy.demo.control import (
    AskPlace,
    AskStatus,
    ClusterStatus,
    EndCluster,
    Ending,
    Place,
    RunningCluster,
)
from userspace_proxy.demo.kube_apiserver import find_programs
from userspace_proxy.demo.launch import AGENTS_KUBECONFIG, STAY, Surroundings, launched
from userspace_proxy.demo.sandbox import namespace_files
from userspace_proxy.demo.status_text import greeting, status_text
from userspace_proxy.errors import StartupError, UsageError

DEFAULT_NODES: Final = 3
_END_SECONDS: Final = 20.0
_LOOK_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True)
class Wishes:
    """What `demo up` was called with; None and False where it said nothing."""

    nodes: int | None = None
    file: Path | None = None
    empty: bool = False
    fresh: bool = False
    foreground: bool = False
    web: bool = False
    apiserver: str | None = None


def bring_up(wishes: Wishes) -> None:
    """Start a cluster, and say what there is; with `foreground` stay until Ctrl-C or its end."""
    path = state_directory.default_path()
    began = time.monotonic()
    plan = _plan(wishes, path)
    manifest_files(plan)  # what is wrong is said before anything is made
    if plan.api_server is ApiServerKind.KUBE_APISERVER:
        find_programs()
    with (
        _signals_as_exceptions(),
        launched(plan, path, fresh=wishes.fresh, run=be_cluster, say=_say, web=wishes.web) as (ready, leash),
    ):
        seconds = time.monotonic() - began
        with _cluster(path) as cluster:
            status = cluster.ask(AskStatus(), ClusterStatus)
            print(greeting(status, ready.problems, seconds), flush=True)
            if not wishes.foreground:
                leash.sendall(STAY)  # last: a command that fails, or is stopped, leaves nothing
                return
            try:
                print("Ctrl-C takes it down.", flush=True)
                cluster.wait()
            except _Stop:
                end_cluster(cluster, path, keep=False)
            if (log := path / state_directory.LOG).exists():
                raise StartupError(f"the cluster has ended by itself: {log} may say why")
            print("The cluster is down.")


def take_down(*, keep: bool) -> None:
    """End the cluster that runs, and remove what it, or one that was killed, has left."""
    path = state_directory.default_path()
    with _found(path) as cluster:
        if cluster is not None:
            end_cluster(cluster, path, keep=keep)
            print("The cluster is down, and its objects are kept." if keep else "The cluster is down.")
        elif not path.exists():
            print("No demo cluster is running.")
        elif keep:
            print(f"No demo cluster is running; what one has left in {path} is kept.")
        else:
            _remove(path)
            print(f"No demo cluster is running; what one had left in {path} is removed.")


def status_of_cluster() -> ClusterStatus:
    """How the cluster does. Raises `StartupError` if there is none."""
    with _cluster(state_directory.default_path()) as cluster:
        return cluster.ask(AskStatus(), ClusterStatus)


def show_status(*, as_json: bool) -> None:
    """Print how the cluster does. Raises `StartupError` if there is none."""
    status = status_of_cluster()
    print(msgspec.json.format(msgspec.json.encode(status)).decode() if as_json else status_text(status))


def open_shell(name: str) -> NoReturn:
    """Be a shell in that place, whose prompt says where one is."""
    with _cluster(state_directory.default_path()) as cluster:
        place = _place(cluster, name)
        environment = dict(os.environ)
        if shutil.which("bash"):
            environment["HISTFILE"] = "/dev/null"
            environment["PS1"] = rf"\[\e[36m\]{place.name}\[\e[0m\] \w \$ "
            command = ["bash", "--norc", "--noprofile", "-i"]
        else:
            environment["PS1"] = f"{place.name} $ "
            command = ["sh", "-i"]
        sys.exit(_run_inside(cluster, place, command, environment))


def execute(name: str, command: Sequence[str]) -> NoReturn:
    """Run a command in that place and end with its exit status."""
    with _cluster(state_directory.default_path()) as cluster:
        sys.exit(_run_inside(cluster, _place(cluster, name), command, dict(os.environ)))


def show_logs(name: str, *, follow: bool) -> None:
    """Print what a pod's first container, or a node's agent, has written."""
    path = state_directory.default_path()
    with _cluster(path) as cluster:
        status = cluster.ask(AskStatus(), ClusterStatus)
        for node in status.nodes:
            if node.name == name:
                return _copy_file(Path(node.agent_log), cluster, follow=follow)
    namespace, _, pod = name.rpartition("/")
    return _copy_pod_log(Path(status.kubeconfig), namespace or "default", pod, follow=follow)


class _Stop(BaseException):
    """Somebody asked us to stop."""


def be_cluster(surroundings: Surroundings) -> int:
    """Be the cluster, as `launched` has it; returns the exit status."""
    from userspace_proxy.demo.daemon import run  # what it imports, the commands need not wait for

    return run(surroundings)


def _plan(wishes: Wishes, path: Path) -> ClusterPlan:
    kept = path / state_directory.PLAN
    says_nothing = wishes.nodes is None and wishes.file is None
    if wishes.file is not None and wishes.nodes is not None:
        raise UsageError("--nodes and --file are two ways to say the same: choose one")
    if wishes.file is not None:
        plan = read_plan(wishes.file)
    elif says_nothing and not wishes.fresh and kept.exists():
        plan = _kept_plan(kept)
    else:
        plan = plan_of(DEFAULT_NODES if wishes.nodes is None else wishes.nodes)
    if wishes.empty:
        plan = msgspec.structs.replace(plan, manifests=())
    if wishes.apiserver is not None:
        plan = msgspec.structs.replace(plan, api_server=ApiServerKind(wishes.apiserver))
    return plan


def _kept_plan(file: Path) -> ClusterPlan:
    try:
        return msgspec.json.decode(file.read_bytes(), type=ClusterPlan)
    except (OSError, msgspec.DecodeError) as error:
        raise StartupError(
            f"what was kept cannot be read ({error}): `userspace-proxy demo up --fresh` begins anew"
        ) from error


def _say(what: str) -> None:
    print(f"  {what}", flush=True)


@contextmanager
def _found(path: Path) -> Iterator[RunningCluster | None]:
    cluster = RunningCluster.find(path)
    if cluster is None:
        yield None
        return
    with cluster:
        yield cluster


@contextmanager
def _cluster(path: Path) -> Iterator[RunningCluster]:
    with _found(path) as cluster:
        if cluster is None:
            log = path / state_directory.LOG
            ended = f" (one has ended by itself: {log} may say why)" if log.exists() else ""
            raise StartupError(f"no demo cluster is running{ended}: `userspace-proxy demo up` starts one")
        yield cluster


def end_cluster(cluster: RunningCluster, path: Path, *, keep: bool) -> None:
    """Have it end, if need be by force, and see that nothing is left."""
    with suppress(StartupError):  # it has just ended, or does nothing any more
        cluster.ask(EndCluster(keep), Ending)
    if not cluster.wait(_END_SECONDS):
        cluster.kill()
        cluster.wait()
    if not keep:
        _remove(path)


def _remove(path: Path) -> None:
    """Remove what is left in the folder of no cluster, and the folder."""
    folder = state_directory.lock(path)
    if folder is None:
        raise StartupError("a demo cluster is just starting or ending: try again")
    state_directory.clear(path, keep=False)
    path.rmdir()
    os.close(folder)


def _place(cluster: RunningCluster, name: str) -> Place:
    place = cluster.ask(AskPlace(name), Place)
    if not place.descriptors:
        raise UsageError(f"there is no {name!r} here, but {', '.join(place.alternatives)}")
    return place


def _run_inside(
    cluster: RunningCluster, place: Place, command: Sequence[str], environment: dict[str, str]
) -> int:
    """Run a command where `place` is; returns its exit status, 127 if there is no such command."""
    files = {"pid": f"/proc/{cluster.pid}/ns/pid", **namespace_files(cluster.pid, place.descriptors)}
    user = f"/proc/{cluster.pid}/ns/user"
    if Path(user).stat().st_ino != Path("/proc/self/ns/user").stat().st_ino:
        files = {"user": user, **files}
    isolation.put_sbin_on_path()
    environment |= {"PATH": os.environ["PATH"], "KUBECONFIG": str(AGENTS_KUBECONFIG)}
    isolation.enter_namespaces(files)
    for number in (signal.SIGINT, signal.SIGQUIT):  # it is the command's to obey them
        signal.signal(number, lambda *_: None)
    try:
        status = subprocess.call(command, env=environment)
    except OSError as error:
        print(f"userspace-proxy: {command[0]}: {error.strerror}", file=sys.stderr)
        return 127 if isinstance(error, FileNotFoundError) else 126
    return status if status >= 0 else 128 - status


def _copy_file(file: Path, cluster: RunningCluster, *, follow: bool) -> None:
    with file.open("rb") as log:
        shutil.copyfileobj(log, sys.stdout.buffer)
        sys.stdout.flush()
        while follow and not cluster.wait(_LOOK_SECONDS):
            shutil.copyfileobj(log, sys.stdout.buffer)
            sys.stdout.flush()


def _copy_pod_log(kubeconfig: Path, namespace: str, pod: str, *, follow: bool) -> None:
    path = f"/api/v1/namespaces/{quote(namespace)}/pods/{quote(pod)}/log{'?follow=true' if follow else ''}"
    config = json.loads(kubeconfig.read_text())
    answer = _get(config, path)
    if answer.status != http.HTTPStatus.OK:
        raise StartupError(json.loads(answer.read()).get("message", answer.reason))
    while piece := answer.read1(65536):
        sys.stdout.buffer.write(piece)
        sys.stdout.flush()


def _get(config: dict[str, Any], path: str) -> http.client.HTTPResponse:
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
    host, _, port = cluster["server"].removeprefix("https://").rpartition(":")
    connection = http.client.HTTPSConnection(
        host, int(port), context=ssl.create_default_context(cadata=authority)
    )
    connection.request("GET", path, headers={"Authorization": f"Bearer {user['token']}"})
    return connection.getresponse()


@contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """Ctrl-C and being told to end take down what is there, as any failure does."""

    def stop(*_: object) -> NoReturn:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise _Stop

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        signal.signal(number, stop)
    try:
        yield
    except _Stop:
        print("userspace-proxy: stopped; the cluster is down", file=sys.stderr)
        sys.exit(130)
