"""What a model is good at, as a number: one or more metrics for each task.

Every metric is a share, 0 to 1 (a correlation, -1 to 1); a point is a hundredth of it.
"""

from __future__ import annotations

import re
import string
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from math import isfinite, nan
from typing import Any, ClassVar

import numpy as np

from lepton_edge.errors import InputError, RecipeError
from lepton_edge.runtime.files import Row
from lepton_edge.tasks.base import Task

Span = tuple[str, int, int]
"""A label, and where it starts and ends."""


class Metric(ABC):
    """Reads examples from rows, and scores a model's answers to them.

    ``columns`` are what a row has to have. ``parameters`` are what the model is called with beside
    the recipe's own.
    """

    name: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    about: ClassVar[str]
    """One line for the reference."""
    parameters: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, task: Task[Any, Any], asked: Mapping[str, Any] | None) -> None:
        """``asked`` are the recipe's parameters."""
        self.task = task
        self.asked = asked or {}

    @abstractmethod
    def inputs(self, row: Row) -> list[Any]:
        """The task's inputs that a row asks for: one, for most metrics."""

    @abstractmethod
    def gold(self, row: Row) -> Any:
        """What the answers are compared with. Raises `InputError`, without naming the place."""

    @abstractmethod
    def score(self, golds: Sequence[Any], answers: Sequence[Sequence[Any]]) -> float:
        """The metric of all examples; ``answers`` has each example's results."""

    def right(self, gold: Any, answers: Sequence[Any]) -> bool | None:
        """Whether one example was answered right; None where that is no yes or no."""
        return None

    def shown(self, gold: Any) -> str:
        """What is right, for people."""
        return str(gold)

    def absent(self, golds: Sequence[Any]) -> list[str]:
        """Labels of the model that no example has: the metric says nothing about them."""
        return []


class _Labelled(Metric):
    """Of tasks whose inputs are the row's own fields, and whose labels are the model's."""

    naming: ClassVar[str] = (
        "name them as the data does, in the order of the outputs: task_options: {labels: [...]}"
    )
    """What to do where data and model name labels differently."""

    @property
    def labels(self) -> tuple[str, ...]:
        known: tuple[str, ...] = self.task.config.labels
        return known

    def inputs(self, row: Row) -> list[Any]:
        values = {field: row[field] for field in self.task.fields}
        return [next(iter(values.values())) if len(values) == 1 else values]

    def label(self, value: object) -> str:
        """A label by its name, or by its place among the outputs (a number, as in many files).

        Raises `InputError` for a label that the model does not have.
        """
        labels = self.labels
        if isinstance(value, str) and value in labels:
            return value
        number = int(value) if isinstance(value, str) and value.isdecimal() else value
        if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < len(labels):
            return labels[number]
        known = ", ".join(labels[:8]) + (", …" if len(labels) > 8 else "")
        raise InputError(
            f"the model has no label {value!r}; it has {len(labels)}: {known}", hint=self.naming
        )


class Accuracy(_Labelled):
    name = "accuracy"
    columns = ("text", "label")
    about = "share of texts given their label; `label` is a name, or its number from 0"
    parameters: ClassVar[Mapping[str, Any]] = {"top_k": 1}

    def gold(self, row: Row) -> str:
        return self.label(row["label"])

    def score(self, golds: Sequence[str], answers: Sequence[Sequence[Any]]) -> float:
        return float(np.mean([gold == given.label for gold, (given,) in _pairs(golds, answers)]))

    def right(self, gold: str, answers: Sequence[Any]) -> bool:
        return bool(gold == answers[0].label)

    def absent(self, golds: Sequence[str]) -> list[str]:
        return [label for label in self.labels if label not in set(golds)]


class LabelF1(_Labelled):
    name = "label_f1"
    columns = ("text", "labels")
    about = "F1 of the labels given to all texts (micro); `labels` is a list"
    parameters: ClassVar[Mapping[str, Any]] = {"top_k": 1}

    def gold(self, row: Row) -> frozenset[str]:
        if not isinstance(row["labels"], list):
            raise InputError("'labels' is not a list of labels")
        return frozenset(self.label(each) for each in row["labels"])

    def score(self, golds: Sequence[frozenset[str]], answers: Sequence[Sequence[Any]]) -> float:
        return f1([(gold, set(given.labels)) for gold, (given,) in _pairs(golds, answers)])

    def right(self, gold: frozenset[str], answers: Sequence[Any]) -> bool:
        return bool(gold == set(answers[0].labels))

    def absent(self, golds: Sequence[frozenset[str]]) -> list[str]:
        seen = frozenset().union(*golds)
        return [label for label in self.task.config.labels if label not in seen]


class EntityF1(_Labelled):
    """As CoNLL-2003 scores it: an entity counts where its type and both ends are right. A word's
    label is that of its first token."""

    name = "entity_f1"
    columns = ("tokens", "tags")
    about = "F1 of exact entities; `tokens` are a text's words, `tags` their labels (IOB2)"
    parameters: ClassVar[Mapping[str, Any]] = {
        "aggregation_strategy": "none",
        "ignore_labels": (),
    }

    def inputs(self, row: Row) -> list[Any]:
        return [" ".join(row["tokens"])]

    def gold(self, row: Row) -> tuple[list[int], list[Span]]:
        words, tags = row["tokens"], row["tags"]
        listed = isinstance(words, list) and isinstance(tags, list)
        if not listed or len(words) != len(tags) or not words:
            raise InputError("'tokens' and 'tags' are not two lists of one length")
        if not all(isinstance(word, str) for word in words):
            raise InputError("'tokens' is not a list of words")
        starts = np.cumsum([0, *(len(word) + 1 for word in words[:-1])]).tolist()
        return starts, spans([self.label(tag) for tag in tags])

    def score(
        self, golds: Sequence[tuple[list[int], list[Span]]], answers: Sequence[Sequence[Any]]
    ) -> float:
        return f1(
            [(set(gold[1]), self._found(gold[0], given)) for gold, given in _pairs(golds, answers)]
        )

    def right(self, gold: tuple[list[int], list[Span]], answers: Sequence[Any]) -> bool:
        return set(gold[1]) == self._found(gold[0], answers)

    def absent(self, golds: Sequence[tuple[list[int], list[Span]]]) -> list[str]:
        kinds = {label.split("-", 1)[-1] for label in self.task.config.labels} - {"O"}
        return sorted(kinds - {kind for _, found in golds for kind, _, _ in found})

    def shown(self, gold: tuple[list[int], list[Span]]) -> str:
        return ", ".join(f"{kind} {start} to {end}" for kind, start, end in gold[1])

    def _found(self, starts: list[int], answers: Sequence[Any]) -> set[Span]:
        labels: dict[int, str] = {}
        for token in answers[0].entities:
            # Some tokenizers have the blank before a word in its first token, or for a token.
            blank = len(token.text) - len(token.text.lstrip())
            labels.setdefault(token.start + blank, token.label)
        return set(spans([labels.get(start, "O") for start in starts]))


class SpanF1(_Labelled):
    """As SQuAD scores it: without case, punctuation and articles, against the best of the answers
    (Rajpurkar et al. 2016)."""

    name = "f1"
    columns = ("question", "context", "answers")
    about = "F1 of the answers' words; `answers` is a list of texts, empty where there is none"

    def gold(self, row: Row) -> list[str]:
        answers = row["answers"]
        if isinstance(answers, Mapping):  # as SQuAD's own files have it
            answers = answers.get("text")
        if isinstance(answers, str):
            answers = [answers]
        if not isinstance(answers, list) or not all(isinstance(each, str) for each in answers):
            raise InputError("'answers' is not a list of texts")
        return answers or [""]

    def score(self, golds: Sequence[list[str]], answers: Sequence[Sequence[Any]]) -> float:
        return float(
            np.mean([self.credit(gold, given.answer) for gold, (given,) in _pairs(golds, answers)])
        )

    def shown(self, gold: list[str]) -> str:
        return " / ".join(gold)

    def right(self, gold: list[str], answers: Sequence[Any]) -> bool:
        return self.credit(gold, answers[0].answer) == 1

    def credit(self, gold: list[str], answer: str) -> float:
        return max(_word_f1(_plain_words(each), _plain_words(answer)) for each in gold)


class ExactMatch(SpanF1):
    name = "exact_match"
    about = "share of answers that are one of those given, but for case, punctuation and articles"

    def credit(self, gold: list[str], answer: str) -> float:
        return float(any(_plain_words(each) == _plain_words(answer) for each in gold))


class ZeroShotAccuracy(Accuracy):
    about = "share of texts given their label; `parameters: {candidate_labels: [...]}` lists them"
    parameters: ClassVar[Mapping[str, Any]] = {}
    naming = "name them as the data does: quality: {parameters: {candidate_labels: [...]}}"

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.asked["candidate_labels"])


class Ndcg(_Labelled):
    """Järvelin and Kekäläinen 2002, with gain 2^relevance - 1, over the first ten."""

    name = "ndcg@10"
    columns = ("query", "documents", "relevance")
    about = "normalized discounted cumulative gain; `relevance` has a number for each document"

    def gold(self, row: Row) -> list[float]:
        relevance, documents = row["relevance"], row["documents"]
        listed = isinstance(relevance, list) and isinstance(documents, list)
        if not listed or len(relevance) != len(documents):
            raise InputError("'relevance' is not a list with a number for each document")
        gains = [_number(each, "relevance") for each in relevance]
        if not any(each > 0 for each in gains):
            raise InputError(
                "no document is relevant: any order is as good", hint="leave the row out"
            )
        return gains

    def score(self, golds: Sequence[list[float]], answers: Sequence[Sequence[Any]]) -> float:
        return float(np.mean([self._one(gold, given) for gold, (given,) in _pairs(golds, answers)]))

    def _one(self, gold: list[float], ranked: Any) -> float:
        found = _gain([gold[document.index] for document in ranked.documents])
        best = _gain(sorted(gold, reverse=True))
        return found / best if best else 1.0


class MaskAccuracy(_Labelled):
    name = "accuracy"
    columns = ("text", "label")
    about = "share of texts whose best token is `label`; a list of one for each mask, where several"
    parameters: ClassVar[Mapping[str, Any]] = {"top_k": 1}

    def gold(self, row: Row) -> list[str]:
        label = row["label"]
        return [str(each).strip() for each in (label if isinstance(label, list) else [label])]

    def score(self, golds: Sequence[list[str]], answers: Sequence[Sequence[Any]]) -> float:
        return float(
            np.mean([self.right(gold, given) for gold, given in zip(golds, answers, strict=True)])
        )

    def right(self, gold: list[str], answers: Sequence[Any]) -> bool:
        return gold == [mask.predictions[0].token.strip() for mask in answers[0].masks]


class Spearman(_Labelled):
    """The rank correlation of cosine similarities with people's scores, as STS is scored."""

    name = "spearman"
    columns = ("a", "b", "score")
    about = "rank correlation of the cosine of the texts `a` and `b` with people's `score`"

    def inputs(self, row: Row) -> list[Any]:
        return [row["a"], row["b"]]

    def gold(self, row: Row) -> float:
        return _number(row["score"], "score")

    def score(self, golds: Sequence[float], answers: Sequence[Sequence[Any]]) -> float:
        from scipy.stats import spearmanr

        if len(set(golds)) < 2:
            raise RecipeError("every score in quality.data is the same: there is nothing to rank")
        return float(spearmanr(golds, [a.similarity(b) for a, b in answers]).statistic)


METRICS: dict[str, tuple[type[Metric], ...]] = {
    "text-classification": (Accuracy, LabelF1),
    "token-classification": (EntityF1,),
    "question-answering": (SpanF1, ExactMatch),
    "zero-shot-classification": (ZeroShotAccuracy,),
    "text-ranking": (Ndcg,),
    "fill-mask": (MaskAccuracy,),
    "feature-extraction": (Spearman,),
}


def metric_of(
    task: Task[Any, Any], name: str | None, asked: Mapping[str, Any] | None = None
) -> Metric:
    """The task's metric of that name, or its first one that fits the model. ``asked`` are the
    recipe's parameters.

    Raises `RecipeError` for a metric that the task does not have.
    """
    known = METRICS.get(task.name, ())
    if name is None:
        multi_label = getattr(task.config, "multi_label", False)
        return known[1 if multi_label else 0](task, asked)
    for metric in known:
        if metric.name == name:
            return metric(task, asked)
    raise RecipeError(
        f"{task.name} has no metric {name!r}; it has {', '.join(each.name for each in known)}",
        hint="see quality.metric in the recipe",
    )


def spans(labels: Sequence[str]) -> list[Span]:
    """The entities of a text's words: a kind, the first word and the one after the last.

    IOB2: ``B-`` begins one, ``I-`` goes on with one of its kind or, after another, begins one.
    """
    found: list[Span] = []
    for place, label in enumerate(labels):
        if label == "O":
            continue
        begins, kind = label.startswith("B-"), re.sub("^[BI]-", "", label)
        if found and not begins and found[-1][0] == kind and found[-1][2] == place:
            found[-1] = (kind, found[-1][1], place + 1)
        else:
            found.append((kind, place, place + 1))
    return found


def f1(pairs: Sequence[tuple[Any, Any]]) -> float:
    """Of sets, expected and found, summed over the pairs. Nothing expected and found is 1."""
    equal = sum(len(expected & found) for expected, found in pairs)
    total = sum(len(expected) + len(found) for expected, found in pairs)
    return 2 * equal / total if total else 1.0


def _number(value: object, column: str) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]  # that is what is tried
    except (TypeError, ValueError):
        number = nan
    if not isfinite(number):
        raise InputError(f"{column!r} is {value!r}, not a number")
    return number


def _pairs(golds: Sequence[Any], answers: Sequence[Sequence[Any]]) -> Any:
    return zip(golds, answers, strict=True)


def _gain(relevance: Sequence[float]) -> float:
    return float(
        sum((2**each - 1) / np.log2(place + 2) for place, each in enumerate(relevance[:10]))
    )


def _plain_words(text: str) -> list[str]:
    lowered = "".join(each for each in text.lower() if each not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", lowered).split()


def _word_f1(expected: list[str], found: list[str]) -> float:
    if not expected or not found:
        return float(expected == found)
    equal = sum((Counter(expected) & Counter(found)).values())
    return 2 * equal / (len(expected) + len(found))
