"""The tasks, by the names of the field. One file each; imported when one is used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lepton_edge.errors import BundleError, InputError

if TYPE_CHECKING:
    from lepton_edge.tasks.base import AnyTask, Task

# Adding a task is adding a file and its line here.
SESSION_TASKS = {
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
TEXT_TO_TEXT_TASKS = {
    "translation": "lepton_edge.tasks.translation:Translation",
    "summarization": "lepton_edge.tasks.summarization:Summarization",
    "text2text-generation": "lepton_edge.tasks.text2text_generation:Text2TextGeneration",
}
GENERATION_TASKS = {
    "text-generation": "lepton_edge.tasks.text_generation:TextGeneration",
    **TEXT_TO_TEXT_TASKS,
}
TASKS = {**SESSION_TASKS, **GENERATION_TASKS}


def task_class(name: str) -> type[AnyTask]:
    """The class of a task. Raises `BundleError` for a task that this version does not have."""
    try:
        module, _, attribute = TASKS[name].partition(":")
    except KeyError:
        raise BundleError(
            f"this lepton-edge has no task {name!r}; it has {', '.join(TASKS)}",
            hint="pip install --upgrade lepton-edge",
        ) from None
    found: type[AnyTask] = getattr(import_module(module), attribute)
    return found


def session_task(name: str, purpose: str) -> type[Task[Any, Any]]:
    """As `task_class`, for what only a session can do. ``purpose`` is that, for messages.

    Raises `InputError` for a task that generates.
    """
    from lepton_edge.tasks.base import Task

    found = task_class(name)
    if not issubclass(found, Task):
        raise InputError(f"{purpose} is not for {name}, which answers token by token")
    return found
