"""The error tree: what a message is made of, and that the drawing is the code."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

import lepton_edge
from lepton_edge import errors
from lepton_edge.errors import LeptonError

KINDS = [
    kind
    for kind in vars(errors).values()
    if inspect.isclass(kind) and issubclass(kind, LeptonError)
]


def test_a_message_is_followed_by_its_hint() -> None:
    error = LeptonError("the file is missing", hint="make it")
    assert str(error) == "the file is missing\n  make it"
    assert (error.message, error.hint) == ("the file is missing", "make it")


def test_a_message_needs_no_hint() -> None:
    error = LeptonError("the file is missing")
    assert str(error) == "the file is missing"
    assert error.hint is None


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_can_be_sent_to_another_process(kind: type[LeptonError]) -> None:
    """Worker pools pickle what was raised."""
    error = kind("what", hint="next")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is kind
        assert str(again) == "what\n  next"


def test_the_tree_is_drawn_as_it_is() -> None:
    drawn: dict[str, str] = {}
    above = ["LeptonError"]
    for line in str(errors.__doc__).splitlines():
        if "── " not in line:
            continue
        branch, _, rest = line.partition("── ")
        name = rest.split()[0]
        depth = len(branch) // 4
        drawn[name] = above[depth - 1]
        above[depth:] = [name]
    assert drawn == {
        kind.__name__: kind.__mro__[1].__name__ for kind in KINDS if kind is not LeptonError
    }


def test_the_base_is_a_public_name() -> None:
    assert lepton_edge.LeptonError is LeptonError
    assert lepton_edge.errors is errors
