"""How good a model is at its task: the original and what was compiled, on the same examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_edge.backend import Session
from lepton_edge.builder.quality.metrics import Metric, metric_of
from lepton_edge.builder.quality.rows import read_data, refuse_blank
from lepton_edge.bundle.hashing import sha256
from lepton_edge.errors import InputError, QualityError
from lepton_edge.runtime.session_model import SessionModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lepton_edge.backend import Graph, Tensors
    from lepton_edge.builder.source import Original
    from lepton_edge.bundle.manifest import Manifest
    from lepton_edge.recipe import Quality as Limits
    from lepton_edge.runtime.text import TextEncoder
    from lepton_edge.tasks.base import Task


class OriginalSession(Session):
    """The model as it was given, behind the interface of a compiled one."""

    def __init__(self, original: Original, graph: Graph) -> None:
        self._original = original
        self.inputs = graph.inputs
        self.outputs = graph.outputs
        self.device = "CPU"
        self.details = {"compute": "fp32"}

    def infer(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        return self._original.run(feeds)

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Examples:
    """The recipe's evaluation data, read for one task: what to ask, and what is right."""

    file: Path
    sha256: str
    metric: Metric
    inputs: tuple[tuple[Any, ...], ...]
    golds: tuple[Any, ...]
    parameters: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.golds)

    def part(self, count: int) -> Examples:
        """So many of them, spread evenly."""
        if count >= len(self):
            return self
        chosen = [index * len(self) // count for index in range(count)]
        return Examples(
            self.file,
            self.sha256,
            self.metric,
            tuple(self.inputs[index] for index in chosen),
            tuple(self.golds[index] for index in chosen),
            self.parameters,
        )

    def flat(self) -> list[Any]:
        """Every input, in order."""
        return [each for inputs in self.inputs for each in inputs]

    def missing_labels(self) -> list[str]:
        """Labels of the model that no example has."""
        return self.metric.absent(self.golds)


@dataclass(frozen=True)
class Scored:
    """A model's metric on the examples, and the answers that it was computed from."""

    value: float
    answers: tuple[tuple[Any, ...], ...]


def read_examples(task: Task[Any, Any], recipe: Limits) -> Examples | None:
    """The recipe's evaluation data; None where it names none.

    Raises `InputError` naming the file and line, and `RecipeError` for a metric that the task does
    not have.
    """
    metric = metric_of(task, recipe.metric, recipe.parameters)
    if recipe.data is None:
        return None
    file = Path(recipe.data)
    parameters = {**recipe.parameters, **metric.parameters}
    task.parameters(parameters)  # refused now rather than after the slow work
    inputs, golds = [], []
    for place, row in read_data(file, metric.columns, recipe.columns, recipe.samples):
        try:
            golds.append(metric.gold(row))
            asked = metric.inputs(row)
            for each in asked:
                refuse_blank(each)
            inputs.append(tuple(task.read_input(each, 1) for each in asked))
        except InputError as error:
            message = error.message.replace("text 1", "the text", 1)
            raise InputError(f"{place}: {message}", hint=error.hint) from None
    return Examples(file, sha256(file), metric, tuple(inputs), tuple(golds), parameters)


class Judge:
    """Scores models on the same examples; ``original`` is what the original scores."""

    def __init__(
        self,
        manifest: Manifest,
        encoder: TextEncoder,
        task: Task[Any, Any],
        examples: Examples,
        max_drop: float,
        original: Session,
    ) -> None:
        self._manifest = manifest
        self._encoder = encoder
        self._task = task
        self.examples = examples
        self.max_drop = max_drop
        self.original = self.score(original)
        if not isfinite(self.original.value):
            raise QualityError(
                f"the original's {examples.metric.name} on {examples.file} is not a number: "
                "its answers do not differ",
                hint="is this the right model? its weights may be damaged",
            )

    @property
    def speaks(self) -> bool:
        """Whether the metric can tell: where the original gets nothing right, nothing is lost."""
        return self.original.value != 0

    @property
    def at_least(self) -> float:
        """The lowest score that is good enough."""
        return self.original.value - self.max_drop / 100

    def score(self, session: Session, count: int | None = None) -> Scored:
        """The session's answers to the examples, or to so many of them, and their metric."""
        examples = self.examples if count is None else self.examples.part(count)
        results = iter(self.model(session)(examples.flat(), **examples.parameters))
        answers = tuple(tuple(next(results) for _ in inputs) for inputs in examples.inputs)
        return Scored(examples.metric.score(examples.golds, answers), answers)

    def model(self, session: Session) -> SessionModel:
        """The session with this task, to be called with the examples' inputs."""
        return SessionModel(self._manifest, session, self._encoder, self._task)


def drop(original: float, compiled: float) -> float:
    """How many points (hundredths) of the metric were lost; negative where it rose."""
    return round((original - compiled) * 100, 6)
