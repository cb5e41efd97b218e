"""Zero-shot classification: labels named at the call, judged by a model of natural language
inference (NLI)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from lepton_edge.errors import InputError, SourceError
from lepton_edge.runtime.text import Tokenization
from lepton_edge.tasks.base import (
    Dimensions,
    Facts,
    Task,
    check_count,
    refuse_value,
    sigmoid,
    softmax,
)
from lepton_edge.tasks.labels import check_labels, labels_from
from lepton_edge.tasks.text_classification import Classification, classified

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lepton_edge.backend import Tensors
    from lepton_edge.runtime.text import TextEncoder, Tokens

_TEMPLATE = "This example is {}."
_TEMPLATE_RULE = "it is a sentence with one {} for the label"
_THRESHOLD = 0.5
_EXAMPLES = ("delivery", "payment", "weather")


@dataclass(frozen=True)
class ZeroShotClassificationOptions:
    """``task_options`` of a recipe for zero-shot-classification."""

    labels: tuple[str, ...] | None = None
    """The NLI labels in the order of the model's outputs; the model's own where absent."""
    entailment: str | None = None
    """Which of them says that the text entails the hypothesis; the one that begins with `entail`
    where absent."""
    contradiction: str | None = None
    """Which says that the text contradicts it; where absent the one that begins with `contradict`,
    or of two labels the other one."""
    hypothesis_template: str = _TEMPLATE
    """The sentence that a label is put into, at its one `{}`, where a call gives none."""

    def __post_init__(self) -> None:
        _check_template(self.hypothesis_template)

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  (a ClassVar to pydantic)


@dataclass(frozen=True)
class ZeroShotClassificationConfig:
    """The manifest's block."""

    labels: tuple[str, ...]
    """The NLI labels in the order of the outputs."""
    entailment: int
    """The place of the entailment label among them, from 0."""
    contradiction: int
    """The place of the contradiction label, from 0."""
    hypothesis_template: str
    """The sentence that a label is put into, where a call gives none."""

    def __post_init__(self) -> None:
        for name, place in (
            ("entailment", self.entailment),
            ("contradiction", self.contradiction),
        ):
            if not 0 <= place < len(self.labels):
                raise ValueError(f"{name} is {place}: there are {len(self.labels)} labels")
        _check_template(self.hypothesis_template)


@dataclass(frozen=True)
class ZeroShotClassificationParameters:
    """What a call may give."""

    candidate_labels: Sequence[str] = ()
    """The labels to choose among; a call has to give them."""
    hypothesis_template: str | None = None
    """The sentence that a label is put into, at its one `{}`; the bundle's own where None."""
    multi_label: bool = False
    """Each label is its own yes or no."""
    top_k: int | None = 5
    """How many labels `top` has; all where None."""

    def __post_init__(self) -> None:
        _check_candidates(self.candidate_labels)
        if self.hypothesis_template is not None:
            try:
                _check_template(self.hypothesis_template)
            except ValueError as error:
                raise InputError(str(error)) from None
        if not isinstance(self.multi_label, bool):
            refuse_value("multi_label", self.multi_label, "it is true or false")
        check_count("top_k", self.top_k, optional="for all labels")


class ZeroShotClassification(Task[str, Classification]):
    """Reads ``logits`` of shape [batch, NLI labels], of the text with each label's hypothesis.

    The method of Yin, Hay and Roth (2019, arXiv:1909.00161), with the scores of the transformers
    pipeline: softmax over the labels of the entailment logits; or with ``multi_label``, and for a
    single label, softmax of entailment against contradiction for each. That pipeline takes the
    first label for the contradiction (the last, where entailment is the first); here it is the
    one that the model or the recipe names so, and only where there are two is it the other one.
    """

    name: ClassVar[str] = "zero-shot-classification"
    outputs: ClassVar[Mapping[str, Dimensions]] = {"logits": ("batch", "size")}
    Options = ZeroShotClassificationOptions
    Config = ZeroShotClassificationConfig
    Parameters = ZeroShotClassificationParameters
    config: ZeroShotClassificationConfig

    @staticmethod
    def configure(
        options: ZeroShotClassificationOptions, facts: Facts
    ) -> ZeroShotClassificationConfig:
        labels = labels_from(options.labels, facts)
        entailment = _place(labels, "entailment", options.entailment, "entail")
        if len(labels) == 2 and options.contradiction is None:
            contradiction = 1 - entailment
        else:
            contradiction = _place(labels, "contradiction", options.contradiction, "contradict")
        if entailment == contradiction:
            raise SourceError(
                f"{labels[entailment]!r} cannot be both the entailment and the contradiction label",
                hint="see task_options.entailment and task_options.contradiction",
            )
        return ZeroShotClassificationConfig(
            labels, entailment, contradiction, options.hypothesis_template
        )

    def tokenization(self) -> Tokenization:
        """A long text is cut, never a hypothesis."""
        return Tokenization(truncation="only_first")

    def characters(self, given: str, parameters: ZeroShotClassificationParameters) -> int:
        """Of all pairs: the text goes with every label."""
        template = parameters.hypothesis_template or self.config.hypothesis_template
        return len(parameters.candidate_labels) * (len(given) + len(template))

    def tokenize(
        self,
        inputs: Sequence[str],
        encoder: TextEncoder,
        parameters: ZeroShotClassificationParameters,
        first: int,
    ) -> list[list[Tokens]]:
        """Of each text as many sequences as labels. Texts and hypotheses are tokenized once."""
        template = parameters.hypothesis_template or self.config.hypothesis_template
        names = [
            f"the hypothesis of {_named(index, label)}"
            for index, label in enumerate(parameters.candidate_labels)
        ]
        texts = encoder.parts(inputs, lambda index: f"text {first + index}")
        hypotheses = encoder.parts(
            [template.replace("{}", label) for label in parameters.candidate_labels],
            names.__getitem__,
        )
        return [
            [
                encoder.join(text, hypothesis, (f"text {position}", name))
                for hypothesis, name in zip(hypotheses, names, strict=True)
            ]
            for position, text in enumerate(texts, first)
        ]

    def read(
        self,
        outputs: Tensors,
        sequences: Sequence[Tokens],
        parameters: ZeroShotClassificationParameters,
    ) -> Sequence[Any]:
        """Of each pair the logits of entailment and contradiction."""
        logits: Any = outputs["logits"]
        check_labels(logits, self.config.labels)
        return list(logits[:, [self.config.entailment, self.config.contradiction]])

    def result(
        self,
        given: str,
        sequences: Sequence[Tokens],
        values: Sequence[Any],
        parameters: ZeroShotClassificationParameters,
    ) -> Classification:
        import numpy as np

        labels = parameters.candidate_labels
        entailment, contradiction = np.array(values).T
        if parameters.multi_label or len(labels) == 1:
            # Softmax of two is the sigmoid of their difference.
            scores, threshold = sigmoid(entailment - contradiction), _THRESHOLD
        else:
            scores, threshold = softmax(entailment), None
        truncated = any(tokens.truncated for tokens in sequences)
        return classified(labels, scores, threshold, parameters.top_k, truncated)

    def examples(self, texts: Sequence[str]) -> tuple[list[str], ZeroShotClassificationParameters]:
        return list(texts), ZeroShotClassificationParameters(_EXAMPLES)

    def labels_of(self, outputs: Mapping[str, NDArray[np.float32]]) -> NDArray[np.generic]:
        """The index of the best NLI label of a pair."""
        best: NDArray[np.generic] = outputs["logits"].argmax(axis=-1, keepdims=True)
        return best[None]


def _place(labels: Sequence[str], key: str, named: str | None, beginning: str) -> int:
    """Where the label is that the recipe names, or that has such a name."""
    listed = ", ".join(labels)
    if named is not None:
        if named not in labels:
            raise SourceError(
                f"task_options.{key} is {named!r}; the model's labels are {listed}",
                hint="name one of these",
            )
        return labels.index(named)
    found = [i for i, label in enumerate(labels) if label.lower().startswith(beginning)]
    if not found:
        raise SourceError(
            f"no label of the model is named {key}; its labels are {listed}",
            hint=f"if one of them means it, say which: task_options: {{{key}: LABEL}}; "
            "if none does, this is no model of natural language inference (NLI)",
        )
    return found[0]


def _check_template(template: object) -> None:
    """Raise `ValueError` unless it has one place for a label."""
    if not isinstance(template, str) or template.count("{}") != 1:
        raise ValueError(f"hypothesis_template is {template!r}: {_TEMPLATE_RULE}")


def _check_candidates(labels: object) -> None:
    """Raise `InputError` unless these are labels, each of them once."""
    if isinstance(labels, str) or not isinstance(labels, Sequence):
        raise InputError(
            f"candidate_labels is of type {type(labels).__name__}: it is a list of labels"
        )
    if not labels:
        raise InputError(
            "zero-shot-classification needs candidate_labels: the labels to choose among",
            hint="model(text, candidate_labels=['urgent', 'can wait']), "
            "or lepton-edge run --labels 'urgent, can wait'",
        )
    seen: dict[str, int] = {}
    for index, label in enumerate(labels):
        if not isinstance(label, str):
            raise InputError(
                f"candidate label {index + 1} is of type {type(label).__name__}: a label is text"
            )
        if not label.strip():
            raise InputError(f"candidate label {index + 1} is empty", hint="leave it out")
        before = seen.setdefault(label.strip(), index)
        if before != index:
            raise InputError(
                f"{_named(index, label)} is the same as candidate label {before + 1}",
                hint="leave one of them out",
            )


def _named(index: int, label: str) -> str:
    return f"candidate label {index + 1} ({label[:40]!r})"
