"""What INT8 takes the ranges of a model's numbers from."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class CalibrationInputs:
    """The task's inputs to calibrate with, read once for every target; ``about`` is what the
    manifest says of them."""

    inputs: tuple[Any, ...]
    parameters: Any
    samples: int
    about: Calibration

    def feeds(
        self, task: Task[Any, Any], encoder: TextEncoder, specs: Sequence[TensorSpec]
    ) -> list[Tensors]:
        """Each sequence alone; ``samples`` of them at most, spread evenly: an input can have many,
        one for each label, or window of a long text."""
        groups = task.tokenize(self.inputs, encoder, self.parameters, 1)
        sequences = [tokens for group in groups for tokens in group]
        if len(sequences) > self.samples:
            sequences = [sequences[i * len(sequences) // self.samples] for i in range(self.samples)]
        return [
            encoder.feeds(sequences, Batch((row,), len(tokens)), specs)
            for row, tokens in enumerate(sequences)
        ]


def read_calibration(task: Task[Any, Any], recipe: Section) -> CalibrationInputs:
    """What the recipe names; without data the built-in sentences, with a `LeptonWarning`.

    Raises `InputError` naming the file and line.
    """
    if recipe.data is None:
        warnings.warn(
            f"int8 is calibrated on {len(SENTENCES)} built-in sentences, which are not like your "
            "texts; name some of yours in the recipe: calibration: {data: texts.jsonl}",
            LeptonWarning,
            stacklevel=3,
        )
        inputs, parameters = task.examples(SENTENCES)
        about = Calibration(len(SENTENCES), None, None)
        return CalibrationInputs(tuple(inputs), parameters, recipe.samples, about)
    file = Path(recipe.data)
    inputs = _inputs(task, file, recipe)
    parameters = (
        task.parameters(recipe.parameters) if recipe.parameters else task.examples(["a"])[1]
    )
    about = Calibration(len(inputs), file.name, sha256(file))
    return CalibrationInputs(tuple(inputs), parameters, recipe.samples, about)


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
