"""Fill-mask of every family, beside the transformers pipeline on the same model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

import lepton_edge
from lepton_edge import FilledMasks, Model, Recipe
from lepton_edge.builder import families
from lepton_edge.errors import InputError, SourceError
from lepton_edge.recipe import Source
from tests.builder.parts import edit_json, refused
from tests.kinds import save_kind

# Each with a tokenizer of the kind that its checkpoints have.
FAMILIES = {
    "albert": "unigram",
    "bert": "wordpiece",
    "camembert": "unigram",
    "deberta-v2": "unigram",
    "distilbert": "wordpiece",
    "electra": "wordpiece",
    "modernbert": "byte-level",
    "mpnet": "wordpiece",
    "roberta": "byte-level",
    "xlm-roberta": "unigram",
}
# One layer, in its own words; and one of each of its two kinds.
LAYERS = {"distilbert": {"n_layers": 1}, "modernbert": {"num_hidden_layers": 2}}
TEXTS = (
    "the film was {} and my card",
    "{} is my new card",
    "where is my {}",
    "größe 🙂👍 my {} café 我的卡 {} يصل",
    "un{}able ({}) bank{}",
)
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def _build(folder: Path, output: Path, **changes: Any) -> Model:
    recipe = Recipe(name="tiny", source=Source(path=str(folder)), precision="fp32", **changes)
    return lepton_edge.load(lepton_edge.build(recipe, output=output).path)


def _with_masks(model: Model) -> list[str]:
    mask = model.manifest.task_config["mask_token"]
    return [text.replace("{}", mask) for text in TEXTS]


def _masks_of(answer: Any) -> list[list[dict[str, Any]]]:
    """The pipeline has a list of masks only where there are several."""
    return answer if isinstance(answer[0], list) else [answer]


@pytest.fixture(scope="module", params=FAMILIES)
def built(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Model, Any]]:
    """A family's model as built and as transformers has it."""
    family = request.param
    work = tmp_path_factory.mktemp(family)
    folder, head = work / "model", "AutoModelForMaskedLM"
    save_kind(FAMILIES[family], family, folder, head, **LAYERS.get(family, {}))
    pipeline = transformers.pipeline("fill-mask", model=str(folder))
    with _build(folder, work / "out") as model:
        yield model, pipeline


def test_every_family_has_its_turn() -> None:
    assert FAMILIES.keys() == families.ENCODERS.keys()


def test_tokens_and_scores_are_the_transformers_pipelines(built: tuple[Model, Any]) -> None:
    model, pipeline = built
    assert model.manifest.task == "fill-mask"
    for text in _with_masks(model):
        masks = _masks_of(pipeline(text, top_k=4))
        result = model(text, top_k=4)
        assert len(result.masks) == len(masks) == text.count(pipeline.tokenizer.mask_token)
        for mask, expected in zip(result.masks, masks, strict=True):
            assert text[mask.start : mask.end] == pipeline.tokenizer.mask_token
            found = [each.score for each in mask.predictions]
            np.testing.assert_allclose(found, [each["score"] for each in expected], atol=1e-5)
            tokens = [each.token for each in mask.predictions]
            assert tokens == [each["token_str"] for each in expected]


def test_texts_together_answer_as_they_do_alone(built: tuple[Model, Any]) -> None:
    model, _ = built
    texts = _with_masks(model)
    for text, together in zip(texts, model(texts), strict=True):
        _assert_same(model(text), together)


def test_the_scores_of_targets_are_the_pipelines(built: tuple[Model, Any]) -> None:
    model, pipeline = built
    text = _with_masks(model)[0]
    words = ["card", "film", "bank"]
    (mask,) = model(text, targets=words).masks
    # A word inside a sentence, which the pipeline does not take a bare one for.
    vocabulary, tokenizer = pipeline.tokenizer.get_vocab(), pipeline.tokenizer
    marked = [next(m + w for m in ("Ġ", "▁", "") if m + w in vocabulary) for w in words]
    expected = pipeline(text, targets=marked)
    assert [each.token for each in mask.predictions] == [each["token_str"] for each in expected]
    assert {each.token.strip() for each in mask.predictions} == set(words)
    found = [each.score for each in mask.predictions]
    np.testing.assert_allclose(found, [each["score"] for each in expected], atol=1e-5)
    assert tokenizer.mask_token not in mask.predictions[0].text


def test_a_target_of_several_tokens_is_refused_by_name(built: tuple[Model, Any]) -> None:
    model, _ = built
    with pytest.raises(InputError, match=r"^target 2 \('filmgoodcard'\) is \d+ tokens of the mod"):
        model(_with_masks(model)[0], targets=["film", "filmgoodcard"])


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Model, Any]]:
    work = tmp_path_factory.mktemp("byte-level")
    save_kind("byte-level", "roberta", work / "model", "AutoModelForMaskedLM")
    pipeline = transformers.pipeline("fill-mask", model=str(work / "model"))
    with _build(work / "model", work / "out") as model:
        yield model, pipeline


@pytest.mark.parametrize(
    "text", ["the film was <mask> and", "<mask> film 🙂", "größe is<mask> card", "my <mask>"]
)
def test_a_filled_text_is_what_a_tokenizer_that_keeps_all_makes_of_its_tokens(
    byte_level: tuple[Model, Any], text: str
) -> None:
    model, pipeline = byte_level
    (mask,) = model(text, top_k=300).masks
    expected = [each["sequence"] for each in pipeline(text, top_k=300)]
    special = set(pipeline.tokenizer.all_special_tokens)  # which are not shown there
    # Tokens of white space, and parts of characters, are no words to put somewhere.
    pairs = [
        (each.text, sequence)
        for each, sequence in zip(mask.predictions, expected, strict=True)
        if each.token.strip() and each.token not in special and "\ufffd" not in sequence
    ]
    assert len(pairs) > 100
    assert [found for found, _ in pairs] == [sequence.lstrip() for _, sequence in pairs]


def test_a_tokenizer_without_a_mask_token_cannot_be_built_for_it(tmp_path: Path) -> None:
    folder = save_kind("wordpiece", "bert", tmp_path / "model", "AutoModelForMaskedLM")
    edit_json(folder / "tokenizer_config.json", mask_token=None)
    error = refused(SourceError, str(folder), tmp_path / "out")
    assert error.message == "the model's tokenizer names no mask token"
    assert "task_options: {mask_token: '[MASK]'}" in str(error.hint)
    with _build(
        folder, tmp_path / "out", task="fill-mask", task_options={"mask_token": "[MASK]"}
    ) as model:
        assert len(model("my [MASK]").masks[0].predictions) == 5


def _assert_same(one: FilledMasks, other: FilledMasks) -> None:
    for left, right in zip(one.masks, other.masks, strict=True):
        assert (left.start, left.end) == (right.start, right.end)
        pairs = list(zip(left.predictions, right.predictions, strict=True))
        assert [a.token for a, _ in pairs] == [b.token for _, b in pairs]
        np.testing.assert_allclose([a.score for a, _ in pairs], [b.score for _, b in pairs], 1e-4)
