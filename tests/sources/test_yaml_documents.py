from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from userspace_proxy.sources.yaml_documents import YAMLDocumentError, parse_documents


def parse(text: str) -> list[object]:
    return list(parse_documents(text.encode()))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2001-01-01", "2001-01-01"),
        ("2001-01-01T10:00:00Z", "2001-01-01T10:00:00Z"),
        ("22:22", "22:22"),
        ("1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8"),
        ("1e3", "1e3"),
        ("=", "="),
        ("'80'", "80"),
        ("!!str 80", "80"),
        ("80", 80),
        ("-1", -1),
        ("1.5", 1.5),
        ("true", True),
        ("off", False),
        ("~", None),
        ("", None),
        ("|\n  two\n  lines\n", "two\nlines\n"),
    ],
)
def test_scalars_are_what_json_has(text: str, value: object) -> None:
    assert parse(f"a: {text}") == [{"a": value}]


def test_keys_are_strings() -> None:
    assert parse("{1: a, true: b, 2001-01-01: c}") == [{"1": "a", "true": "b", "2001-01-01": "c"}]


def test_a_stream_has_documents() -> None:
    assert parse("a: 1\n---\n---\n- b\n...\n") == [{"a": 1}, None, ["b"]]
    assert parse("") == []
    assert list(parse_documents("a: ü".encode("utf-16"))) == [{"a": "ü"}]


def test_aliases_and_merges() -> None:
    text = "a: &a {x: 1, y: 2}\nb: *a\nc: {<<: *a, y: 3}\nd:\n  <<: [*a, {y: 4, z: 5}]\n"
    (document,) = parse(text)
    assert document == {**yaml.safe_load(text)}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: [", "line 2: did not find expected node content"),
        ("a: \t- b", "line 1: block sequence entries are not allowed in this context"),
        ("a:\n  b: *nothing", r"line 2: the alias \*nothing names nothing"),
        ("a: &a [*a]", r"the alias \*a names nothing that is complete"),
        ("&a x\n---\n*a", r"line 3: the alias \*a"),
        ("{[1]: 2}", "a key is not a string"),
        ("<<: 5", "only mappings can be merged"),
        ("!!python/object/apply:os.system [ls]", "the tag .* has no meaning"),
        ("!!binary aaaa", "the tag .* has no meaning"),
        ("\0", "control characters are not allowed"),
        ("[" * 500, "nested deeper than 100"),
        ("[" * 100_000, "nested deeper than 100|exceeded maximum nesting depth"),  # libyaml has a limit too
    ],
)
def test_what_cannot_be_read_is_an_error_that_says_where(text: str, reason: str) -> None:
    with pytest.raises(YAMLDocumentError, match=reason):
        parse(text)


def test_aliases_cannot_blow_up() -> None:
    laughs = ["&l0 [x, x, x, x, x, x, x, x, x, x]"]
    laughs += [f"&l{level} [{', '.join([f'*l{level - 1}'] * 10)}]" for level in range(1, 10)]
    with pytest.raises(YAMLDocumentError, match="aliases expand to more than"):
        parse("\n".join(f"- {laugh}" for laugh in laughs))


texts = st.text(st.characters(max_codepoint=0xD7FF))  # libyaml knows no escaped surrogate pairs.

keys = st.text(st.characters(max_codepoint=0xD7FF), max_size=20).filter("<<".__ne__)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(10**18), 10**18) | texts,
        lambda inner: st.lists(inner) | st.dictionaries(keys, inner),
    )
)
def test_json_is_yaml(value: object) -> None:
    assert parse(json.dumps(value)) == [value]


@given(st.text(alphabet=" \n\t-:?[]{}&*!|>'\"#a1,<%@`\\", max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse(text)
    except YAMLDocumentError as error:
        assert "\n" not in str(error)
