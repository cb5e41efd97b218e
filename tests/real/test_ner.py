"""A real tagger on real sentences: as good as its README says, and the pipeline's own entities."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lepton_edge
from lepton_edge import Model, Recipe
from lepton_edge.recipe import Source

Span = tuple[str, int, int]


@pytest.fixture(scope="module")
def rows(shared: Path) -> list[dict[str, Any]]:
    file = shared / "data" / "ner_test.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def folder(shared: Path) -> Path:
    return shared / "models" / "ner-minilm"


@pytest.fixture(scope="module")
def model(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """Compiled at fp32."""
    recipe = Recipe(name="ner", source=Source(path=str(folder)), precision="fp32")
    bundle = lepton_edge.build(recipe, output=tmp_path_factory.mktemp("bundles"))
    with lepton_edge.load(bundle.path) as opened:
        yield opened


def spans(tags: list[str]) -> set[Span]:
    """The entities that IOB2 tags say: kind, first word, and the word after the last."""
    found: set[Span] = set()
    start: int | None = None
    for place, tag in enumerate([*tags, "O"]):
        inside = start is not None and tag == f"I-{tags[start].split('-')[-1]}"
        if start is not None and not inside:
            found.add((tags[start].split("-")[-1], start, place))
            start = None
        if tag != "O" and start is None:
            start = place
    return found


def entity_f1(model: Model, rows: list[dict[str, Any]]) -> float:
    """Of exact entities. A word's tag is that of its first token."""
    results = model(
        [" ".join(row["tokens"]) for row in rows], aggregation_strategy="none", ignore_labels=()
    )
    right = given = gold = 0
    for row, result in zip(rows, results, strict=True):
        tags, start = [], 0
        labels = {entity.start: entity.label for entity in reversed(result.entities)}
        for word in row["tokens"]:
            tags.append(labels.get(start, "O"))
            start += len(word) + 1
        found, expected = spans(tags), spans(row["tags"])
        right += len(found & expected)
        given += len(found)
        gold += len(expected)
    return 2 * right / (given + gold)


def test_entities_are_found_as_well_as_the_readme_says(
    model: Model, rows: list[dict[str, Any]]
) -> None:
    assert len(rows) == 2077
    assert model.manifest.task == "token-classification"
    assert entity_f1(model, rows) == pytest.approx(0.7118, abs=0.0005)


def test_the_precision_without_asking_is_as_good(
    folder: Path, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    bundle = lepton_edge.build(str(folder), output=tmp_path)
    assert bundle.manifest.artifacts[0].compiled.precision == "fp16"
    with lepton_edge.load(bundle.path) as model:
        assert entity_f1(model, rows) == pytest.approx(0.7118, abs=0.003)


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Iterator[Any]:
    """On one thread: sentences one by one lose more to threads waiting than they gain."""
    import torch
    import transformers

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield transformers.pipeline("token-classification", model=str(folder), dtype=torch.float32)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
def test_entities_are_the_transformers_pipelines(
    model: Model, pipeline: Any, rows: list[dict[str, Any]], strategy: str
) -> None:
    texts = [" ".join(row["tokens"]) for row in rows[::10]][:200]
    for text, result in zip(texts, model(texts, aggregation_strategy=strategy), strict=True):
        expected = pipeline(text, aggregation_strategy=strategy)
        key = "entity" if strategy == "none" else "entity_group"
        assert [(each.label, each.start, each.end) for each in result.entities] == [
            (each[key], each["start"], each["end"]) for each in expected
        ]
        scores = [float(each["score"]) for each in expected]
        assert [each.score for each in result.entities] == pytest.approx(scores, abs=1e-4)
        assert all(text[each.start : each.end] == each.text for each in result.entities)


def test_names_are_found_in_a_sentence(model: Model) -> None:
    text = "Angela Merkel met Barack Obama in Berlin."
    assert [(each.label, each.text) for each in model(text).entities] == [
        ("PER", "Angela Merkel"),
        ("PER", "Barack Obama"),
        ("LOC", "Berlin"),
    ]
