"""Targets: the built-in ones, and reading a list of them."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_edge import registry
from lepton_edge.errors import RecipeError
from lepton_edge.target import TARGETS, parse_targets


def test_a_list_of_targets_is_read_in_order_and_each_once() -> None:
    assert parse_targets("intel-cpu") == (TARGETS["intel-cpu"],)
    assert parse_targets(" rtx , intel-cpu,rtx,, intel-cpu ") == (
        TARGETS["rtx"],
        TARGETS["intel-cpu"],
    )


@pytest.mark.parametrize("text", ["", " ", ",", " , ,"])
def test_an_empty_list_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="no target given") as caught:
        parse_targets(text)
    assert caught.value.hint == "lepton-edge targets lists them"


@pytest.mark.parametrize(
    ("text", "name", "near"),
    [
        ("intel_cpu", "intel_cpu", "intel-cpu"),
        ("rtx,jetson-orn", "jetson-orn", "jetson-orin"),
        ("Intel-CPU", "Intel-CPU", None),
        ("toaster", "toaster", None),
    ],
)
def test_an_unknown_target_is_named_with_those_known(
    text: str, name: str, near: str | None
) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_targets(text)
    assert caught.value.message == f"unknown target {name!r}"
    hint = str(caught.value.hint)
    assert "lepton-edge targets lists them: intel-cpu, jetson-orin" in hint
    if near:
        assert hint.startswith(f"did you mean {near}? ")


@given(st.text())
def test_any_text_names_targets_or_is_refused(text: str) -> None:
    named = [name.strip() for name in text.split(",") if name.strip()]
    if named and all(name in TARGETS for name in named):
        assert parse_targets(text)
        return
    with pytest.raises(RecipeError):
        parse_targets(text)


@pytest.mark.parametrize("name", TARGETS)
def test_a_built_in_target_is_whole(name: str) -> None:
    target = TARGETS[name]
    assert target.name == name
    assert target.description
    assert target.memory_budget >= 1024**3
    assert registry.how_to_install(target.backend)
    with pytest.raises(dataclasses.FrozenInstanceError):
        target.device = "other"  # type: ignore[misc]


def test_an_alias_builds_what_it_stands_for() -> None:
    aliases = [target for target in TARGETS.values() if target.alias_of]
    assert [alias.name for alias in aliases] == ["jetson"]
    for alias in aliases:
        real = TARGETS[str(alias.alias_of)]
        assert real.alias_of is None
        fields = ("backend", "device", "architecture", "memory_budget")
        assert [getattr(alias, f) for f in fields] == [getattr(real, f) for f in fields]
