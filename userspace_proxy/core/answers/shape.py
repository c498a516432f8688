"""What all answers, and the parameters of questions, have in common."""

from __future__ import annotations

import msgspec


class Shape(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A value whose JSON is spelled as Kubernetes spells fields: `proxyPort`."""


class Parameters(Shape, frozen=True, forbid_unknown_fields=True):
    """What a question is about; a word that is none of them is an error, and so never ignored."""
