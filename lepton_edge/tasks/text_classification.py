"""Text classification: one label of several, or any number of them (multi-label)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from lepton_edge.errors import InferenceError, InputError, SourceError
from lepton_edge.tasks.base import Facts, Task, refuse_options

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class LabelScore:
    """A label and its probability, 0 to 1."""

    label: str
    score: float

    def __str__(self) -> str:
        return f"{self.label} {self.score:.1%}"


@dataclass(frozen=True)
class Classification:
    """What a text was classified as.

    ``label`` is the most likely label and ``score`` its probability. ``top`` holds the most likely
    labels, best first. ``labels`` are those given: the one, or with a multi-label model all at or
    above the threshold, perhaps none. ``truncated``: the text was longer than the model takes.
    """

    label: str
    score: float
    labels: tuple[str, ...]
    top: tuple[LabelScore, ...]
    truncated: bool = False

    def __str__(self) -> str:
        note = "  (text truncated)" if self.truncated else ""
        if len(self.labels) == 1:
            return f"{self.labels[0]} {self.score:.1%}{note}"
        given = ", ".join(str(entry) for entry in self.top if entry.label in self.labels)
        return f"{given or 'no label'}{note}"


@dataclass(frozen=True)
class TextClassificationOptions:
    """``task_options`` of a recipe for text-classification."""

    labels: tuple[str, ...] | None = None
    """The labels' names in the order of the model's outputs; the model's own where absent."""
    multi_label: bool | None = None
    """Each label is its own yes or no (sigmoid); the model's `problem_type` where absent."""
    threshold: float = 0.5
    """With multi-label: the probability from which a label is given."""

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}: a probability is from 0 to 1")

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  (a ClassVar to pydantic)


@dataclass(frozen=True)
class TextClassificationConfig:
    """The manifest's block."""

    labels: tuple[str, ...]
    """The labels' names in the order of the outputs."""
    multi_label: bool
    """Whether each label is its own yes or no."""
    threshold: float
    """With multi-label: the probability from which a label is given."""


class TextClassification(Task[Classification]):
    """Reads ``logits`` of shape [batch, labels]."""

    name: ClassVar[str] = "text-classification"
    output: ClassVar[str] = "logits"
    Options = TextClassificationOptions
    Config = TextClassificationConfig
    config: TextClassificationConfig

    @staticmethod
    def configure(options: TextClassificationOptions, facts: Facts) -> TextClassificationConfig:
        labels = options.labels or facts.labels
        if not labels:
            raise SourceError(
                "the model does not name its labels",
                hint="name them in the recipe, in the order of the outputs: "
                "task_options: {labels: [...]}",
            )
        if facts.labels and len(labels) != len(facts.labels):
            raise SourceError(
                f"the recipe names {len(labels)} labels; the model has {len(facts.labels)} outputs"
            )
        if len(set(labels)) != len(labels):
            raise SourceError("two labels have the same name", hint="see task_options.labels")
        multi_label = facts.multi_label if options.multi_label is None else options.multi_label
        if len(labels) == 1 and not multi_label:
            # Softmax over one output is always 1. Regression heads and rankers have just one.
            raise SourceError(
                f"the model has one output, {labels[0]!r}: a number, not a choice of labels",
                hint="task_options: {multi_label: true} gives the probability of that one label",
            )
        return TextClassificationConfig(tuple(labels), bool(multi_label), options.threshold)

    def results(
        self,
        output: NDArray[np.float32],
        truncated: Sequence[bool],
        top_k: int | None = 5,
        **options: Any,
    ) -> list[Classification]:
        """``top_k`` limits ``top``; None keeps every label."""
        refuse_options(self.name, options)
        if top_k is not None and (not isinstance(top_k, int) or top_k < 1):
            raise InputError(f"top_k is {top_k!r}: it is a number from 1, or None for all labels")
        if output.shape[1] != len(self.config.labels):
            raise InferenceError(
                f"the model gives {output.shape[1]} scores; the manifest names "
                f"{len(self.config.labels)} labels",
                hint="build or copy the bundle again",
            )
        scores = self.probabilities(output)
        # Stable and descending, so that of equal scores the earlier label comes first.
        order = (-scores).argsort(axis=1, kind="stable")
        return [
            self._result(row, ranks, flag, top_k)
            for row, ranks, flag in zip(scores, order, truncated, strict=True)
        ]

    def _result(
        self,
        scores: NDArray[np.float32],
        order: NDArray[np.intp],
        truncated: bool,
        top_k: int | None,
    ) -> Classification:
        labels, config = self.config.labels, self.config
        best = int(order[0])
        given: tuple[str, ...] = (labels[best],)
        kept = order[:top_k]
        if config.multi_label:
            above = [int(i) for i in order if scores[i] >= config.threshold]
            given = tuple(labels[i] for i in above)
            kept = order[: None if top_k is None else max(top_k, len(above))]
        top = tuple(LabelScore(labels[i], float(scores[i])) for i in kept.tolist())
        return Classification(labels[best], float(scores[best]), given, top, truncated)

    def probabilities(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Softmax over the labels, or the sigmoid of each with a multi-label model."""
        import numpy as np

        if self.config.multi_label:
            # Clipped so that exp() does not overflow; the result is 0 or 1 there anyway.
            result: NDArray[np.float32] = np.reciprocal(1 + np.exp(-np.clip(logits, -80, 80)))
            return result
        exps = np.exp(logits - logits.max(axis=1, keepdims=True))
        normalized: NDArray[np.float32] = exps / exps.sum(axis=1, keepdims=True)
        return normalized

    def labels_of(self, output: NDArray[np.float32]) -> NDArray[np.generic]:
        """The index of the best label, or with a multi-label model the flags at the threshold."""
        if self.config.multi_label:
            flags: NDArray[np.generic] = self.probabilities(output) >= self.config.threshold
            return flags
        best: NDArray[np.generic] = output.argmax(axis=1, keepdims=True)
        return best
