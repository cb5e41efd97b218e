"""Question answering as built, beside the same model in torch read by the task's definition."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray

import lepton_edge
from lepton_edge import Model, Question, Recipe
from lepton_edge.recipe import Source
from tests.builder.parts import TEXTS
from tests.extractive import best_spans
from tests.kinds import KINDS, save_kind

WORDS = (*" ".join(TEXTS).split(), "unhappy", "happier.", "größe", "我的卡在哪里", "متى", "🙂👍")
# With token types, and with two sorts of special tokens between the texts.
FAMILIES = {"wordpiece": "bert", "byte-level": "roberta", "unigram": "xlm-roberta"}
MODES = [
    {"top_k": 1, "max_answer_tokens": 15, "no_answer": False, "align_to_words": True},
    {"top_k": 3, "max_answer_tokens": 4, "no_answer": True, "align_to_words": True},
    {"top_k": 2, "max_answer_tokens": 200, "no_answer": True, "align_to_words": False},
]
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def _words(count: int, seed: int) -> str:
    return "my " + " ".join(random.Random(seed).choices(WORDS, k=count))


QUESTIONS = [Question(_words(1, seed), _words(9 * seed, 99 - seed)) for seed in range(8)]


@dataclass(frozen=True)
class Built:
    model: Model
    folder: Path
    original: Any

    def logits(self, ids: list[int], types: list[int]) -> NDArray[np.float32]:
        feeds = {"input_ids": ids, "attention_mask": [1] * len(ids)}
        if self.original.config.model_type == "bert":  # zeros for the others
            feeds["token_type_ids"] = types
        with torch.no_grad():
            output = self.original(**{name: torch.tensor([row]) for name, row in feeds.items()})
        return torch.stack((output.start_logits[0], output.end_logits[0]), dim=-1).numpy()


@pytest.fixture(scope="module", params=KINDS)
def built(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Built]:
    work = tmp_path_factory.mktemp(request.param)
    head, family = "AutoModelForQuestionAnswering", FAMILIES[request.param]
    folder = save_kind(request.param, family, work / "model", head)
    recipe = Recipe(
        name="tiny",
        source=Source(path=str(folder)),
        task="question-answering",
        precision="fp32",
        task_options={"window": 48, "stride": 12},
    )
    original = transformers.AutoModelForQuestionAnswering.from_pretrained(
        folder, dtype=torch.float32
    ).eval()
    with lepton_edge.load(lepton_edge.build(recipe, output=work / "out").path) as model:
        yield Built(model, folder, original)


def test_a_build_says_how_long_its_windows_are(built: Built) -> None:
    manifest = built.model.manifest
    assert manifest.task_config == {"window": 48, "stride": 12}
    outputs = manifest.artifacts[0].compiled.outputs
    assert [(spec.name, spec.shape) for spec in outputs] == [
        ("start_logits", ("batch", "length")),
        ("end_logits", ("batch", "length")),
    ]
    assert manifest.artifacts[0].parity.equal_labels == 1.0


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: f"top{mode['top_k']}")
def test_answers_are_those_of_the_definition(built: Built, mode: dict[str, Any]) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(built.folder / "tokenizer.json"))
    results = built.model(QUESTIONS, **mode)
    windows = 0
    for given, result in zip(QUESTIONS, results, strict=True):
        expected = best_spans(
            tokenizer, 48, 12, given.question, given.context, built.logits, **mode
        )
        windows += 1 + len(tokenizer.encode(given.question, given.context).overflowing)
        spans = [(answer.text, answer.start, answer.end) for answer in result.top]
        assert spans == [(text, start, end) for text, _, start, end in expected]
        scores = [answer.score for answer in result.top]
        assert scores == pytest.approx([score for _, score, _, _ in expected], abs=1e-5)
    assert windows > len(QUESTIONS) + 6


def test_questions_together_are_answered_as_alone(built: Built) -> None:
    for given, together in zip(QUESTIONS, built.model(QUESTIONS), strict=True):
        alone = built.model(given)
        assert (alone.answer, alone.start) == (together.answer, together.start)
        assert alone.score == pytest.approx(together.score, abs=1e-5)


def test_the_task_is_the_checkpoints_own(built: Built, tmp_path: Path) -> None:
    bundle = lepton_edge.build(str(built.folder), output=tmp_path, precision="fp32")
    assert bundle.manifest.task == "question-answering"
    assert bundle.manifest.task_config == {"window": 384, "stride": 128}
    with lepton_edge.load(bundle.path) as model:  # which reads 64 tokens at once
        assert model(QUESTIONS[-1]).answer in QUESTIONS[-1].context
