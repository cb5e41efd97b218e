"""Labels, for the tasks whose outputs have one place for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lepton_edge.errors import InferenceError, SourceError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lepton_edge.tasks.base import Facts


def labels_from(named: Sequence[str] | None, facts: Facts) -> tuple[str, ...]:
    """The labels that a recipe names, else the model's own, in the order of the outputs.

    Raises `SourceError`.
    """
    labels = named or facts.labels
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
    return tuple(labels)


def check_labels(logits: NDArray[Any], labels: Sequence[str]) -> None:
    """Raise `InferenceError` unless the last dimension has a place for each label."""
    if logits.shape[-1] != len(labels):
        raise InferenceError(
            f"the model gives {logits.shape[-1]} scores; the manifest names {len(labels)} labels",
            hint="build or copy the bundle again",
        )
