"""The parity gate: its figures are right, and nothing passes it that answers otherwise."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

import lepton_edge
from lepton_edge import Recipe, registry
from lepton_edge.backend import TensorSpec
from lepton_edge.builder import parity
from lepton_edge.bundle.manifest import Artifact, Parity
from lepton_edge.bundle.manifest import Text as BundleText
from lepton_edge.errors import ParityError
from lepton_edge.recipe import Parity as Limits
from lepton_edge.recipe import Source, Text
from lepton_edge.runtime.text import TextEncoder
from lepton_edge.target import GIB, TARGETS, Target
from lepton_edge.tasks.text_ranking import TextRanking, TextRankingConfig
from lepton_edge.testing import word_tokenizer
from tests.builder.parts import TEXTS, left_behind, refused
from tests.tiny import save_tiny


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go, to see that none stay."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def fake_target(fake_backend: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A target that `FakeBackend` builds for: it ignores what the graph computes."""
    target = Target("fake", "fake", "FAKE", "none", GIB, "for tests")
    monkeypatch.setitem(TARGETS, "fake", target)
    return "fake"


def recipe_for(folder: Path, **changes: Any) -> Recipe:
    return Recipe(name="tiny", source=Source(path=str(folder)), **changes)


# The figures.


@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_figures_in_the_manifest_are_right(tiny_bert: Path, out: Path, precision: Any) -> None:
    """Computed again: transformers on each text alone, the artifact on all in a padded batch."""
    recipe = recipe_for(tiny_bert, precision=precision, parity={"sample": TEXTS})
    bundle = lepton_edge.build(recipe, output=out)
    (artifact,) = bundle.manifest.artifacts
    expected, found = _expected(tiny_bert), _found(bundle.path, artifact)
    error = np.abs(found - expected)
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    cosine = (found * expected).sum(axis=1) / lengths

    measured = artifact.parity
    assert measured.texts == len(TEXTS)
    # Noise of the arithmetic itself, which differs from one run to another on some processors.
    noise = 3e-7
    assert measured.max_error == pytest.approx(error.max(), rel=0.01, abs=noise)
    assert measured.mean_error == pytest.approx(error.mean(), rel=0.01, abs=noise)
    assert 1 - measured.min_cosine == pytest.approx(1 - cosine.min(), rel=0.02, abs=noise)
    assert 1 - measured.mean_cosine == pytest.approx(1 - cosine.mean(), rel=0.02, abs=noise)
    assert measured.equal_labels == (found.argmax(axis=1) == expected.argmax(axis=1)).mean()
    assert measured.compute in ("fp32", "bf16")
    if precision == "auto":
        assert measured.max_error > 1e-6, "half-precision weights cannot be exact"


def test_embeddings_have_no_labels_to_compare(tmp_path: Path, out: Path) -> None:
    folder = save_tiny("bert", tmp_path / "encoder", "AutoModel")
    bundle = lepton_edge.build(folder, output=out)
    assert bundle.manifest.artifacts[0].parity.equal_labels is None


def test_built_in_sentences_are_the_sample_where_there_is_none(tiny_bert: Path, out: Path) -> None:
    bundle = lepton_edge.build(tiny_bert, output=out)
    assert bundle.manifest.artifacts[0].parity.texts == 32


def test_limits_on_texts_do_not_stop_the_gate(tiny_bert: Path, out: Path) -> None:
    """A bundle that refuses long texts is compared all the same, on texts that are cut."""
    text = Text(max_length=6, on_long_text="refuse", max_characters=10)
    bundle = lepton_edge.build(recipe_for(tiny_bert, text=text), output=out)
    assert bundle.manifest.artifacts[0].parity.texts == 32
    assert bundle.manifest.text.on_long_text == "refuse"
    assert bundle.manifest.text.max_characters == 10


def test_rankers_of_one_number_are_compared_over_the_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cosine of one number with another says whether both are positive, and no more."""
    file = tmp_path / "tokenizer.json"
    file.write_text(word_tokenizer(), encoding="utf-8")
    task = TextRanking(TextRankingConfig(("score",), 0, "sigmoid"))
    encoder = TextEncoder(file, BundleText(32, "truncate", 1000, 0), task.tokenization())
    texts = ["w1", "w20 w30", "w90 w91 w92"]

    def session(compute: Callable[[Any], Any]) -> Any:
        inputs = (TensorSpec("input_ids", "int64", ("batch", "length")),)
        call = lambda feeds: {"logits": compute(feeds["input_ids"])}  # noqa: E731
        return SimpleNamespace(inputs=inputs, details={}, run=call, infer=call)

    original = session(lambda ids: ids.mean(axis=1, keepdims=True))
    same = parity.measure(original, original, encoder, task, texts)
    assert [same.min_cosine, same.mean_cosine] == pytest.approx([1, 1])
    constant = session(lambda ids: np.full((len(ids), 1), 9.0))
    other = parity.measure(original, constant, encoder, task, texts)
    inputs, parameters = task.examples(texts)
    pairs = [pair for (pair,) in task.tokenize(inputs, encoder, parameters, 1)]
    numbers = [np.mean(pair.ids) for pair in pairs]
    expected = sum(numbers) / np.sqrt(3 * np.square(numbers).sum())
    assert [other.min_cosine, other.mean_cosine] == pytest.approx([expected, expected])
    assert expected < 0.99
    monkeypatch.setattr(parity, "_ROWS", 1)  # however many are compared at a time
    assert parity.measure(original, constant, encoder, task, texts) == other


# The gate.


@pytest.mark.parametrize(
    ("limit", "value"),
    [("max_error", 1e-9), ("mean_error", 1e-9), ("min_cosine", 1.0), ("mean_cosine", 1.0)],
)
def test_a_build_beyond_a_limit_fails_and_leaves_nothing(
    tiny_bert: Path, out: Path, scratch: Path, limit: str, value: float
) -> None:
    recipe = recipe_for(tiny_bert, precision="fp16", parity={limit: value})
    error = refused(ParityError, recipe, out)
    assert f"{limit} is " in error.message
    assert f"the limit is {value:g}" in error.message
    assert "intel-cpu (precision fp16)" in error.message
    assert "on 32 texts" in error.message
    assert "precision: fp32" in str(error.hint)
    assert "parity:" in str(error.hint)
    assert left_behind(scratch) == []


def test_a_failed_build_leaves_the_bundle_that_it_was_to_replace(
    tiny_bert: Path, out: Path
) -> None:
    before = lepton_edge.build(recipe_for(tiny_bert), output=out)
    with pytest.raises(ParityError):
        lepton_edge.build(recipe_for(tiny_bert, parity={"max_error": 1e-9}), output=out, force=True)
    assert left_behind(out) == ["tiny-1.0.0"]
    after = lepton_edge.open_bundle(before.path)
    assert after.manifest == before.manifest
    after.verify()


def test_a_backend_that_computes_something_else_fails(
    tiny_bert: Path, out: Path, scratch: Path, fake_target: str
) -> None:
    error = refused(ParityError, recipe_for(tiny_bert), out, target=fake_target)
    assert "the model compiled for fake" in error.message
    assert "mean_cosine is " in error.message
    assert "equal_labels is " in error.message
    assert left_behind(scratch) == []


def test_a_target_that_fails_fails_the_whole_build(
    tiny_bert: Path, out: Path, fake_target: str
) -> None:
    error = refused(ParityError, recipe_for(tiny_bert), out, target=f"intel-cpu,{fake_target}")
    assert "the model compiled for fake" in error.message


@pytest.mark.parametrize(
    ("backend", "head", "named"),
    [
        ("IgnoresTheMask", "AutoModelForSequenceClassification", "cosine is "),
        ("IgnoresTheMask", "AutoModel", "min_cosine is "),
        ("MixesUpRows", "AutoModelForSequenceClassification", "equal_labels is "),
        ("MixesUpRows", "AutoModel", "min_cosine is "),
        ("GivesNaN", "AutoModel", "output is not a number"),
        ("AddsALittle", "AutoModelForSequenceClassification", "mean_cosine is "),
    ],
)
def test_a_backend_that_answers_wrongly_is_caught(
    tmp_path: Path,
    out: Path,
    crooked: Callable[[str], str],
    backend: str,
    head: str,
    named: str,
) -> None:
    """At the limits that hold where a recipe sets none."""
    folder = save_tiny("bert", tmp_path / "model", head)
    error = refused(ParityError, folder, out, target=crooked(backend))
    assert named in error.message


def test_the_backend_that_bends_nothing_passes(
    tiny_bert: Path, out: Path, crooked: Callable[[str], str]
) -> None:
    """So it is the bending that the gate sees."""
    bundle = lepton_edge.build(tiny_bert, output=out, target=crooked("Crooked"))
    assert bundle.manifest.artifacts[0].backend == "crooked"


@pytest.mark.parametrize(("value", "part"), [("nan", "query.weight"), ("inf", "classifier.weight")])
def test_weights_that_are_no_numbers_fail(
    tiny_bert: Path, tmp_path: Path, out: Path, value: str, part: str
) -> None:
    def damage(weight: torch.Tensor) -> None:
        weight[..., 0] = float(value)

    error = refused(ParityError, _changed(tiny_bert, tmp_path, part, damage), out)
    assert error.message == "the original model's own output is not a number"
    assert "damaged" in str(error.hint)


def test_weights_beyond_half_precision_fail(tiny_bert: Path, tmp_path: Path, out: Path) -> None:
    """They would be cut to the largest number that the format has."""

    def enlarge(weight: torch.Tensor) -> None:
        weight[0, :4], weight[1, 4:8] = 3e6, 1e5

    folder = _changed(tiny_bert, tmp_path, "classifier.weight", enlarge)
    error = refused(ParityError, folder, out, precision="fp16")
    assert "precision: fp32" in str(error.hint)
    assert lepton_edge.build(folder, output=out, precision="fp32").path.is_dir()


# Which limits hold where a recipe sets none.

GOOD = {"max_error": 0.0, "mean_error": 0.0, "min_cosine": 1.0, "mean_cosine": 1.0}


@pytest.mark.parametrize(
    ("precision", "labels", "figure", "value", "passes"),
    [
        ("fp32", 1.0, "min_cosine", 0.9998, False),
        ("fp32", 1.0, "min_cosine", 0.9999, True),
        ("fp32", 1.0, "equal_labels", 0.97, False),
        ("auto", 1.0, "min_cosine", 0.5, True),
        ("auto", None, "min_cosine", 0.98, False),
        ("auto", 1.0, "mean_cosine", 0.98, False),
        ("auto", 1.0, "equal_labels", 0.96, True),
        ("auto", 1.0, "equal_labels", 0.94, False),
        ("fp32", 1.0, "max_error", 1e6, True),
    ],
)
def test_limits_where_a_recipe_sets_none(
    precision: Any, labels: float | None, figure: str, value: float, passes: bool
) -> None:
    figures = {"texts": 32, **GOOD, "equal_labels": labels, figure: value}
    measured = Parity(**figures)
    if passes:
        parity.check(measured, Limits(), precision, "intel-cpu")
    else:
        with pytest.raises(ParityError, match=figure):
            parity.check(measured, Limits(), precision, "intel-cpu")


def test_every_fault_is_named() -> None:
    measured = Parity(4, 0.5, 0.25, 0.5, 0.6, 0.75)
    limits = Limits(max_error=0.1, mean_error=0.2, min_cosine=0.9, mean_cosine=0.9)
    with pytest.raises(ParityError) as caught:
        parity.check(measured, limits, "auto", "jetson")
    for fault in (
        "max_error is 0.5, the limit is 0.1",
        "mean_error is 0.25, the limit is 0.2",
        "min_cosine is 0.5, the limit is 0.9",
        "mean_cosine is 0.6, the limit is 0.9",
        "equal_labels is 0.75, the limit is 0.95",
    ):
        assert fault in caught.value.message


@given(st.lists(st.sampled_from([-2.0, 0.0, 1e-30, 3.0]), min_size=2, max_size=4))
@settings(deadline=None, max_examples=100)
def test_a_cosine_is_always_a_number(row: list[float]) -> None:
    a = np.array(row, dtype=np.float32).astype(np.float64)
    cosine = parity._cosine(a, a[::-1])
    assert np.isfinite(cosine)
    assert abs(cosine) <= 1
    assert parity._cosine(a, a) == pytest.approx(1.0)
    assert parity._cosine(a, np.zeros_like(a)) == (0.0 if a.any() else 1.0)


def _expected(folder: Path) -> Any:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        rows = [model(**tokenizer(text, return_tensors="pt")).logits for text in TEXTS]
    return torch.cat(rows).double().numpy()


def _found(bundle: Path, artifact: Artifact) -> Any:
    from tokenizers import Tokenizer

    encoder = Tokenizer.from_file(str(bundle / "tokenizer" / "tokenizer.json"))
    encoder.enable_padding(pad_id=0)
    encodings = encoder.encode_batch(list(TEXTS))
    feeds = {
        "input_ids": np.array([encoding.ids for encoding in encodings]),
        "attention_mask": np.array([encoding.attention_mask for encoding in encodings]),
        "token_type_ids": np.array([encoding.type_ids for encoding in encodings]),
    }
    backend = registry.get(artifact.backend)
    with backend.load(bundle / artifact.directory, artifact.compiled) as session:
        return session.infer(feeds)["logits"].astype(np.float64)


def _changed(
    folder: Path, tmp_path: Path, part: str, change: Callable[[torch.Tensor], None]
) -> Path:
    """A copy whose first weight with ``part`` in its name is changed."""
    from safetensors.torch import load_file, save_file

    copy = Path(shutil.copytree(folder, tmp_path / "changed"))
    weights = load_file(copy / "model.safetensors")
    change(weights[next(name for name in weights if part in name)])
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    return copy


@pytest.mark.parametrize(
    ("figures", "limits"),
    [
        ({"equal_labels": 0.94996}, {"equal_labels": 0.95}),
        ({"max_error": 0.100049}, {"max_error": 0.1}),
        ({"min_cosine": 0.989996}, {"min_cosine": 0.99}),
    ],
)
def test_a_figure_just_beyond_its_limit_fails_although_it_rounds_to_it(
    figures: dict[str, float], limits: dict[str, float]
) -> None:
    good = Parity(4, 0.0, 0.0, 1.0, 1.0, 1.0)
    parity.check(good, Limits(**limits), "auto", "intel-cpu")
    with pytest.raises(ParityError):
        parity.check(
            msgspec.structs.replace(good, **figures), Limits(**limits), "auto", "intel-cpu"
        )


def test_figures_are_rounded_for_the_manifest_only() -> None:
    rounded = parity.rounded(Parity(4, 0.123456, 0.0123456, 0.9876543, 0.99987654, 0.75, "fp32"))
    assert rounded == Parity(4, 0.123, 0.0123, 0.9877, 0.999877, 0.75, "fp32")
