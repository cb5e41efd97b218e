"""The tasks, by the names of the field. One file each; imported when one is used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lepton_edge.errors import BundleError

if TYPE_CHECKING:
    from lepton_edge.tasks.base import Task

# Adding a task is adding a file and its line here.
TASKS = {
    "text-classification": "lepton_edge.tasks.text_classification:TextClassification",
    "token-classification": "lepton_edge.tasks.token_classification:TokenClassification",
    "question-answering": "lepton_edge.tasks.question_answering:QuestionAnswering",
    "zero-shot-classification": (
        "lepton_edge.tasks.zero_shot_classification:ZeroShotClassification"
    ),
    "text-ranking": "lepton_edge.tasks.text_ranking:TextRanking",
    "fill-mask": "lepton_edge.tasks.fill_mask:FillMask",
    "feature-extraction": "lepton_edge.tasks.feature_extraction:FeatureExtraction",
}


def task_class(name: str) -> type[Task[Any, Any]]:
    """The class of a task. Raises `BundleError` for a task that this version does not have."""
    try:
        module, _, attribute = TASKS[name].partition(":")
    except KeyError:
        raise BundleError(
            f"this lepton-edge has no task {name!r}; it has {', '.join(TASKS)}",
            hint="pip install --upgrade lepton-edge",
        ) from None
    found: type[Task[Any, Any]] = getattr(import_module(module), attribute)
    return found
