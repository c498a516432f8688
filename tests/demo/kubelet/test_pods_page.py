"""docs/demo-pods.md says what there is."""

from __future__ import annotations

import re
from pathlib import Path

from userspace_proxy.demo.kubelet import pod_spec
from userspace_proxy.demo.kubelet.pod_http import Identity, answer, read_request

PAGE = (Path(__file__).parents[3] / "docs" / "demo-pods.md").read_text()
WEB = Identity("web-1", "default", "node-1", "built-in", "10.244.1.2")


def test_every_annotation_is_explained() -> None:
    keys = (pod_spec.READY, pod_spec.REFUSE, pod_spec.BLACK_HOLE, pod_spec.KILL)
    prefix = "demo.userspace-proxy.io/"
    assert set(re.findall(r"^\| `([a-z-]+)[:`]", PAGE.split("## Trouble")[1], re.MULTILINE)) == {
        key.removeprefix(prefix) for key in keys
    }


def test_every_path_of_the_page_answers_as_it_says() -> None:
    paths = re.findall(r"^\| `(/[^`]*)`", PAGE, re.MULTILINE)
    assert len(paths) == 6
    plain = WEB.line("10.244.1.1:40000", "{}")
    for path in paths:
        request = read_request(f"GET {path} HTTP/1.1\r\n\r\n".encode())
        assert request is not None
        reply = answer(request, WEB, "10.244.1.1:40000", is_last=False)
        is_plain = reply.head_and_body.endswith(plain.replace("{}", path).encode())
        assert not is_plain or reply.delay_seconds or reply.status == 503, path


def test_line_of_the_page_is_the_servers() -> None:
    shown = re.search(r"^web-\S+ here, .*hello\.$", PAGE, re.MULTILINE)
    assert shown is not None
    name = shown[0].split()[0]
    said = Identity(name, "default", "node-1", "built-in", "").line("[fd00:10:244:1::1]:33486", "/hello")
    assert shown[0] + "\n" == said
