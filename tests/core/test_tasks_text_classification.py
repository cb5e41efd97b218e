"""Text classification: the numbers, the labels, and how results look."""

from __future__ import annotations

import dataclasses
import json
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from lepton_edge.cli.output import to_json
from lepton_edge.errors import InferenceError, InputError, SourceError
from lepton_edge.tasks.base import Facts
from lepton_edge.tasks.text_classification import (
    Classification,
    LabelScore,
    TextClassification,
    TextClassificationConfig,
    TextClassificationOptions,
)
from tests.core.parts import answers

SINGLE = TextClassification(TextClassificationConfig(("a", "b", "c"), False, 0.5))
MULTI = TextClassification(TextClassificationConfig(("a", "b", "c"), True, 0.5))
LOGITS = arrays.arrays(np.float32, (4, 3), elements=st.floats(-(2.0**100), 2.0**100, width=32))


def _array(*rows: list[float]) -> NDArray[np.float32]:
    return np.array(rows, dtype=np.float32)


def _one(task: TextClassification, *logits: float, **options: Any) -> Classification:
    (result,) = answers(task, {"logits": _array(list(logits))}, [False], **options)
    return result


def test_probabilities_are_the_softmax() -> None:
    logits = _array([1, 2, 3], [-1, 0, 0])
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(SINGLE.probabilities(logits), expected, rtol=1e-6)


def test_probabilities_of_a_multi_label_model_are_the_sigmoid() -> None:
    logits = _array([1, 2, -3])
    np.testing.assert_allclose(MULTI.probabilities(logits), 1 / (1 + np.exp(-logits)), rtol=1e-6)


@settings(deadline=None, max_examples=100)
@given(LOGITS)
def test_probabilities_stay_probabilities_for_any_logits(logits: NDArray[np.float32]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no overflow on the way either
        single, multi = SINGLE.probabilities(logits), MULTI.probabilities(logits)
    assert single.dtype == multi.dtype == np.float32
    assert ((single >= 0) & (single <= 1)).all()
    assert ((multi >= 0) & (multi <= 1)).all()
    np.testing.assert_allclose(single.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("logits", "label", "score"),
    [
        ([1e38, -1e38, 0], "a", 1.0),
        ([-3e38, -3e38, -3e38], "a", 1 / 3),
        ([-1e4, -1e4 + 1, -1e4], "b", 0.576117),
        ([0, 0, 1000], "c", 1.0),
    ],
)
def test_extreme_logits_give_sound_scores(logits: list[float], label: str, score: float) -> None:
    result = _one(SINGLE, *logits)
    assert result.label == label
    assert result.score == pytest.approx(score, rel=1e-4)


def test_the_best_label_is_given_with_its_score() -> None:
    result = _one(SINGLE, 0, 2, 1)
    assert (result.label, result.labels) == ("b", ("b",))
    assert result.score == pytest.approx(0.665241, rel=1e-5)
    assert [entry.label for entry in result.top] == ["b", "c", "a"]
    assert sum(entry.score for entry in result.top) == pytest.approx(1)


def test_of_equal_scores_the_earlier_label_comes_first() -> None:
    assert [entry.label for entry in _one(SINGLE, 1, 2, 2).top] == ["b", "c", "a"]
    assert [entry.label for entry in _one(MULTI, 0, 0, 0).top] == ["a", "b", "c"]
    labels = tuple(f"label{number}" for number in range(40))
    many = TextClassification(TextClassificationConfig(labels, False, 0.5))
    result = _one(many, *([0, 1] * 20), top_k=None)
    assert tuple(entry.label for entry in result.top) == labels[1::2] + labels[::2]


@pytest.mark.parametrize(("top_k", "count"), [(1, 1), (2, 2), (3, 3), (50, 3), (None, 3)])
def test_top_k_limits_the_labels_with_a_score(top_k: int | None, count: int) -> None:
    assert len(_one(SINGLE, 0, 2, 1, top_k=top_k).top) == count


def test_five_labels_have_a_score_by_default() -> None:
    labels = tuple("abcdefgh")
    task = TextClassification(TextClassificationConfig(labels, False, 0.5))
    assert "".join(entry.label for entry in _one(task, *range(8)).top) == "hgfed"


@pytest.mark.parametrize("top_k", [0, -2, 2.0, "2", [1]])
def test_a_top_k_that_is_no_count_is_refused(top_k: Any) -> None:
    with pytest.raises(InputError) as caught:
        _one(SINGLE, 0, 1, 2, top_k=top_k)
    assert caught.value.message.startswith(f"top_k is {top_k!r}: it is a number from 1, or None")


def test_a_multi_label_model_gives_every_label_at_or_above_the_threshold() -> None:
    result = _one(MULTI, 0, 3, -1)  # a logit of 0 is a probability of exactly 0.5
    assert result.labels == ("b", "a")
    assert result.label == "b"
    assert result.score == pytest.approx(0.952574, rel=1e-5)
    strict = TextClassification(TextClassificationConfig(("a", "b", "c"), True, 0.6))
    assert _one(strict, 0, 3, -1).labels == ("b",)


def test_a_multi_label_model_may_give_no_label() -> None:
    result = _one(MULTI, -2, -1, -3)
    assert result.labels == ()
    assert result.label == "b"
    assert result.score == pytest.approx(0.268941, rel=1e-5)


def test_a_given_label_is_never_cut_by_top_k() -> None:
    result = _one(MULTI, 1, 3, 2, top_k=1)
    assert result.labels == ("b", "c", "a")
    assert [entry.label for entry in result.top] == ["b", "c", "a"]
    assert len(_one(MULTI, -1, 3, -2, top_k=1).top) == 1


def test_each_text_has_its_own_flag() -> None:
    results = answers(SINGLE, {"logits": _array([0, 1, 2], [2, 1, 0])}, [True, False])
    assert [(result.label, result.truncated) for result in results] == [("c", True), ("a", False)]


@pytest.mark.parametrize("logits", [[0, 1], [0, 1, 2, 3]])
def test_scores_for_other_labels_than_the_manifests_are_refused(logits: list[float]) -> None:
    with pytest.raises(InferenceError, match=f"gives {len(logits)} scores; .* names 3 labels"):
        _one(SINGLE, *logits)


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(InputError, match=r"^text-classification has no option 'topk'\n"):
        _one(SINGLE, 0, 1, 2, topk=3)


@pytest.mark.parametrize(
    ("task", "logits", "printed"),
    [
        (SINGLE, (0, 2, 1), "b 66.5%"),
        (MULTI, (0, 3, -1), "b 95.3%, a 50.0%"),
        (MULTI, (-1, 3, -1), "b 95.3%"),
        (MULTI, (-2, -1, -3), "no label"),
    ],
)
def test_a_result_prints_as_its_labels(
    task: TextClassification, logits: tuple[float, ...], printed: str
) -> None:
    result = _one(task, *logits)
    assert str(result) == printed
    truncated = dataclasses.replace(result, truncated=True)
    assert str(truncated) == f"{printed}  (text truncated)"


def test_a_label_with_its_score_prints_as_a_share() -> None:
    assert str(LabelScore("late", 0.12345)) == "late 12.3%"


def test_a_result_is_plain_json() -> None:
    data = json.loads(to_json(_one(MULTI, 0, 3, -1)))
    assert list(data) == ["label", "score", "labels", "top", "truncated"]
    assert data["labels"] == ["b", "a"]
    assert data["top"][0] == {"label": "b", "score": pytest.approx(0.952574, rel=1e-5)}
    assert data["truncated"] is False


def test_results_are_values() -> None:
    assert _one(SINGLE, 0, 2, 1) == _one(SINGLE, 0, 2, 1)
    assert isinstance(_one(SINGLE, 0, 2, 1).score, float)
    with pytest.raises(dataclasses.FrozenInstanceError):
        _one(SINGLE, 0, 2, 1).label = "x"  # type: ignore[misc]


def test_labels_to_compare_are_the_best_or_the_flags() -> None:
    logits = _array([0, 2, 1], [3, 2, 1])
    found = [SINGLE.labels_of({"logits": row}) for row in logits]
    np.testing.assert_array_equal(np.concatenate(found), [[1], [0]])
    np.testing.assert_array_equal(
        MULTI.labels_of({"logits": _array([0, 2, -1])[0]}), [[True, True, False]]
    )


def test_the_recipes_options_win_over_the_source() -> None:
    facts = Facts(labels=("x", "y"), multi_label=True)
    given = TextClassificationOptions(("a", "b"), False, 0.7)
    assert TextClassification.configure(given, facts) == TextClassificationConfig(
        ("a", "b"), False, 0.7
    )
    assert TextClassification.configure(
        TextClassificationOptions(), facts
    ) == TextClassificationConfig(("x", "y"), True, 0.5)


@pytest.mark.parametrize(
    ("labels", "facts", "fault"),
    [
        (None, None, "does not name its labels"),
        ((), None, "does not name its labels"),
        (("a", "b", "c"), ("x", "y"), "names 3 labels; the model has 2 outputs"),
        (("a", "a"), ("x", "y"), "two labels have the same name"),
        (None, ("x", "x"), "two labels have the same name"),
    ],
)
def test_labels_that_cannot_be_are_refused(
    labels: tuple[str, ...] | None, facts: tuple[str, ...] | None, fault: str
) -> None:
    with pytest.raises(SourceError, match=fault):
        TextClassification.configure(TextClassificationOptions(labels), Facts(labels=facts))
