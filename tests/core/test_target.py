"""Targets: the built-in ones, and reading a list of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_edge import registry
from lepton_edge import target as targets
from lepton_edge.errors import RecipeError
from lepton_edge.target import TARGETS, parse_targets, resolved, this_machine


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
        assert all(TARGETS[name].alias_of == () for name in alias.alias_of)
        newest = TARGETS[alias.alias_of[-1]]
        fields = ("backend", "device", "architecture", "memory_budget")
        assert [getattr(alias, f) for f in fields] == [getattr(newest, f) for f in fields]


@pytest.fixture
def device_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this machine says which board it is. Nothing is there yet."""
    file = tmp_path / "compatible"
    monkeypatch.setattr(targets, "_DEVICE_TREE", file)
    return file


@pytest.mark.parametrize(
    ("board", "machine", "jetson"),
    [
        (b"nvidia,p3768-0000+p3767-0005\0nvidia,tegra234\0", "jetson-orin", "jetson-orin"),
        (b"nvidia,p3737-0000+p3701-0005\0nvidia,tegra234\0", "jetson-orin", "jetson-orin"),
        (b"nvidia,p4071-0000+p3834-0008\0nvidia,tegra264\0", "jetson-thor", "jetson-thor"),
        (b"a-maker,a-board\0nvidia,tegra234\0", "jetson-orin", "jetson-orin"),
        (b"nvidia,p3509-0000+p3668-0000\0nvidia,tegra194\0", None, "jetson-thor"),
        (b"raspberrypi,5-model-b\0brcm,bcm2712\0", None, "jetson-thor"),
        (b"a-maker,nvidia,tegra234-like\0", None, "jetson-thor"),
        (b"\xff\xfe nvidia \xff", None, "jetson-thor"),
        (b"", None, "jetson-thor"),
    ],
)
def test_an_alias_is_the_target_that_this_machine_is_else_the_newest(
    device_tree: Path, board: bytes, machine: str | None, jetson: str
) -> None:
    device_tree.write_bytes(board)
    assert this_machine() == machine
    assert resolved(TARGETS["jetson"]) == TARGETS[jetson]
    assert parse_targets("jetson") == (TARGETS[jetson],)


def test_a_machine_without_a_device_tree_is_no_target(device_tree: Path) -> None:
    assert this_machine() is None
    assert parse_targets("jetson") == (TARGETS["jetson-thor"],)
    device_tree.mkdir()  # as unreadable as can be
    assert this_machine() is None


def test_what_is_no_alias_is_itself_on_every_machine(device_tree: Path) -> None:
    device_tree.write_bytes(b"nvidia,p3737-0000+p3701-0005\0nvidia,tegra234\0")
    for target in TARGETS.values():
        if not target.alias_of:
            assert resolved(target) is target


def test_an_alias_and_what_it_stands_for_are_one_target(device_tree: Path) -> None:
    thor, orin = TARGETS["jetson-thor"], TARGETS["jetson-orin"]
    assert parse_targets("jetson,jetson-thor") == (thor,)
    assert parse_targets("jetson-thor,jetson") == (thor,)
    assert parse_targets("jetson,jetson-orin") == (thor, orin)
    device_tree.write_bytes(b"nvidia,p3768-0000+p3767-0005\0nvidia,p3767-0005\0nvidia,tegra234\0")
    assert parse_targets("jetson,jetson-orin") == (orin,)
    assert parse_targets("intel-cpu,jetson,jetson-thor") == (TARGETS["intel-cpu"], orin, thor)
