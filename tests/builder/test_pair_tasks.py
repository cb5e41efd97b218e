"""Zero-shot classification and text ranking, beside what transformers and torch answer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tokenizers import Tokenizer

import lepton_edge
from lepton_edge import Model, Recipe, TorchSource
from lepton_edge.builder.huggingface import load_folder
from lepton_edge.bundle.manifest import Text
from lepton_edge.errors import InputError, SourceError
from lepton_edge.recipe import Source
from lepton_edge.runtime.text import TextEncoder, Tokenization
from lepton_edge.tasks.text_ranking import TextRanking, TextRankingOptions
from tests.builder.parts import TEXTS, edit_json, refused
from tests.kinds import KINDS, fast_tokenizer, save_kind

LONG = "the film was good and my card was late " * 12
DOCUMENTS = [*TEXTS, LONG, "größe 我的卡 يصل 🙂"]
CANDIDATES = ["film", "bank", "the order of my card", "我的卡"]
NLI: dict[str, Any] = {"id2label": {0: "contradiction", 1: "entailment", 2: "neutral"}}
# With token types; with a double separator and none, twice.
MODELS = {"wordpiece": "bert", "byte-level": "roberta", "unigram": "xlm-roberta"}
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

Array = NDArray[np.float32]


def _build(folder: Path, task: str, **changes: Any) -> Model:
    recipe = Recipe(
        name="tiny", source=Source(path=str(folder)), task=task, precision="fp32", **changes
    )
    bundle = lepton_edge.build(recipe, output=folder.parent / "out")
    return lepton_edge.load(bundle.path)


@pytest.fixture(scope="module", params=MODELS)
def nli(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Model]]:
    folder = tmp_path_factory.mktemp(request.param) / "model"
    save_kind(request.param, MODELS[request.param], folder, **NLI)
    with _build(folder, "zero-shot-classification") as model:
        yield folder, model


@pytest.mark.parametrize(
    ("labels", "options"),
    [
        (CANDIDATES, {}),
        (CANDIDATES, {"multi_label": True}),
        (CANDIDATES, {"hypothesis_template": "my {} was late?"}),
        (["film"], {}),
        (["film {braces}"], {"multi_label": True}),
    ],
)
def test_zero_shot_scores_are_the_transformers_pipelines(
    nli: tuple[Path, Model], labels: list[str], options: dict[str, Any]
) -> None:
    folder, model = nli
    pipeline = transformers.pipeline("zero-shot-classification", model=str(folder))
    for text in DOCUMENTS:
        expected = pipeline(text, candidate_labels=labels, **options)
        result = model(text, candidate_labels=labels, top_k=None, **options)
        scores = {entry.label: entry.score for entry in result.top}
        assert scores.keys() == set(labels)
        for label, score in zip(expected["labels"], expected["scores"], strict=True):
            assert scores[label] == pytest.approx(score, abs=1e-5)
        assert result.truncated or text != LONG
        assert not result.truncated or text not in TEXTS[:5]
        if "multi_label" not in options and len(labels) > 1:
            assert result.label == expected["labels"][0]
            assert result.labels == (result.label,)
        else:
            above = {label for label, score in scores.items() if score >= 0.5}
            assert set(result.labels) == above


def test_zero_shot_answers_are_the_same_together_and_alone(nli: tuple[Path, Model]) -> None:
    _, model = nli
    together = model(DOCUMENTS, candidate_labels=CANDIDATES)
    for text, result in zip(DOCUMENTS, together, strict=True):
        alone = model(text, candidate_labels=CANDIDATES)
        assert result.label == alone.label
        assert result.score == pytest.approx(alone.score, abs=1e-5)


def test_a_model_that_does_not_name_its_entailment_needs_the_recipe_to(tmp_path: Path) -> None:
    folder = save_kind("wordpiece", "bert", tmp_path / "model", id2label=dict(enumerate("xyz")))
    task = "zero-shot-classification"
    error = refused(SourceError, str(folder), tmp_path / "out", task=task)
    assert "no label of the model is named entailment; its labels are x, y, z" in error.message
    assert "task_options: {entailment: LABEL}" in str(error.hint)
    options = {"entailment": "z", "contradiction": "x", "hypothesis_template": "my {}"}
    with _build(folder, task, task_options=options) as model:
        assert model.manifest.task_config == {
            "labels": ["x", "y", "z"],
            "entailment": 2,
            "contradiction": 0,
            "hypothesis_template": "my {}",
        }
        pipeline = transformers.pipeline(task, model=str(folder))
        pipeline.model.config.label2id = {"x": 0, "y": 1, "entailment": 2}
        expected = pipeline(
            TEXTS[0], candidate_labels=CANDIDATES, hypothesis_template="my {}", multi_label=True
        )
        result = model(TEXTS[0], candidate_labels=CANDIDATES, multi_label=True)
    assert [entry.label for entry in result.top] == expected["labels"]
    np.testing.assert_allclose([e.score for e in result.top], expected["scores"], atol=1e-5)


@pytest.fixture(scope="module", params=MODELS)
def ranker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Model]]:
    folder = tmp_path_factory.mktemp(request.param) / "model"
    save_kind(request.param, MODELS[request.param], folder, id2label={0: "LABEL_0"})
    with _build(folder, "text-ranking") as model:
        yield folder, model


def test_a_ranker_is_calibrated_on_queries_and_documents(
    ranker: tuple[Path, Model], tmp_path: Path
) -> None:
    rows = [{"query": "where is my card", "documents": [text, "a bank"]} for text in TEXTS]
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = Recipe(
        name="small",
        source=Source(path=str(ranker[0])),
        task="text-ranking",
        precision="int8",
        calibration={"data": str(data)},
        parity={"mean_cosine": 0.9, "min_cosine": 0.9},
    )
    bundle = lepton_edge.build(recipe, output=tmp_path / "out")
    calibration = bundle.manifest.artifacts[0].calibration
    assert calibration
    assert (calibration.texts, calibration.data) == (len(TEXTS), "pairs.jsonl")


@pytest.mark.parametrize("query", ["where is my card", LONG])
def test_ranking_scores_are_the_models_own(ranker: tuple[Path, Model], query: str) -> None:
    folder, model = ranker
    result = model({"query": query, "documents": DOCUMENTS})
    logits = [_logits(folder, query, text, "longest_first") for text in DOCUMENTS]
    expected = torch.cat(logits).sigmoid().numpy()
    found = {document.index: document for document in result.documents}
    assert [document.index for document in result.documents] == list(
        np.argsort(-expected, kind="stable")
    )
    for index, text in enumerate(DOCUMENTS):
        assert found[index].text == text
        assert found[index].score == pytest.approx(float(expected[index]), abs=1e-5)
        assert found[index].truncated or LONG not in (query, text)


def test_ranking_is_the_same_together_and_alone(ranker: tuple[Path, Model]) -> None:
    _, model = ranker
    inputs = [{"query": query, "documents": DOCUMENTS} for query in DOCUMENTS[:3]]
    for asked, result in zip(inputs, model(inputs), strict=True):
        for document in result.documents:
            alone = model({**asked, "documents": [document.text]}).documents[0]
            assert document.score == pytest.approx(alone.score, abs=1e-5)


@pytest.mark.parametrize(
    ("block", "activation"),
    [
        ({}, "sigmoid"),
        ({"sentence_transformers": {"activation_fn": "torch.nn.Sigmoid"}}, "sigmoid"),
        ({"sentence_transformers": {"activation_fn": "torch.nn.Identity"}}, "identity"),
        ({"sbert_ce_default_activation_function": "torch.nn.Identity"}, "identity"),
    ],
)
def test_a_rankers_own_configuration_says_what_makes_its_score(
    ranker: tuple[Path, Model], tmp_path: Path, block: dict[str, Any], activation: str
) -> None:
    folder = Path(shutil.copytree(ranker[0], tmp_path / "model"))
    edit_json(folder / "config.json", **block)
    facts = load_folder(folder, Recipe(name="tiny", task="text-ranking")).facts
    config = TextRanking.configure(TextRankingOptions(), facts)
    assert (config.labels, config.activation) == (("LABEL_0",), activation)


def test_a_ranker_of_two_outputs_gives_the_probability_of_the_relevant_one(tmp_path: Path) -> None:
    folder = save_kind("wordpiece", "bert", tmp_path / "model", id2label={0: "yes", 1: "no"})
    error = refused(SourceError, str(folder), tmp_path / "out", task="text-ranking")
    assert "the model has 2 outputs, yes, no" in error.message
    assert "task_options: {relevant: LABEL}" in str(error.hint)
    with _build(folder, "text-ranking", task_options={"relevant": "yes"}) as model:
        result = model({"query": "my card", "documents": DOCUMENTS})
    for document in result.documents:
        logits = _logits(folder, "my card", document.text, "longest_first")
        assert document.score == pytest.approx(float(logits.softmax(0)[0]), abs=1e-5)


class Overlap(torch.nn.Module):
    """A number, or several, from the mean of the tokens' vectors."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.vectors = torch.nn.Embedding(150, 16)
        self.head = torch.nn.Linear(16, outputs)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        kept = mask.unsqueeze(-1).float()
        result: torch.Tensor = self.head((self.vectors(ids) * kept).sum(1) / kept.sum(1))
        return result


def test_a_torch_module_ranks_without_naming_its_output(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_str(KINDS["wordpiece"]())
    recipe = Recipe(name="tiny", precision="fp32")
    output = tmp_path / "out"
    source = TorchSource(Overlap(1), tokenizer, task="text-ranking")
    bundle = lepton_edge.build(source, recipe=recipe, output=output)
    assert bundle.manifest.task_config["labels"] == ["relevance"]
    with lepton_edge.load(bundle.path) as model:
        ranking = model({"query": "my card", "documents": DOCUMENTS})
    scores = [document.score for document in ranking.documents]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) > 1
    several = TorchSource(Overlap(3), tokenizer, task="text-ranking")
    with pytest.raises(SourceError, match="3 outputs for 1 labels"):
        lepton_edge.build(several, recipe=recipe, output=tmp_path / "other")


@settings(deadline=None, max_examples=50)
@given(
    st.sampled_from(sorted(KINDS)),
    st.text(min_size=1, max_size=90).filter(str.strip),
    st.text(min_size=1, max_size=90).filter(str.strip),
    st.integers(10, 60),
    st.sampled_from(["longest_first", "only_first"]),
)
def test_a_pair_has_the_tokens_that_transformers_gives_it(
    kinds: dict[str, tuple[Path, Any]],
    kind: str,
    first: str,
    second: str,
    max_length: int,
    truncation: Literal["longest_first", "only_first"],
) -> None:
    file, tokenizer = kinds[kind]
    limits = Text(max_length, "truncate", 1000, 0)
    encoder = TextEncoder(file, limits, Tokenization(truncation))
    names = ("the first", "the second")
    try:
        one, other = encoder.parts([first, second], names.__getitem__)
        found = encoder.join(one, other, names)
    except InputError:  # a text without a token, or with none left: refused, whoever else takes it
        return
    expected = tokenizer(
        first, second, truncation=truncation, max_length=max_length, return_token_type_ids=True
    )
    assert found.ids == expected["input_ids"]
    assert found.type_ids == expected["token_type_ids"]


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    folder = tmp_path_factory.mktemp("kinds")
    for kind, make in KINDS.items():
        (folder / f"{kind}.json").write_text(make(), encoding="utf-8")
    return {kind: (folder / f"{kind}.json", fast_tokenizer(kind)) for kind in KINDS}


def _logits(folder: Path, first: str, second: str, truncation: str) -> torch.Tensor:
    """What the plain torch model gives for a pair."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32
    ).eval()
    with torch.no_grad():
        feeds = tokenizer(first, second, truncation=truncation, return_tensors="pt")
        logits: torch.Tensor = model(**feeds).logits[0]
    return logits
