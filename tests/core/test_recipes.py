"""The recipes that are shipped: each can be read, and names what is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from lepton_edge import recipes
from lepton_edge.errors import RecipeError
from lepton_edge.recipe import load_recipe
from lepton_edge.tasks import TASKS


def test_there_are_recipes() -> None:
    assert "demo-intents" in recipes.names()
    assert recipes.names() == sorted(recipes.names())


@pytest.mark.parametrize("name", recipes.names())
def test_a_shipped_recipe_is_read_and_its_model_is_there(name: str) -> None:
    recipe = load_recipe(recipes.path(name))
    assert recipe.name == name
    assert recipe.description
    if recipe.source is None:  # for any model
        assert recipe.task
        assert f"lepton-edge build {name} --model" in recipes.path(name).read_text()
        return
    assert recipe.license, "whoever installs it must know what they may do with it"
    path = recipe.source.path or recipe.source.onnx
    assert recipe.source.hub or Path(str(path)).exists()


def test_every_recipe_in_the_folder_is_listed() -> None:
    files = {path.name for path in recipes.directory().iterdir() if path.suffix.startswith(".y")}
    assert files == {f"{name}.yaml" for name in recipes.names()}


def test_every_task_has_a_recipe() -> None:
    found = {load_recipe(recipes.path(name)).task for name in recipes.names()}
    assert found == set(TASKS)


@pytest.mark.parametrize("name", ["none", "", "../pyproject", "demo-intents.yaml", "Demo-intents"])
def test_another_name_is_refused_with_those_known(name: str) -> None:
    with pytest.raises(RecipeError, match="there is no built-in recipe") as caught:
        recipes.path(name)
    assert repr(name) in caught.value.message
    assert caught.value.hint is not None
    assert "lepton-edge recipes lists them" in caught.value.hint
    assert "demo-intents" in caught.value.hint


def test_recipes_beside_the_package_win_in_a_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wheel has them inside the package; a checkout beside it."""
    package = tmp_path / "lepton_edge"
    package.mkdir()
    monkeypatch.setattr(recipes, "__file__", str(package / "recipes.py"))
    assert recipes.directory() == tmp_path / "recipes"
    assert recipes.names() == []
    (package / "recipes").mkdir()
    (package / "recipes" / "mine.yaml").write_text("name: mine\nsource: m\n")
    assert recipes.directory() == package / "recipes"
    assert recipes.path("mine") == package / "recipes" / "mine.yaml"
