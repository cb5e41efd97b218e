"""An index inside a bundle: built with it, verified with it, searched from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import lepton_edge
from lepton_edge import Index, Recipe
from lepton_edge.errors import InputError, IntegrityError, RecipeError, StorageError
from lepton_edge.recipe import Source
from lepton_edge.search.index import INSIDE
from tests.builder.parts import TEXTS, refused
from tests.core.parts import invoke


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "docs.jsonl"
    rows = [{"id": f"d{n}", "text": text, "page": n} for n, text in enumerate(TEXTS)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def recipe_for(folder: Path, data: Path, **changes: Any) -> Recipe:
    index = {"data": str(data), "id_column": "id"}
    given = {"task": "feature-extraction", "index": index, **changes}
    return Recipe(name="tiny", source=Source(path=str(folder)), **given)


def test_a_bundle_carries_its_index(tiny_bert: Path, data: Path, tmp_path: Path) -> None:
    bundle = lepton_edge.build(recipe_for(tiny_bert, data), output=tmp_path / "out")
    bundle.verify()
    assert any(path.startswith(f"{INSIDE}/") for path in bundle.manifest.files)
    with lepton_edge.load(bundle.path) as model:
        index = Index.open(bundle.path / INSIDE)
        (hit, *_) = index.query(model, TEXTS[2], top_k=2)
        assert (hit.id, hit.text, hit.metadata) == ("d2", TEXTS[2], {"page": 2})
        assert hit.score == pytest.approx(1, abs=1e-3)
        with pytest.raises(StorageError, match="inside the bundle"):
            index.add(model, ["one more"], ["new"])
    found = invoke("search", bundle.path, TEXTS[2], "--top-k", 1)
    assert found.exit_code == 0
    assert TEXTS[2] in found.stdout


def test_a_changed_index_is_no_longer_the_bundles(
    tiny_bert: Path, data: Path, tmp_path: Path
) -> None:
    bundle = lepton_edge.build(recipe_for(tiny_bert, data), output=tmp_path / "out")
    file = bundle.path / INSIDE / "index.json"
    file.write_text(file.read_text() + " ")
    with pytest.raises(IntegrityError, match=r"index/index\.json"):
        bundle.verify()


def test_an_index_needs_embeddings(tiny_bert: Path, data: Path, tmp_path: Path) -> None:
    recipe = recipe_for(tiny_bert, data, task="text-classification")
    error = refused(RecipeError, recipe, tmp_path / "out")
    assert "its task is text-classification" in error.message


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("docs.txt", "my card", "docs.txt"),
        ("docs.jsonl", '{"body": "my card"}', "docs.jsonl:1: there is no 'text'; it has body"),
    ],
)
def test_an_index_of_a_file_that_has_no_texts_is_refused_before_the_slow_work(
    tiny_bert: Path, tmp_path: Path, name: str, text: str, fault: str
) -> None:
    (tmp_path / name).write_text(text)
    steps: list[str] = []
    recipe = recipe_for(tiny_bert, tmp_path / name)
    error = refused(InputError, recipe, tmp_path / "out", progress=steps.append)
    assert fault in error.message
    assert steps == ["reading the model"]


def test_an_index_of_a_missing_file_is_refused_before_the_slow_work(
    tiny_bert: Path, tmp_path: Path
) -> None:
    steps: list[str] = []
    recipe = recipe_for(tiny_bert, tmp_path / "none.jsonl")
    error = refused(InputError, recipe, tmp_path / "out", progress=steps.append)
    assert "there is no file at" in error.message
    assert steps == ["reading the model"]


def test_a_faulty_row_leaves_nothing_behind(tiny_bert: Path, tmp_path: Path) -> None:
    file = tmp_path / "docs.jsonl"
    file.write_text('{"id": 1, "text": "my bank"}\n{"id": 2, "text": ""}\n')
    error = refused(InputError, recipe_for(tiny_bert, file), tmp_path / "out")
    assert f"{file}:2" in error.message
