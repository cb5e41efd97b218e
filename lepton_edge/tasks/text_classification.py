"""Text classification: one label of several, or any number of them (multi-label)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from lepton_edge.errors import SourceError
from lepton_edge.tasks.base import Dimensions, Facts, Task, check_count, sigmoid, softmax
from lepton_edge.tasks.labels import check_labels, labels_from

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lepton_edge.backend import Tensors
    from lepton_edge.runtime.text import Tokens


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


def classified(
    labels: Sequence[str],
    scores: NDArray[np.float32],
    threshold: float | None,
    top_k: int | None,
    truncated: bool,
) -> Classification:
    """The result for a score for each label: one label without a ``threshold``, else all that
    reach it. Of equal scores the earlier label comes first; ``top_k`` cuts no label that is given.
    """
    # Stable and descending, for the equal ones.
    order = (-scores).argsort(kind="stable")
    best = int(order[0])
    above = [best] if threshold is None else [int(i) for i in order if scores[i] >= threshold]
    kept = order[: None if top_k is None else max(top_k, len(above))]
    return Classification(
        label=labels[best],
        score=float(scores[best]),
        labels=tuple(labels[i] for i in above),
        top=tuple(LabelScore(labels[i], float(scores[i])) for i in kept.tolist()),
        truncated=truncated,
    )


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


@dataclass(frozen=True)
class TextClassificationParameters:
    """What a call may give."""

    top_k: int | None = 5
    """How many labels `top` has; all where None."""

    def __post_init__(self) -> None:
        check_count("top_k", self.top_k, optional="for all labels")


class TextClassification(Task[str, Classification]):
    """Reads ``logits`` of shape [batch, labels]."""

    name: ClassVar[str] = "text-classification"
    outputs: ClassVar[Mapping[str, Dimensions]] = {"logits": ("batch", "size")}
    Options = TextClassificationOptions
    Config = TextClassificationConfig
    Parameters = TextClassificationParameters
    config: TextClassificationConfig

    @staticmethod
    def configure(options: TextClassificationOptions, facts: Facts) -> TextClassificationConfig:
        labels = labels_from(options.labels, facts)
        multi_label = facts.multi_label if options.multi_label is None else options.multi_label
        if len(labels) == 1 and not multi_label:
            # Softmax over one output is always 1. Regression heads and rankers have just one.
            raise SourceError(
                f"the model has one output, {labels[0]!r}: a number, not a choice of labels",
                hint="if it ranks documents for a query: --task text-ranking; "
                "task_options: {multi_label: true} gives the probability of that one label",
            )
        return TextClassificationConfig(labels, bool(multi_label), options.threshold)

    def read(
        self,
        outputs: Tensors,
        sequences: Sequence[Tokens],
        parameters: TextClassificationParameters,
    ) -> Sequence[Any]:
        logits: Any = outputs["logits"]
        check_labels(logits, self.config.labels)
        return list(self.probabilities(logits))

    def result(
        self,
        given: str,
        sequences: Sequence[Tokens],
        values: Sequence[Any],
        parameters: TextClassificationParameters,
    ) -> Classification:
        threshold = self.config.threshold if self.config.multi_label else None
        (scores,) = values
        return classified(
            self.config.labels, scores, threshold, parameters.top_k, sequences[0].truncated
        )

    def probabilities(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Softmax over the labels, or the sigmoid of each with a multi-label model."""
        return sigmoid(logits) if self.config.multi_label else softmax(logits)

    def labels_of(self, outputs: Mapping[str, NDArray[np.float32]]) -> NDArray[np.generic]:
        """The index of the best label, or with a multi-label model the flags at the threshold."""
        logits = outputs["logits"]
        if self.config.multi_label:
            flags: NDArray[np.generic] = self.probabilities(logits) >= self.config.threshold
            return flags[None]
        best: NDArray[np.generic] = logits.argmax(axis=-1, keepdims=True)
        return best[None]
