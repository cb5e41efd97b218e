"""What INT8 takes the ranges of a model's numbers from."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_edge.builder.quality.rows import read_data, refuse_blank, text_of
from lepton_edge.builder.sentences import SENTENCES
from lepton_edge.bundle.hashing import sha256
from lepton_edge.bundle.manifest import Calibration
from lepton_edge.errors import InputError, LeptonWarning
from lepton_edge.runtime.batching import Batch

if TYPE_CHECKING:
    from lepton_edge.backend import Tensors, TensorSpec
    from lepton_edge.recipe import Calibration as Section
    from lepton_edge.runtime.text import TextEncoder
    from lepton_edge.tasks.base import Task


def read_calibration(
    task: Task[Any, Any], recipe: Section, encoder: TextEncoder, specs: Sequence[TensorSpec]
) -> tuple[list[Tensors], Calibration]:
    """The inputs to calibrate with, each sequence alone, and what they are for the manifest.

    Without data they are the built-in sentences, with a `LeptonWarning`. Raises `InputError` naming
    the file and line.
    """
    if recipe.data is None:
        warnings.warn(
            f"int8 is calibrated on {len(SENTENCES)} built-in sentences, which are not like your "
            "texts; name some of yours in the recipe: calibration: {data: texts.jsonl}",
            LeptonWarning,
            stacklevel=2,
        )
        inputs, parameters = task.examples(SENTENCES)
        about = Calibration(len(SENTENCES), None, None)
    else:
        file = Path(recipe.data)
        inputs = _inputs(task, file, recipe)
        parameters = (
            task.parameters(recipe.parameters) if recipe.parameters else task.examples(["a"])[1]
        )
        about = Calibration(len(inputs), file.name, sha256(file))
    groups = task.tokenize(inputs, encoder, parameters, 1)
    sequences = [tokens for group in groups for tokens in group]
    # An input can have many sequences: one for each label, or window of a long text.
    if len(sequences) > recipe.samples:
        sequences = [sequences[i * len(sequences) // recipe.samples] for i in range(recipe.samples)]
    feeds: list[Tensors] = [
        encoder.feeds(sequences, Batch((row,), len(tokens)), specs)
        for row, tokens in enumerate(sequences)
    ]
    return feeds, about


def check_calibration(task: Task[Any, Any], recipe: Section) -> None:
    """Refuse, before anything slow, data that `read_calibration` could not use.

    Raises `InputError` naming the file and line.
    """
    if recipe.data is not None:
        _inputs(task, Path(recipe.data), recipe)
        if recipe.parameters:
            task.parameters(recipe.parameters)


def _inputs(task: Task[Any, Any], file: Path, recipe: Section) -> list[Any]:
    inputs = []
    for place, row in read_data(file, task.fields, recipe.columns, recipe.samples):
        # Words in a list are a text, where a text is all that a row has: documents are a list too.
        given = text_of(next(iter(row.values()))) if len(row) == 1 else row
        try:
            refuse_blank(given)
            inputs.append(task.read_input(given, 1))
        except InputError as error:
            raise InputError(f"{place}: {error.message}", hint=error.hint) from None
    return inputs
