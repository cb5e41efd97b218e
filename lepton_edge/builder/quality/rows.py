"""Rows of a recipe's data file: read whole, checked, and spread evenly where only some are used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lepton_edge.errors import InputError
from lepton_edge.runtime.files import Row, read_rows

Place = str
"""A file and a line, for messages."""


def read_data(
    file: Path, columns: Sequence[str], named: Mapping[str, str], samples: int | None
) -> list[tuple[Place, Row]]:
    """The rows, each with ``columns`` under those very names. ``named`` gives the file's names for
    them, where they differ.

    Raises `InputError` naming the file and the line.
    """
    unknown = [name for name in named if name not in columns]
    if unknown:
        raise InputError(
            f"{file}: columns names {unknown[0]!r}; what is read here is {', '.join(columns)}",
            hint="columns: {FIELD: the file's name for it}",
        )
    wanted = {column: named.get(column, column) for column in columns}
    rows = [
        (f"{file}:{line}", {column: row[name] for column, name in wanted.items()})
        for line, row in read_rows(file, wanted)
    ]
    if not rows:
        raise InputError(f"{file} has no rows", hint="a row has " + ", ".join(columns))
    if samples is not None and samples < len(rows):
        rows = [rows[index * len(rows) // samples] for index in range(samples)]
    return rows


def refuse_blank(given: Any) -> None:
    """Raise `InputError` for an empty text, without naming the place."""
    texts = given.items() if isinstance(given, Mapping) else [("the text", given)]
    for name, text in texts:
        if isinstance(text, str) and not text.strip():
            raise InputError(f"{name} is empty", hint="leave the row out")


def text_of(value: Any) -> Any:
    """A field's value as the task takes it: words of a text in a list become the text."""
    if isinstance(value, list) and value and all(isinstance(word, str) for word in value):
        return " ".join(value)
    return value
