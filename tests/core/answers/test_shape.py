"""What all answers and questions keep to, since others' programs read and write them."""

from __future__ import annotations

import pkgutil
import re
from importlib import import_module

import msgspec
import pytest

from userspace_proxy.core import answers
from userspace_proxy.core.answers.rules import RulesQuestion
from userspace_proxy.core.answers.shape import Parameters, Shape
from userspace_proxy.core.answers.status import Status
from userspace_proxy.core.answers.verbosity import VerbosityAnswer

for module in pkgutil.iter_modules(answers.__path__):
    import_module(f"{answers.__name__}.{module.name}")


def shapes(of: type[Shape]) -> list[type[Shape]]:
    return [each for kind in of.__subclasses__() for each in (kind, *shapes(kind))]


def test_all_are_found() -> None:
    assert {Status, VerbosityAnswer, RulesQuestion} < {*shapes(Shape)}


@pytest.mark.parametrize("shape", shapes(Shape), ids=lambda shape: shape.__name__)
def test_fields_are_spelled_as_kubernetes_spells_them(shape: type[Shape]) -> None:
    assert all(re.fullmatch("[a-z][a-zA-Z0-9]*", name) for name in shape.__struct_encode_fields__)


@pytest.mark.parametrize("question", shapes(Parameters), ids=lambda shape: shape.__name__)
def test_a_question_takes_no_word_that_it_does_not_know(question: type[Parameters]) -> None:
    assert question.__struct_config__.forbid_unknown_fields


@pytest.mark.parametrize(
    "answer",
    [each for each in shapes(Shape) if not issubclass(each, Parameters)],
    ids=lambda shape: shape.__name__,
)
def test_who_reads_an_answer_is_not_disturbed_by_fields_that_came_later(answer: type[Shape]) -> None:
    assert not answer.__struct_config__.forbid_unknown_fields


def test_a_later_field_is_ignored() -> None:
    assert msgspec.json.decode(b'{"verbosity": 2, "later": 1}', type=VerbosityAnswer).verbosity == 2
