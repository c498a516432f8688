"""Label and field selectors."""

from __future__ import annotations

import pytest

from userspace_proxy.demo.api_server.kinds import EVENTS, NODES, PODS
from userspace_proxy.demo.api_server.selectors import (
    Selection,
    parse_fields,
    parse_labels,
    selectable_fields,
)
from userspace_proxy.demo.api_server.statuses import StatusError

LABELS = {"app": "web", "tier": "front", "example.com/size": "10"}


@pytest.mark.parametrize(
    ("text", "is_met"),
    [
        ("", True),
        ("app=web", True),
        ("app==web", True),
        ("app = web , tier = front", True),
        ("app=db", False),
        ("app!=web", False),
        ("missing!=web", True),
        ("app", True),
        ("missing", False),
        ("!missing", True),
        ("!app", False),
        ("app in (db, web)", True),
        ("app in (db)", False),
        ("app notin (db,cache),tier", True),
        ("app notin (web)", False),
        ("missing notin (web)", True),
        ("app=", False),
        ("missing in ()", False),
        ("example.com/size>9", True),
        ("example.com/size>10", False),
        ("example.com/size<11", True),
        ("app>1", False),
    ],
)
def test_labels(text: str, is_met: bool) -> None:
    assert Selection(parse_labels(text)).selects(LABELS, {}, "") is is_met


@pytest.mark.parametrize(
    "text", ["=web", "app in web", "app,,tier", "a b", "app=(web)", "app in (a b)", "-a=b"]
)
def test_what_is_no_selector_is_refused(text: str) -> None:
    with pytest.raises(StatusError) as refused:
        parse_labels(text)
    assert (refused.value.code, refused.value.status["reason"]) == (400, "BadRequest")
    assert text in str(refused.value)


FIELDS = {"metadata.name": "web-1", "metadata.namespace": "default", "status.phase": "Running"}


@pytest.mark.parametrize(
    ("text", "is_met"),
    [
        ("", True),
        ("metadata.name=web-1", True),
        ("metadata.name==web-1,status.phase=Running", True),
        ("status.phase!=Running", False),
        ("status.phase!=Failed,status.phase!=Succeeded", True),
        ("spec.nodeName=", True),
        ("metadata.namespace!=default", False),
    ],
)
def test_fields(text: str, is_met: bool) -> None:
    assert Selection((), parse_fields(text, PODS)).selects({}, FIELDS, "") is is_met


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("spec.foo=1", "field label not supported: spec.foo"),
        ("status.phase", "can't understand 'status.phase'"),
    ],
)
def test_fields_that_cannot_be_asked_for(text: str, words: str) -> None:
    with pytest.raises(StatusError, match=words):
        parse_fields(text, PODS)


def test_what_is_the_clusters_has_no_namespace_to_ask_for() -> None:
    with pytest.raises(StatusError):
        parse_fields("metadata.namespace=default", NODES)


def test_a_namespace_selects_what_is_in_it() -> None:
    assert Selection(namespace="a").selects({}, {}, "a")
    assert not Selection(namespace="a").selects({}, {}, "b")


def test_selectable_fields_are_text() -> None:
    pod = {"spec": {"nodeName": "node-1", "hostNetwork": True}, "status": {"phase": "Running"}}
    fields = selectable_fields(pod, PODS)
    assert fields["spec.nodeName"] == "node-1"
    assert fields["spec.hostNetwork"] == "true"
    assert fields["status.podIP"] == ""


@pytest.mark.parametrize(
    ("event", "source"),
    [({"source": {"component": "kubelet"}}, "kubelet"), ({"reportingComponent": "agent"}, "agent"), ({}, "")],
)
def test_an_events_source_is_a_word(event: dict[str, object], source: str) -> None:
    assert selectable_fields(event, EVENTS)["source"] == source
