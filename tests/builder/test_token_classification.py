"""Token classification as built, beside the transformers pipeline on the same model."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import lepton_edge
from lepton_edge import Entities, Model, Recipe
from lepton_edge.bundle import Bundle
from lepton_edge.recipe import Source
from lepton_edge.tasks.offsets import whole_characters
from tests.builder.parts import TEXTS
from tests.core.parts import rewrite
from tests.kinds import KINDS, save_kind

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC", "E-ORG")
STRATEGIES = ("none", "simple", "first", "average", "max")
PIECES = (
    *" ".join(TEXTS).split(),
    *(
        "unhappy",
        "happier.",
        "größe",
        "(naïve)",
        "我的卡在哪里",
        "متى",
        "🙂👍",
        "cafe\u0301",
        "👩\u200d👧",
    ),
    *("\t", "\n", " ", "ﬁlm", "İ", "o'card", "[UNK]", "<unk>"),
)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


def _text(words: int, seed: int) -> str:
    return "my " + " ".join(random.Random(seed).choices(PIECES, k=words))


SHORT = [_text(words, words) for words in (1, 2, 5, 8, 13, 21)]
LONG = [_text(words, words) for words in (60, 110)]


@dataclass(frozen=True)
class Built:
    folder: Path
    bundle: Bundle

    def model(self, stride: int | None) -> Model:
        """The bundle's own artifact, as a recipe with that stride would have built it."""
        config = {**self.bundle.manifest.task_config, "stride": stride}
        return lepton_edge.load(rewrite(self.bundle, task_config=config).path)

    def pipeline(self, stride: int | None) -> Any:
        return transformers.pipeline(
            "token-classification",
            model=str(self.folder),
            dtype=torch.float32,
            stride=stride,
            aggregation_strategy="simple",
        )


@pytest.fixture(scope="module", params=KINDS)
def built(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Built]:
    work = tmp_path_factory.mktemp(request.param)
    save_kind(
        request.param,
        "bert",
        work / "model",
        "AutoModelForTokenClassification",
        id2label=dict(enumerate(LABELS)),
    )
    recipe = Recipe(name="tiny", source=Source(path=str(work / "model")), precision="fp32")
    return Built(work / "model", lepton_edge.build(recipe, output=work / "out"))


def _assert_same(text: str, result: Entities, expected: list[dict[str, Any]]) -> None:
    key = "entity" if expected and "entity" in expected[0] else "entity_group"
    assert [(each.label, each.start, each.end) for each in result.entities] == [
        (each[key], *whole_characters(text, each["start"], each["end"])) for each in expected
    ]
    scores = [float(each["score"]) for each in expected]
    assert [each.score for each in result.entities] == pytest.approx(scores, abs=1e-5)
    for entity in result.entities:
        assert entity.text == text[entity.start : entity.end]


def test_a_build_knows_the_task_and_its_labels(built: Built) -> None:
    manifest = built.bundle.manifest
    assert manifest.task == "token-classification"
    assert manifest.task_config == {"labels": list(LABELS), "stride": None}
    assert manifest.artifacts[0].compiled.outputs[0].shape == ("batch", "length", len(LABELS))
    assert manifest.artifacts[0].parity.equal_labels == 1.0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_entities_are_the_pipelines(built: Built, strategy: str) -> None:
    pipeline, found = built.pipeline(None), 0
    with built.model(None) as model:
        texts = [*SHORT, *LONG]
        results = model(texts, aggregation_strategy=strategy)
    for text, result in zip(texts, results, strict=True):
        expected = pipeline(text, aggregation_strategy=strategy)
        _assert_same(text, result, expected)
        assert result.truncated is (len(pipeline.tokenizer(text).input_ids) > 64)
        found += len(expected)
    assert found > 20


@pytest.mark.parametrize("strategy", STRATEGIES[1:])
def test_entities_of_windows_are_the_pipelines(built: Built, strategy: str) -> None:
    pipeline = built.pipeline(9)
    with built.model(9) as model:
        texts = [*SHORT, *LONG]
        results = model(texts, aggregation_strategy=strategy)
    for text, result in zip(texts, results, strict=True):
        _assert_same(text, result, pipeline(text, aggregation_strategy=strategy))
        assert not result.truncated
    assert results[-1].entities[-1].end > len(LONG[-1]) * 0.9


def test_tokens_of_windows_are_each_given_once(built: Built) -> None:
    """What the pipeline refuses: it would give the tokens that windows share twice."""
    with built.model(9) as model:
        result = model(LONG[0], aggregation_strategy="none", ignore_labels=())
        tokens = model.encoder.windows([LONG[0]])
    assert len(tokens[0]) > 1
    wide = [(each.start, each.end) for each in result.entities if each.start < each.end]
    assert wide == sorted(wide)
    assert {"O"} < {entity.label for entity in result.entities}


def test_other_labels_are_ignored_as_the_pipeline_does(built: Built) -> None:
    pipeline, text = built.pipeline(None), SHORT[-1]
    with built.model(None) as model:
        result = model(text, aggregation_strategy="max", ignore_labels=["PER", "MISC"])
    expected = pipeline(text, aggregation_strategy="max", ignore_labels=["PER", "MISC"])
    _assert_same(text, result, expected)
    assert not {"PER", "MISC"} & {entity.label for entity in result.entities}
    with built.model(None) as model:
        everything = model(text, aggregation_strategy="max", ignore_labels=[])
    kept = [each for each in everything.entities if each.label not in ("PER", "MISC")]
    assert list(result.entities) == kept
