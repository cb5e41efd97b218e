"""Zero-shot classification: pairs, scores, labels of all kinds, and what is refused."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from lepton_edge import Model, load
from lepton_edge.bundle import Bundle
from lepton_edge.cli.output import to_json
from lepton_edge.errors import BundleError, InferenceError, InputError, SourceError
from lepton_edge.runtime import session_model as runtime_model
from lepton_edge.runtime.files import run_file
from lepton_edge.runtime.text import Tokens
from lepton_edge.tasks.base import Facts
from lepton_edge.tasks.text_classification import Classification
from lepton_edge.tasks.zero_shot_classification import (
    ZeroShotClassification,
    ZeroShotClassificationConfig,
    ZeroShotClassificationOptions,
)
from tests.core.parts import fails, invoke, printed, rewrite

Bundles = Callable[..., Bundle]
NLI = ("contradiction", "neutral", "entailment")
TASK = ZeroShotClassification(ZeroShotClassificationConfig(NLI, 2, 0, "about {}"))
LOGITS = arrays.arrays(np.float32, (4, 3), elements=st.floats(-(2.0**100), 2.0**100, width=32))


def _array(*rows: Sequence[float]) -> NDArray[np.float32]:
    return np.array(rows, dtype=np.float32)


def _one(logits: NDArray[np.float32], *labels: str, **options: Any) -> Classification:
    """The result for logits that were not computed: a row a label."""
    asked = TASK.parameters({"candidate_labels": labels, **options})
    sequences = [Tokens([1], [0], False) for _ in labels]
    values = TASK.read({"logits": logits}, sequences, asked)
    return TASK.result("a text", sequences, values, asked)


@pytest.fixture
def model(fake_bundle: Bundles) -> Model:
    return load(fake_bundle(task=TASK.name).path)


def _words(model: Model, tokens: Tokens) -> str:
    return model.encoder.decode(tokens.ids, skip_special_tokens=False)


def _pairs(model: Model, texts: list[str], labels: list[str], **options: Any) -> list[list[str]]:
    asked = model.task.parameters({"candidate_labels": labels, **options})
    groups = model.task.tokenize(texts, model.encoder, asked, 1)
    return [[_words(model, tokens) for tokens in group] for group in groups]


def test_scores_are_the_softmax_of_the_entailments_over_the_labels() -> None:
    result = _one(_array([9, 0, 1], [9, 9, 3], [0, 0, 2]), "a", "b", "c")
    expected = np.exp([1, 3, 2]) / np.exp([1, 3, 2]).sum()
    assert [entry.label for entry in result.top] == ["b", "c", "a"]
    np.testing.assert_allclose([e.score for e in result.top], sorted(expected)[::-1], rtol=1e-6)
    assert (result.label, result.labels) == ("b", ("b",))
    assert result.score == result.top[0].score


def test_with_multi_label_each_is_entailment_against_contradiction() -> None:
    result = _one(_array([0, 9, 1], [3, 9, 2], [0, 0, 0]), "a", "b", "c", multi_label=True)
    expected = 1 / (1 + np.exp(-_array([1, -1, 0])[0]))
    scores = {entry.label: entry.score for entry in result.top}
    np.testing.assert_allclose([scores[label] for label in "abc"], expected, rtol=1e-6)
    assert result.labels == ("a", "c")  # from one half
    assert str(result) == "a 73.1%, c 50.0%"


def test_with_multi_label_there_may_be_no_label() -> None:
    result = _one(_array([5, 0, 1], [5, 0, 2]), "a", "b", multi_label=True)
    assert (result.label, result.labels, str(result)) == ("b", (), "no label")


def test_a_single_label_is_its_own_yes_or_no() -> None:
    assert _one(_array([1, 0, 2]), "a").score == pytest.approx(0.731059, rel=1e-5)
    assert _one(_array([1, 0, 2]), "a").labels == ("a",)
    assert _one(_array([2, 0, 1]), "a").labels == ()


def test_of_equal_labels_the_earlier_comes_first() -> None:
    labels = [f"label {number}" for number in range(40)]
    result = _one(_array(*[[0, 0, number % 2] for number in range(40)]), *labels, top_k=None)
    assert [entry.label for entry in result.top] == labels[1::2] + labels[::2]


@pytest.mark.parametrize(("top_k", "count"), [(1, 1), (3, 3), (50, 8), (None, 8)])
def test_top_k_limits_the_labels_with_a_score(top_k: int | None, count: int) -> None:
    logits = _array(*[[0, 0, number] for number in range(8)])
    assert len(_one(logits, *"abcdefgh", top_k=top_k).top) == count
    assert len(_one(logits, *"abcdefgh").top) == 5


@settings(deadline=None, max_examples=100)
@given(LOGITS)
def test_scores_stay_probabilities_for_any_logits(logits: NDArray[np.float32]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no overflow on the way either
        single = _one(logits, *"abcd").top
        multi = _one(logits, *"abcd", multi_label=True).top
    assert sum(entry.score for entry in single) == pytest.approx(1, abs=1e-5)
    assert all(0 <= entry.score <= 1 for entry in (*single, *multi))


def test_scores_for_other_labels_than_the_manifests_are_refused() -> None:
    with pytest.raises(InferenceError, match=r"gives 2 scores; .* names 3 labels"):
        _one(_array([0, 1]), "a")


def test_each_label_makes_a_sentence_beside_the_text(model: Model) -> None:
    pairs = _pairs(model, ["w1 w2", "w3"], ["w4", "w5 w6"])
    assert pairs == [
        ["[CLS] w1 w2 [SEP] w98 w4 w99 [SEP]", "[CLS] w1 w2 [SEP] w98 w5 w6 w99 [SEP]"],
        ["[CLS] w3 [SEP] w98 w4 w99 [SEP]", "[CLS] w3 [SEP] w98 w5 w6 w99 [SEP]"],
    ]
    ((pair,),) = _pairs(model, ["w1"], ["w4"], hypothesis_template="w7 w8 {} ")
    assert pair == "[CLS] w1 [SEP] w7 w8 w4 [SEP]"


def test_a_label_may_have_braces(model: Model) -> None:
    ((pair, other),) = _pairs(model, ["w1"], ["{}", "{0} w2"])
    assert (pair, other) == (
        "[CLS] w1 [SEP] w98 [UNK] w99 [SEP]",
        "[CLS] w1 [SEP] w98 [UNK] w2 w99 [SEP]",
    )


def test_a_long_text_is_cut_and_a_hypothesis_never(fake_bundle: Bundles) -> None:
    model = load(fake_bundle(task=TASK.name, max_length=12).path)
    ((short, long),) = _pairs(model, ["w1 w2 w3 w4 w5 w6 w7 w8"], ["w9", "w10 w11 w12"])
    assert short == "[CLS] w1 w2 w3 w4 w5 w6 [SEP] w98 w9 w99 [SEP]"
    assert long == "[CLS] w1 w2 w3 w4 [SEP] w98 w10 w11 w12 w99 [SEP]"
    cut, whole = model(["w1 w2 w3 w4 w5 w6 w7 w8", "w1"], candidate_labels=["w9", "w2"])
    assert (cut.truncated, whole.truncated) == (True, False)
    assert str(cut).endswith("(text truncated)")


@pytest.mark.parametrize("words", [7, 40])
def test_a_label_that_leaves_no_room_for_the_text_is_named(
    fake_bundle: Bundles, words: int
) -> None:
    model = load(fake_bundle(task=TASK.name, max_length=12).path)
    with pytest.raises(InputError) as caught:
        model("w1", candidate_labels=["w2", "w3 " * words])
    assert caught.value.message.startswith("the hypothesis of candidate label 2 ('w3 w3 ")
    assert "is too long: it leaves no room" in caught.value.message


def test_a_long_text_is_refused_where_the_bundle_says_so(fake_bundle: Bundles) -> None:
    model = load(fake_bundle(task=TASK.name, max_length=12, on_long_text="refuse").path)
    assert not model("w1 w2", candidate_labels=["w3"]).truncated
    with pytest.raises(InputError) as caught:
        model(["w1", "w1 w2 w3 w4 w5 w6 w7"], candidate_labels=["w3"])
    assert caught.value.message == (
        "text 2 with the hypothesis of candidate label 1 ('w3') has about 13 tokens; "
        "this bundle takes up to 12"
    )


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        ([], "needs candidate_labels: the labels to choose among"),
        ("urgent, not", "candidate_labels is of type str: it is a list of labels"),
        ({"a", "b"}, "candidate_labels is of type set"),
        (None, "candidate_labels is of type NoneType"),
        (["a", 7], "candidate label 2 is of type int: a label is text"),
        (["a", " \n"], "candidate label 2 is empty"),
        (["a", "", "b"], "candidate label 2 is empty"),
        (["a", "b", "a"], "candidate label 3 ('a') is the same as candidate label 1"),
        (["größe", "b", " größe "], "candidate label 3 (' größe ') is the same as candidate lab"),
        (["a", "\ud83d"], "the hypothesis of candidate label 2 ('\\ud83d') is not Unicode text"),
    ],
)
def test_labels_that_cannot_be_are_refused_by_name(model: Model, labels: Any, problem: str) -> None:
    with pytest.raises(InputError) as caught:
        model("w1", candidate_labels=labels)
    assert problem in caught.value.message


def test_without_labels_the_message_says_how_to_give_them(model: Model) -> None:
    with pytest.raises(InputError) as caught:
        model("w1")
    assert "candidate_labels=['urgent', 'can wait']" in str(caught.value.hint)
    assert "--labels 'urgent, can wait'" in str(caught.value.hint)


@pytest.mark.parametrize("template", ["about it", "{} and {}", "", 7, "{0}"])
def test_a_template_needs_one_place_for_the_label(model: Model, template: Any) -> None:
    with pytest.raises(InputError) as caught:
        model("w1", candidate_labels=["w2"], hypothesis_template=template)
    assert caught.value.message == (
        f"hypothesis_template is {template!r}: it is a sentence with one {{}} for the label"
    )
    with pytest.raises(ValueError, match="hypothesis_template is"):
        ZeroShotClassificationOptions(hypothesis_template=template)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"multi_label": "yes"}, "multi_label is 'yes': it is true or false"),
        ({"top_k": 0}, "top_k is 0: it is a number from 1, or None for all labels"),
        ({"labels": ["a"]}, "zero-shot-classification has no option 'labels'"),
    ],
)
def test_other_options_that_cannot_be_are_refused(
    model: Model, options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(InputError) as caught:
        model("w1", candidate_labels=["w2"], **options)
    assert caught.value.message == problem


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (7, "text 2 is of type int"),
        ("  ", "text 2 is empty"),
        ("a\udc00", "text 2 is not Unicode text"),
        ("w1 " * 4000, "text 2 has 12,000 characters; this bundle takes up to 10,000"),
    ],
)
def test_a_text_at_fault_is_named_by_its_position(model: Model, text: Any, problem: str) -> None:
    with pytest.raises(InputError) as caught:
        model(["w1", text], candidate_labels=["w2", "w3"])
    assert caught.value.message.startswith(problem)


def test_texts_together_answer_as_they_do_alone(model: Model) -> None:
    texts = [f"w{n} " * (1 + n % 23) for n in range(60)]
    labels = [f"w{n} " * (1 + n % 3) for n in range(7)]
    for options in ({}, {"multi_label": True}):
        together = model(texts, candidate_labels=labels, top_k=None, **options)
        for text, result in zip(texts, together, strict=True):
            alone = model(text, candidate_labels=labels, top_k=None, **options)
            found = {entry.label: entry.score for entry in result.top}
            for entry in alone.top:
                assert found[entry.label] == pytest.approx(entry.score, abs=1e-6)


def test_ten_thousand_labels_are_tokenized_in_chunks_of_texts(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = [f"w{n % 100} w{n // 100}" for n in range(10_000)]
    seen: list[int] = []
    tokenize = ZeroShotClassification.tokenize

    def counted(self: Any, inputs: Any, *others: Any) -> Any:
        groups = tokenize(self, inputs, *others)
        seen.append(sum(map(len, groups)))
        return groups

    monkeypatch.setattr(ZeroShotClassification, "tokenize", counted)
    monkeypatch.setattr(runtime_model, "_CHUNK_CHARACTERS", 150_000)
    results = model(["w1", "w2 w3", "w4"], candidate_labels=labels, top_k=None)
    assert seen == [10_000] * 3
    for result in results:
        assert len(result.top) == 10_000
        assert sum(entry.score for entry in result.top) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("labels", "options", "expected"),
    [
        (NLI, {}, (2, 0)),
        (("Entails", "Neither", "CONTRADICTS"), {}, (0, 2)),
        (("neutral", "entailment", "contradiction"), {}, (1, 2)),
        (("entailment", "not_entailment"), {}, (0, 1)),
        (("not_entailment", "entailment"), {}, (1, 0)),
        (("x", "y", "z"), {"entailment": "z", "contradiction": "x"}, (2, 0)),
        (("x", "y"), {"entailment": "x"}, (0, 1)),
        (NLI, {"contradiction": "neutral"}, (2, 1)),
    ],
)
def test_the_labels_are_found_by_name(
    labels: tuple[str, ...], options: dict[str, Any], expected: tuple[int, int]
) -> None:
    config = ZeroShotClassification.configure(
        ZeroShotClassificationOptions(**options), Facts(labels=labels)
    )
    assert (config.entailment, config.contradiction) == expected
    assert config.labels == labels
    assert config.hypothesis_template == "This example is {}."


@pytest.mark.parametrize(
    ("labels", "options", "problem", "hint"),
    [
        (None, {}, "does not name its labels", "task_options: {labels: [...]}"),
        (("x", "y", "z"), {}, "no label of the model is named entailment; its labels are x, y, z",
         "task_options: {entailment: LABEL}"),
        (("entailment", "y", "z"), {}, "no label of the model is named contradiction",
         "task_options: {contradiction: LABEL}"),
        (("entailment",), {}, "no label of the model is named contradiction", "NLI"),
        (NLI, {"entailment": "yes"}, "task_options.entailment is 'yes'; the model's labels are con",
         "name one of these"),
        (NLI, {"contradiction": "no"}, "task_options.contradiction is 'no'", "name one of these"),
        (NLI, {"entailment": "contradiction"}, "'contradiction' cannot be both",
         "task_options.contradiction"),
    ],
)  # fmt: skip
def test_labels_without_an_entailment_are_refused(
    labels: tuple[str, ...] | None, options: dict[str, Any], problem: str, hint: str
) -> None:
    with pytest.raises(SourceError) as caught:
        ZeroShotClassification.configure(
            ZeroShotClassificationOptions(**options), Facts(labels=labels)
        )
    assert problem in caught.value.message
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"entailment": 3}, "entailment is 3: there are 3 labels"),
        ({"contradiction": -1}, "contradiction is -1"),
        ({"hypothesis_template": "none"}, "hypothesis_template is 'none'"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(
    fake_bundle: Bundles, change: dict[str, Any], problem: str
) -> None:
    bundle = fake_bundle(task=TASK.name)
    changed = rewrite(bundle, task_config={**bundle.manifest.task_config, **change})
    with pytest.raises(BundleError, match="does not fit zero-shot-classification") as caught:
        load(changed.path)
    assert problem in caught.value.message


def test_a_result_is_plain_json(model: Model) -> None:
    data = json.loads(to_json(model("w1", candidate_labels=["größe", "w2"])))
    assert list(data) == ["label", "score", "labels", "top", "truncated"]
    assert {entry["label"] for entry in data["top"]} == {"größe", "w2"}


def test_examples_are_texts_with_labels(model: Model) -> None:
    inputs, parameters = model.task.examples(["w1", "w2"])
    assert inputs == ["w1", "w2"]
    assert len(parameters.candidate_labels) > 1
    model.warm_up()
    np.testing.assert_array_equal(TASK.labels_of({"logits": _array([0, 2, 1])[0]}), [[1]])


def test_a_file_gets_a_label_a_row(model: Model, tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"text": "w1", "label": "gold"}\n\n{"text": "w2 w3"}\n')
    assert run_file(model, source, output, candidate_labels=["w4", "w5"], top_k=1) == 2
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert rows[0]["label"] == "gold"
    expected = model("w1", candidate_labels=["w4", "w5"])
    assert (rows[0]["result_label"], rows[0]["score"]) == (expected.label, expected.score)
    assert len(rows[1]["top"]) == 1
    source.write_text('{"text": "w1"}\n{"text": "w2 \\ud83d"}\n')
    with pytest.raises(InputError, match=r"in\.jsonl:2: 'text' is not Unicode text"):
        run_file(model, source, output, candidate_labels=["w4"], force=True)


def test_the_command_line_takes_labels_with_commas(fake_bundle: Bundles) -> None:
    path = fake_bundle(task=TASK.name).path
    (row,) = printed("run", path, "w1", "--labels", "w2 w3, größe", "--top-k", 1)
    with load(path) as model:
        expected = model("w1", candidate_labels=["w2 w3", "größe"])
    assert row["text"] == "w1"
    assert (row["result"]["label"], row["result"]["score"]) == (expected.label, expected.score)
    assert len(row["result"]["top"]) == 1
    options = ("-p", "multi_label=true", "-p", "hypothesis_template=w7 {}")
    assert invoke("run", path, "w1", "--labels", "w2,w3", *options).stdout.strip()


def test_the_command_line_says_what_is_missing(fake_bundle: Bundles) -> None:
    path = fake_bundle(task=TASK.name).path
    assert "--labels 'urgent, can wait'" in fails("run", path, "w1")
    assert "candidate label 2 is empty" in fails("run", path, "w1", "--labels", "a,,b")
    assert "multi_label is 'maybe'" in fails(
        "run", path, "w1", "--labels", "a", "-p", "multi_label=maybe"
    )
    classifier = fake_bundle("other").path
    message = fails("run", classifier, "w1", "--labels", "a")
    assert "text-classification has no option 'candidate_labels'" in message
