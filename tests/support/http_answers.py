"""What an agent answers over HTTP, read inside a node's namespace."""

from __future__ import annotations

import http.client
import socket
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from userspace_proxy.demo.namespaces import Namespace

_SECONDS = 20.0


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    text: str


def get(where: Namespace, port: int, path: str, address: str = "127.0.0.1") -> Answer | None:
    """The answer, None if nobody listens."""
    connection = http.client.HTTPConnection(address, port, timeout=_SECONDS)
    try:
        connection.sock = where.call(lambda: socket.create_connection((address, port), _SECONDS))
        connection.request("GET", path)
        response = connection.getresponse()
        return Answer(response.status, dict(response.headers), response.read().decode())
    except ConnectionError:
        return None
    finally:
        connection.close()


def scrape(where: Namespace, port: int = 10249) -> list[Sample]:
    """Every sample of /metrics, as Prometheus' own parser reads it."""
    answer = get(where, port, "/metrics")
    assert answer is not None
    assert answer.status == 200
    return [sample for family in text_string_to_metric_families(answer.text) for sample in family.samples]


def total(samples: list[Sample], name: str, **labels: str) -> float:
    """The sum of the samples of that name that have these labels."""
    return sum(
        sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items()
    )
