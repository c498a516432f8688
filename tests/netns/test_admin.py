"""A live agent is asked over its admin socket, by its own commands and by others' programs."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import objects
from tests.support.agent import userspace_proxy
from tests.support.clients import who_greets
from tests.support.service_node import ServiceNode
from tests.support.waiting import wait_until
from tests.test_admin_protocol_page import METHODS, PAGE
from userspace_proxy.admin.client import ask
from userspace_proxy.admin.protocol import AdminError
from userspace_proxy.demo.namespaces import Namespace

CHAINS = ("KUBE-PORTALS-CONTAINER", "KUBE-PORTALS-HOST")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceNode]:
    with ServiceNode(tmp_path_factory.mktemp("node"), ipv6=True) as node:
        node.agent.start()
        yield node


def answer(where: Namespace, *arguments: str) -> str:
    """What a command says that succeeds."""
    done = userspace_proxy(where, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_status_says_how_the_agent_does(node: ServiceNode) -> None:
    said = json.loads(answer(node.node, "status", "-o", "json"))
    assert said["pid"] == node.agent.pid
    assert said["node"] == "node-1"
    assert {worker["pid"] for worker in said["workers"]} < {*node.agent.worker_pids}
    assert said["isHealthy"] and said["source"]["isComplete"]
    assert {each["family"]: each["writtenBy"] for each in said["families"]}.keys() == {"IPv4", "IPv6"}
    assert f"pid {node.agent.pid}, up for " in answer(node.node, "status")


def test_the_log_level_changes_for_the_agent_and_its_workers(node: ServiceNode) -> None:
    assert answer(node.node, "log-level") == "Verbosity:  0\n"
    assert answer(node.node, "log-level", "5") == "Verbosity:  5\n"
    service = node.serve("greet")
    assert len(who_greets(node.client, service["greet"], 1)) == 1
    wait_until(lambda: node.agent.lines_with("Object changed: kind=Service", service.name))
    assert json.loads(answer(node.node, "log-level", "0", "-o", "json")) == {"verbosity": 0}


def test_services_say_what_is_served(node: ServiceNode) -> None:
    service = node.serve("greet", "echo", affinity_seconds=60)
    assert len(who_greets(node.client, service["greet"], 3)) == 3
    greet, echo = sorted(
        (each for each in json.loads(answer(node.node, "services", service.name, "-o", "json"))),
        key=lambda each: str(each["protocol"]),
    )
    assert greet["servicePort"] == f"default/{service.name}:greet"
    assert greet["frontends"][0]["frontend"] == f"{service.cluster_ip}:80/TCP"
    assert (greet["opened"], greet["affinityTimeoutSeconds"]) == (3, 60)
    assert greet["workers"][0]["pid"] in node.agent.worker_pids
    assert {each["endpoint"] for each in greet["endpoints"]} == {
        f"{address}:8080" for address in node.endpoint_addresses
    }
    assert echo["protocol"] == "UDP"
    said = answer(node.node, "services")
    assert f"default/{service.name}:greet" in said and service.cluster_ip in said
    assert f"default/{service.name}:greet TCP IPv4" in answer(node.node, "services", service.name)


def test_endpoints_say_why_they_are_not_used(node: ServiceNode) -> None:
    service = node.serve("greet")
    node.objects.apply(
        objects.endpoint_slice(
            "others",
            of=service.name,
            ports=["greet:8080"],
            endpoints=[objects.endpoint("10.9.9.9", ready=False)],
        )
    )
    wait_until(lambda: "10.9.9.9" in answer(node.node, "endpoints", "--service", service.name))
    found = json.loads(answer(node.node, "endpoints", "--service", service.name, "-o", "json"))
    uses = {each["endpoint"]: each["uses"] for each in found}
    assert uses["10.9.9.9:8080"] == [{"policy": "Cluster", "isUsed": False, "reason": "not ready"}]
    assert [use["isUsed"] for each in uses.values() for use in each].count(True) == 3


def test_rules_have_what_they_counted_and_a_reason(node: ServiceNode) -> None:
    service = node.serve("greet")
    assert len(who_greets(node.client, service["greet"], 4)) == 4
    found = json.loads(answer(node.node, "rules", "--service", service.name, "-o", "json"))
    in_container, in_host = ({each["chain"]: each for each in found}[name] for name in CHAINS)
    assert (in_container["packets"], in_host["packets"]) == (4, 0)
    assert in_container["rule"].startswith(f"-d {service.cluster_ip} -p tcp -m comment --comment ")
    assert in_container["reason"].startswith(
        f"default/{service.name}:greet takes what pods and others send to {service.cluster_ip}:80/TCP, "
    )
    everything = json.loads(answer(node.node, "rules", "-o", "json"))
    assert {(each["family"], each["table"]) for each in everything} == {
        (family, table) for family in ("IPv4", "IPv6") for table in ("filter", "nat")
    }
    assert "KUBE-PORTALS-GUARD, table filter, IPv6" in answer(node.node, "rules")


def test_a_name_that_is_not_served_is_an_error(node: ServiceNode) -> None:
    done = userspace_proxy(node.node, "services", "default/nobody")
    assert done.returncode == 1
    assert done.stderr.startswith("userspace-proxy: no Service port default/nobody is served here: ")


def test_names_of_services_are_completed(node: ServiceNode) -> None:
    service = node.serve("greet")
    typed = ("env", "_USERSPACE_PROXY_COMPLETE=bash_complete", "COMP_CWORD=2")
    words = f"COMP_WORDS=userspace-proxy services {service.name[:-1]}"
    completed = userspace_proxy(node.node, prefix=(*typed, words)).stdout
    assert f"plain,default/{service.name}" in completed.splitlines()


def test_the_page_of_the_protocol_has_every_method_and_a_program_that_works(node: ServiceNode) -> None:
    service = node.serve("greet")
    (program,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    path = str(node.state_folder / "admin.sock")
    printed = node.node.run(sys.executable, "-c", program, path).stdout
    assert f"default/{service.name}:greet: 3 of 3 endpoints are ready" in printed.splitlines()
    with pytest.raises(AdminError, match="'fly' is none of ") as raised:
        list(ask(Path(path), "fly", object))
    assert str(raised.value).partition("none of ")[2].split(", ") == sorted(METHODS)


def test_where_no_agent_runs_that_is_said_in_a_sentence(node: ServiceNode) -> None:
    done = userspace_proxy(node.client, "status")
    assert done.returncode == 3
    assert done.stderr.startswith("userspace-proxy: no agent runs here: there is no /run/userspace-proxy/")
