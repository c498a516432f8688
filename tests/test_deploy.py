"""What examples/deploy, the systemd unit and the Dockerfile say fits the program."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from configparser import RawConfigParser
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from userspace_proxy.agent.host import KEPT_CAPABILITIES
from userspace_proxy.cli.kube_proxy import kube_proxy
from userspace_proxy.cli.table_options import load
from userspace_proxy.configuration.loading import load_configuration
from userspace_proxy.dataplane.privileges import Capability
from userspace_proxy.observability.proxy_health import ProxyHealth
from userspace_proxy.sources import api_server, event_writer

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "examples" / "deploy"
MOUNTED_AT = "/etc/userspace-proxy"
UNIT = ROOT / "examples" / "systemd" / "userspace-proxy.service"


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


@pytest.fixture
def daemon_set() -> dict[str, Any]:
    [found] = documents("daemonset.yaml")
    return found


@pytest.fixture
def container(daemon_set: dict[str, Any]) -> dict[str, Any]:
    [found] = daemon_set["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


@pytest.fixture
def mounted(tmp_path: Path) -> Path:
    """The ConfigMap's folder, which stands elsewhere here than in a pod."""
    for name in ("config.yaml", "kubeconfig.yaml"):
        text = (DEPLOY / name).read_text()
        (tmp_path / name).write_text(text.replace(MOUNTED_AT, str(tmp_path)))
    return tmp_path


def test_its_configuration_is_one(mounted: Path) -> None:
    loaded = load_configuration({}, environment={}, file=mounted / "config.yaml")
    assert loaded.notes == ()
    assert loaded.configuration.kubeconfig == mounted / "kubeconfig.yaml"


def test_the_container_runs_what_the_command_line_accepts(container: dict[str, Any], mounted: Path) -> None:
    verbs, flags = container["args"][:3], container["args"][3:]
    assert verbs == ["supervise", "--", "run"]
    given = [flag.replace(MOUNTED_AT, str(mounted)).replace("$(NODE_NAME)", "node-1") for flag in flags]
    written = mounted / "written.yaml"
    completed = subprocess.run(
        [sys.executable, "-m", "userspace_proxy", "run", *given, "--write-config-to", str(written)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    assert yaml.safe_load(written.read_text())["hostnameOverride"] == "node-1"


def test_the_kubeconfig_uses_the_pods_own_token() -> None:
    [kubeconfig] = documents("kubeconfig.yaml")
    [user] = kubeconfig["users"]
    assert user["user"] == {"tokenFile": "/var/run/secrets/kubernetes.io/serviceaccount/token"}


def test_the_container_has_the_capabilities_that_the_agent_keeps(container: dict[str, Any]) -> None:
    security = container["securityContext"]
    assert security["capabilities"]["drop"] == ["ALL"]
    assert {*security["capabilities"]["add"]} == {
        "SYS_RESOURCE",
        *(capability.name for capability in KEPT_CAPABILITIES),
    }
    assert security["readOnlyRootFilesystem"]


def test_its_role_allows_what_the_agent_asks_for_and_no_more() -> None:
    _, role, binding = documents("rbac.yaml")
    allowed = {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    source = Path(api_server.__file__).read_text()
    watched = {
        ("" if path.startswith("/api/v1") else path.split("/")[2], path.split("/")[-1])
        for path in re.findall(r'"(/apis?/[a-z0-9./]+)"', source)
    }
    assert {("", "services"), ("discovery.k8s.io", "endpointslices")} <= watched
    asked = {(group, resource, verb) for group, resource in watched for verb in ("list", "watch")}
    methods = re.findall(r'"(POST|PATCH|PUT|DELETE)"', Path(event_writer.__file__).read_text())
    verbs = {"POST": "create", "PATCH": "patch"}
    asked |= {(event_writer.API_VERSION.split("/")[0], "events", verbs[method]) for method in methods}
    assert allowed == asked
    assert binding["roleRef"]["name"] == role["metadata"]["name"]


def test_the_old_pod_has_time_to_drain(daemon_set: dict[str, Any]) -> None:
    grace = daemon_set["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace > load_configuration({}, environment={}).configuration.drain_seconds


def test_it_is_rendered_by_kubectl() -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("there is no kubectl to render it")
    rendered = subprocess.run(
        ["kubectl", "kustomize", str(DEPLOY)], capture_output=True, text=True, check=False
    )
    assert rendered.returncode == 0, rendered.stderr
    found = {document["kind"]: document for document in yaml.safe_load_all(rendered.stdout)}
    assert found.keys() == {"ServiceAccount", "ClusterRole", "ClusterRoleBinding", "ConfigMap", "DaemonSet"}
    pod = found["DaemonSet"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == found["ServiceAccount"]["metadata"]["name"]
    [subject] = found["ClusterRoleBinding"]["subjects"]
    assert {name: subject[name] for name in ("name", "namespace")} == {
        name: found["ServiceAccount"]["metadata"][name] for name in ("name", "namespace")
    }
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["configuration"]["configMap"]["name"] == found["ConfigMap"]["metadata"]["name"]
    assert found["ConfigMap"]["data"].keys() == {"config.yaml", "kubeconfig.yaml"}
    for container in (*pod["containers"], *pod["initContainers"]):
        assert container["image"].endswith(f":{version('userspace-proxy')}")
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes.keys()


def test_its_probes_ask_where_the_agent_answers(container: dict[str, Any]) -> None:
    _, port = load_configuration({}, environment={}).configuration.healthz_bind_address or ("", 0)
    health = ProxyHealth(dict, lambda: True, lambda: 0.0)
    for probe in ("livenessProbe", "readinessProbe"):
        asked = container[probe]["httpGet"]
        assert asked["port"] == port
        assert health.respond(asked["path"]).status == HTTPStatus.OK


def test_what_outlives_the_pod_is_the_hosts(daemon_set: dict[str, Any], container: dict[str, Any]) -> None:
    paths = {
        volume["name"]: volume["hostPath"]["path"]
        for volume in daemon_set["spec"]["template"]["spec"]["volumes"]
        if "hostPath" in volume
    }
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert {name: mounted[name] for name in paths} == paths  # the same inside, where iptables looks
    assert paths["state"] == str(load_configuration({}, environment={}).configuration.state_directory)


def test_the_init_container_runs_what_the_command_line_accepts(
    daemon_set: dict[str, Any], mounted: Path
) -> None:
    [init] = daemon_set["spec"]["template"]["spec"]["initContainers"]
    program, *arguments = init["command"]
    given = [argument.replace(MOUNTED_AT, str(mounted)) for argument in arguments]
    parsed = kube_proxy.make_context(program, given)
    assert parsed.params["init_only"] == "true"
    assert load(parsed.params).configuration.kubeconfig == mounted / "kubeconfig.yaml"


def unit() -> RawConfigParser:
    parser = RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(UNIT.read_text())
    return parser


def test_the_unit_keeps_the_workers_and_gives_the_capabilities() -> None:
    service = unit()["Service"]
    assert service["KillMode"] == "process"
    given = {name.removeprefix("CAP_") for name in service["CapabilityBoundingSet"].split()}
    assert {capability.name for capability in Capability} <= given


def test_the_unit_is_one_of_systemds(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze to look at it")
    copy = tmp_path / UNIT.name
    copy.write_text(re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text()))
    looked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False
    )
    assert "userspace-proxy.service" not in looked.stderr, looked.stderr


def test_the_image_copies_what_there_is_and_has_both_commands() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert all((ROOT / name).exists() for name in kept)
    assert {"pyproject.toml", "README.md", "userspace_proxy"} <= {*kept}
    for command in ("userspace-proxy", "kube-proxy"):
        assert f"/opt/userspace-proxy/bin/{command}" in dockerfile
