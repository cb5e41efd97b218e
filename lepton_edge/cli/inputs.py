"""What a command line says of a model's inputs and parameters."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lepton_edge.cli.generation import SAMPLED, chosen_adapters
from lepton_edge.errors import InputError

if TYPE_CHECKING:
    from lepton_edge.tasks.base import AnyTask

T = TypeVar("T")

# More than any measurement gets through; bounds the memory of a very long file.
_MOST_TEXTS = 10_000
_GENERATION = (*SAMPLED, "source_language", "target_language", "num_beams")
_OPTIONS = (
    click.option(
        "--column",
        "columns",
        multiple=True,
        metavar="[FIELD=]NAME",
        help="The file's column with the text, or with a field of the task.",
    ),
    click.option(
        "--context", help="With question-answering: what the questions are about, or @FILE."
    ),
    click.option("--query", help="With text-ranking: what the texts are ranked for."),
    click.option("--labels", help="With zero-shot-classification: the labels, with commas."),
    click.option("--top-k", type=click.IntRange(min=1), help="How many labels or answers to give."),
    click.option(
        "-p",
        "--parameter",
        "parameters",
        multiple=True,
        metavar="NAME=VALUE",
        help="Another parameter of the task; VALUE is JSON, or text.",
    ),
)


def input_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that `Asked.of` reads, for a verb that answers texts or a file."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@dataclass(frozen=True)
class Asked:
    """What was asked of a model beside the texts themselves.

    ``parameters`` go to the model; ``others`` are fields of the task that belong to every text, by
    name; ``named`` are columns, each as ``FIELD=NAME`` or ``NAME``.
    """

    parameters: dict[str, Any]
    others: dict[str, str]
    named: tuple[str, ...]

    @classmethod
    def of(cls, options: Mapping[str, Any], *, from_file: bool) -> Asked:
        """From the values of `input_options`. Raises `click.UsageError`."""
        others = {"context": _text_or_file(options["context"]), "query": options["query"]}
        given = {field: text for field, text in others.items() if text is not None}
        if from_file and given:
            raise click.UsageError(f"--{next(iter(given))} goes with texts, not with --input")
        if options["columns"] and not from_file:
            raise click.UsageError("--column goes with --input")
        return cls(_parameters(options), given, tuple(options["columns"]))

    def columns(self, task: AnyTask) -> dict[str, str]:
        """A file's columns by field; a bare name is that of the task's only or first field."""
        columns: dict[str, str] = {}
        for each in self.named:
            field, equals, name = each.partition("=")
            columns[field if equals else task.fields[0]] = name if equals else each
        return columns

    def inputs(self, task: AnyTask, texts: Sequence[str]) -> list[Any]:
        """The task's inputs: the texts, each with what else belongs to it, or all of them as one.

        Raises `InputError`.
        """
        needed = [field for field in ("context", "query") if field in task.fields]
        if extra := [field for field in self.others if field not in needed]:
            raise InputError(f"{task.name} takes no {extra[0]}", hint=f"leave --{extra[0]} out")
        if missing := [field for field in needed if field not in self.others]:
            raise InputError(
                f"{task.name} needs a {missing[0]} beside the texts", hint=f"--{missing[0]} TEXT"
            )
        if "documents" in task.fields:
            return [{**self.others, "documents": list(texts)}]
        if not needed:
            return list(texts)
        (field,) = (field for field in task.fields if field not in needed)
        return [{field: text, **self.others} for text in texts]


def read_texts(file: Path, column: str) -> list[str]:
    """The texts of a .jsonl or .csv file, to measure with; of a long one some, evenly spaced, as
    it may be sorted. Raises `InputError`."""
    from lepton_edge.runtime.files import read_rows

    rows = _thinned(read_rows(file, {"text": column}), _MOST_TEXTS)
    for line, row in rows:
        if not isinstance(row[column], str) or not row[column].strip():
            raise InputError(f"{file}:{line}: {column!r} is empty or not text")
    if not rows:
        raise InputError(f"{file} has no rows")
    return [row[column] for _, row in rows]


def _thinned(rows: Iterable[T], most: int) -> list[T]:
    """As they come; each time there are too many, every second goes."""
    kept: list[T] = []
    stride = 1
    for place, row in enumerate(rows):
        if place % stride:
            continue
        kept.append(row)
        if len(kept) > most:
            del kept[1::2]
            stride *= 2
    return kept


def _parameters(options: Mapping[str, Any]) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    for each in options["parameters"]:
        name, equals, value = each.partition("=")
        if not equals:
            raise click.UsageError(f"--parameter is {each!r}: it is NAME=VALUE")
        try:
            parameters[name] = json.loads(value)
        except ValueError:
            parameters[name] = value
    if options["top_k"] is not None:
        parameters["top_k"] = options["top_k"]
    for name in _GENERATION:
        if options.get(name) is not None:
            parameters[name] = options[name]
    parameters |= chosen_adapters(options)
    if options["labels"] is not None:
        parameters["candidate_labels"] = [each.strip() for each in options["labels"].split(",")]
    return parameters


def _text_or_file(text: str | None) -> str | None:
    """The text, or with @ the text of that file."""
    if text is None or not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{text[1:]} is not UTF-8 text: {error.reason}") from None
