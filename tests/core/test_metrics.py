"""The metrics of the quality gate, beside figures computed by hand."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from lepton_edge.builder.quality import drop
from lepton_edge.builder.quality.metrics import METRICS, f1, metric_of, spans
from lepton_edge.errors import InputError, RecipeError
from lepton_edge.tasks import SESSION_TASKS


def task(name: str, **config: Any) -> Any:
    return SimpleNamespace(
        name=name,
        config=SimpleNamespace(**config),
        fields=("question", "context")
        if name == "question-answering"
        else ("query", "documents")
        if name == "text-ranking"
        else ("text",),
    )


@dataclass
class Found:
    label: str = ""
    labels: tuple[str, ...] = ()
    answer: str = ""


def test_every_task_has_a_metric() -> None:
    assert set(METRICS) == set(SESSION_TASKS)
    assert all(metrics for metrics in METRICS.values())
    for metrics in METRICS.values():
        assert len({metric.name for metric in metrics}) == len(metrics)


def test_accuracy_is_the_share_that_is_right() -> None:
    metric = metric_of(task("text-classification", labels=("no", "yes")), None)
    golds = [metric.gold({"text": "a", "label": label}) for label in ("yes", 0, "1", "no")]
    assert golds == ["yes", "no", "yes", "no"]
    answers = [[Found("yes")], [Found("yes")], [Found("yes")], [Found("no")]]
    assert metric.score(golds, answers) == 0.75
    assert [metric.right(g, a) for g, a in zip(golds, answers, strict=True)].count(False) == 1
    assert metric.absent(["yes"]) == ["no"]


def test_a_label_that_is_a_number_by_name_is_that_name() -> None:
    """Labels named 1 to 5: "1" is the first of them, not the second output."""
    metric = metric_of(task("text-classification", labels=("1", "2", "3")), None)
    assert metric.gold({"text": "a", "label": "1"}) == "1"
    assert metric.gold({"text": "a", "label": 1}) == "2"


@pytest.mark.parametrize("label", ["maybe", 2, -1, True, None, 1.5, "2", ["no"]])
def test_a_label_that_the_model_lacks_is_refused_with_those_it_has(label: Any) -> None:
    metric = metric_of(task("text-classification", labels=("no", "yes")), None)
    with pytest.raises(InputError) as caught:
        metric.gold({"text": "a", "label": label})
    assert caught.value.message == f"the model has no label {label!r}; it has 2: no, yes"
    assert "task_options: {labels: [...]}" in str(caught.value.hint)


def test_a_multi_label_model_is_scored_by_its_labels() -> None:
    metric = metric_of(task("text-classification", labels=("a", "b", "c"), multi_label=True), None)
    assert metric.name == "label_f1"
    golds = [metric.gold({"labels": ["a", 1]}), metric.gold({"labels": []})]
    # 1 of 2 expected found, and one too many: 2 * 1 / (2 + 2).
    assert metric.score(golds, [[Found(labels=("a",))], [Found(labels=("c",))]]) == 0.5
    assert metric.absent(golds) == ["c"]
    with pytest.raises(InputError, match="'labels' is not a list"):
        metric.gold({"labels": "a"})


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([], []),
        (["O", "O"], []),
        (["B-PER", "I-PER", "O", "B-LOC"], [("PER", 0, 2), ("LOC", 3, 4)]),
        (["B-PER", "B-PER"], [("PER", 0, 1), ("PER", 1, 2)]),
        (["I-PER", "I-PER", "I-LOC"], [("PER", 0, 2), ("LOC", 2, 3)]),
        (["B-PER", "O", "I-PER"], [("PER", 0, 1), ("PER", 2, 3)]),
    ],
)
def test_spans_are_read_from_iob2(labels: list[str], expected: list[Any]) -> None:
    assert spans(labels) == expected


def test_entity_f1_reads_a_words_label_from_its_first_token() -> None:
    labels = ("O", "B-PER", "I-PER", "B-LOC")
    metric = metric_of(task("token-classification", labels=labels), None)
    row = {"tokens": ["Ada", "Lovelace", "in", "Ulm"], "tags": ["B-PER", "I-PER", "O", "B-LOC"]}
    assert metric.inputs(row) == ["Ada Lovelace in Ulm"]
    gold = metric.gold(row)

    def token(start: int, label: str, text: str = "x") -> Any:
        return SimpleNamespace(start=start, label=label, text=text)

    # Lovelace is two tokens, and the second one's label does not count; Ulm is missed.
    found = SimpleNamespace(
        entities=[token(0, "B-PER"), token(4, "I-PER"), token(8, "B-LOC"), token(13, "O")]
    )
    assert metric.score([gold], [[found]]) == pytest.approx(2 / 3)
    assert metric.right(gold, [found]) is False
    # With the blank before a word in its token, as a token, and a letter that is two tokens.
    blanks = [token(0, "B-PER", "Ada"), token(3, "I-PER", " Lovelace"), token(12, "O", " in")]
    blanks += [token(15, "B-LOC", " "), token(16, "O", "Ü"), token(16, "I-PER", "Ü")]
    assert metric.right(gold, [SimpleNamespace(entities=blanks)]) is True
    with pytest.raises(InputError, match="two lists of one length"):
        metric.gold({"tokens": ["a"], "tags": []})
    with pytest.raises(InputError, match="no label 'B-ORG'"):
        metric.gold({"tokens": ["a"], "tags": ["B-ORG"]})


@pytest.mark.parametrize(
    ("gold", "answer", "f1_score", "exact"),
    [
        (["the Red House"], "red house!", 1, 1),
        (["w x y z"], "x y", 2 / 3, 0),
        (["x", "Ulm"], "Ulm", 1, 1),
        ([], "", 1, 1),
        ([], "Ulm", 0, 0),
        (["Ulm"], "", 0, 0),
    ],
)
def test_answers_are_scored_as_squad_does(
    gold: list[str], answer: str, f1_score: float, exact: int
) -> None:
    for name, expected in (("f1", f1_score), ("exact_match", exact)):
        metric = metric_of(task("question-answering"), name)
        golds = [metric.gold({"answers": gold})]
        assert metric.score(golds, [[Found(answer=answer)]]) == pytest.approx(expected)
    assert metric.gold({"answers": {"text": ["a"], "answer_start": [0]}}) == ["a"]
    assert metric.gold({"answers": "a"}) == ["a"]
    with pytest.raises(InputError, match="'answers' is not a list of texts"):
        metric.gold({"answers": [1]})


def test_ndcg_is_one_for_the_best_order() -> None:
    metric = metric_of(task("text-ranking"), None)
    gold = metric.gold({"documents": ["a", "b", "c"], "relevance": [0, 2, 1]})

    def ranked(*order: int) -> Any:
        return SimpleNamespace(documents=[SimpleNamespace(index=i) for i in order])

    assert metric.score([gold], [[ranked(1, 2, 0)]]) == 1.0
    # By hand: (1 + 3 / log2(3)) / (3 + 1 / log2(3)).
    assert metric.score([gold], [[ranked(2, 1, 0)]]) == pytest.approx(0.7967, abs=1e-4)
    assert metric.score([[0.0, 0.0]], [[ranked(0, 1)]]) == 1.0
    with pytest.raises(InputError, match="a number for each document"):
        metric.gold({"documents": ["a"], "relevance": [1, 2]})
    for relevance in ("high", None, float("nan")):
        with pytest.raises(InputError, match=r"'relevance' is .*, not a number"):
            metric.gold({"documents": ["a"], "relevance": [relevance]})
    with pytest.raises(InputError, match="any order is as good"):
        metric.gold({"documents": ["a", "b"], "relevance": [0, 0]})


def test_zero_shot_labels_are_those_asked_for() -> None:
    asked = {"candidate_labels": ["Sports", "World"]}
    metric = metric_of(task("zero-shot-classification"), None, asked)
    assert [metric.gold({"label": each}) for each in ("World", 0)] == ["World", "Sports"]
    with pytest.raises(InputError, match="no label 'sports'; it has 2: Sports, World") as caught:
        metric.gold({"label": "sports"})
    assert "candidate_labels" in str(caught.value.hint)
    assert metric.absent(["World"]) == ["Sports"]


def test_spearman_compares_orders() -> None:
    pytest.importorskip("scipy", reason="needs the extra build")

    class Vector:
        def __init__(self, cosine: float) -> None:
            self.cosine = cosine

        def similarity(self, other: Vector) -> float:
            return self.cosine

    metric = metric_of(task("feature-extraction"), None)
    assert metric.inputs({"a": "x", "b": "y", "score": 1}) == ["x", "y"]
    golds = [metric.gold({"score": score}) for score in (1, "2", 3, 4)]
    answers = [[Vector(c), Vector(c)] for c in (0.1, 0.2, 0.9, 0.3)]
    assert metric.score(golds, answers) == pytest.approx(0.8)
    for score in ("high", "nan", float("inf"), None):
        with pytest.raises(InputError, match=r"'score' is .*, not a number"):
            metric.gold({"score": score})
    with pytest.raises(RecipeError, match="nothing to rank"):
        metric.score([1.0, 1.0], answers[:2])


def test_f1_of_nothing_expected_and_nothing_found_is_one() -> None:
    assert f1([(set(), set())]) == 1.0
    assert f1([({1}, set())]) == 0.0


def test_a_drop_is_in_points() -> None:
    assert drop(0.9, 0.8875) == 1.25
    assert drop(0.8, 0.9) == -10
    assert drop(0.8899, 0.8899) == 0
