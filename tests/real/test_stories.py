"""A real language model, small: its stories are the original's, token for token."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import lepton_edge
from lepton_edge import GenerativeModel, Recipe
from lepton_edge.recipe import Source

PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def folder(shared: Path) -> Path:
    return shared / "models" / "stories260k"


def built(folder: Path, output: Path, precision: str) -> lepton_edge.Bundle:
    source = Source(path=str(folder))
    recipe = Recipe(name="stories", source=source).changed(precision=precision)
    return lepton_edge.build(recipe, output=output)


@pytest.fixture(scope="module")
def model(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GenerativeModel]:
    """Compiled at fp32."""
    bundle = built(folder, tmp_path_factory.mktemp("bundles"), "fp32")
    with lepton_edge.load(bundle.path) as opened:
        assert isinstance(opened, GenerativeModel)
        yield opened


def original(folder: Path, prompt: str, tokens: int) -> list[int]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    source = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    with torch.no_grad():
        found = source.generate(ids, max_new_tokens=tokens, do_sample=False)
    return [int(token) for token in found[0, ids.shape[1] :]]


@pytest.mark.parametrize("prompt", [PROMPT, "Lily", "The big dog was sad because"])
def test_64_greedy_tokens_are_the_originals(
    model: GenerativeModel, folder: Path, prompt: str
) -> None:
    answer = model.generate(prompt, max_tokens=64, temperature=0)
    assert list(answer.tokens) == original(folder, prompt, 64)


def test_the_story_is_the_one_of_its_model_card(model: GenerativeModel, folder: Path) -> None:
    card = (folder / "README.md").read_text(encoding="utf-8")
    told = re.search(r"^> (.*?)\n\n|^> (.*)\Z", card, re.DOTALL | re.MULTILINE)
    assert told
    story = (told[1] or told[2]).strip()
    answer = model.generate(PROMPT, max_tokens=200, temperature=0)
    assert (PROMPT + answer.text).strip().startswith(story[:400])


@pytest.mark.parametrize(
    ("precision", "ratio"), [("auto", 1.01), ("int8-weights", 1.02), ("int4-weights", 1.2)]
)
def test_smaller_weights_still_tell_stories(
    folder: Path, tmp_path: Path, precision: str, ratio: float
) -> None:
    bundle = built(folder, tmp_path, precision)
    (artifact,) = bundle.manifest.artifacts
    found = artifact.generation
    assert found is not None
    assert found.original_perplexity is not None
    assert found.perplexity / found.original_perplexity < ratio
    with lepton_edge.load(bundle.path) as opened:
        story = opened.generate(PROMPT, max_tokens=60, temperature=0).text
    assert story.startswith(", there was a")


def test_a_regular_expression_shapes_a_story(model: GenerativeModel) -> None:
    answer = model.generate(PROMPT, regex=r", there (was|lived) an? [a-z]{3,12}\.", max_tokens=40)
    assert answer.finish_reason == "stop"
    assert re.fullmatch(r", there (was|lived) an? [a-z]{3,12}\.", answer.text)
