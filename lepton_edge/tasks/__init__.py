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
    "feature-extraction": "lepton_edge.tasks.feature_extraction:FeatureExtraction",
}


def task_class(name: str) -> type[Task[Any]]:
    """The class of a task. Raises `BundleError` for a task that this version does not have."""
    try:
        module, _, attribute = TASKS[name].partition(":")
    except KeyError:
        raise BundleError(
            f"this lepton-edge has no task {name!r}; it has {', '.join(TASKS)}",
            hint="pip install --upgrade lepton-edge",
        ) from None
    found: type[Task[Any]] = getattr(import_module(module), attribute)
    return found
