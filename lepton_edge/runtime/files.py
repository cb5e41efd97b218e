"""Running a model over a file: JSON Lines or CSV in, the same rows with results out."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from lepton_edge.errors import InferenceError, InputError
from lepton_edge.storage import new_file

if TYPE_CHECKING:
    from lepton_edge.runtime.model import Model
    from lepton_edge.tasks.base import AnyTask

Row = dict[str, Any]
SUFFIXES = (".jsonl", ".csv")
_MAX_CELL = 2**31 - 1

# Enough for full micro-batches of each length, small enough that progress moves.
_CHUNK = 512


def run_file(
    model: Model,
    source: Path,
    output: Path | TextIO,
    *,
    columns: Mapping[str, str] | None = None,
    force: bool = False,
    progress: Callable[[int], None] | None = None,
    **parameters: Any,
) -> int:
    """Write every row of ``source`` with its result's fields added; gives the number of rows.

    Both are JSON Lines (``.jsonl``) or CSV with a header (``.csv``); a stream is written as JSON
    Lines. ``columns`` says which column has which of the task's fields, where their names differ:
    ``{"text": "review"}``. What a row has stays as it is: a result's field of the same
    name is written as ``result_NAME``. An output file appears whole or not at all. ``progress``
    is told the rows done. ``parameters`` go to the model.

    Raises `InputError` naming file and line, and what the model raises.
    """
    fields = columns_of(model.task, columns)
    rows = read_rows(source, fields)
    done = 0
    with ExitStack() as stack:
        if isinstance(output, Path):
            _suffix(output)
            work = stack.enter_context(new_file(output, replace=force))
            stream = stack.enter_context(work.open("w", encoding="utf-8", newline=""))
            write = _csv_writer(stream) if _suffix(output) == ".csv" else _jsonl_writer(stream)
        else:
            write = _jsonl_writer(output)
        while chunk := list(islice(rows, _CHUNK)):
            results = _results(model, source, chunk, fields, parameters)
            for (line, row), result in zip(chunk, results, strict=True):
                try:
                    write(merged(row, result))
                except ValueError as error:
                    raise InputError(f"{source}:{line}: cannot be written: {error}") from None
            done += len(chunk)
            if progress:
                progress(len(chunk))
        if not done:
            raise InputError(f"{source} has no rows")
    return done


def columns_of(task: AnyTask | type[AnyTask], given: Mapping[str, str] | None) -> dict[str, str]:
    """The column of each of a task's fields: the one given, else the one of its name.

    Raises `InputError` for a field that the task does not have.
    """
    unknown = [field for field in given or () if field not in task.fields]
    if unknown:
        raise InputError(
            f"{task.name} has no field {unknown[0]!r}; it has {', '.join(task.fields)}"
        )
    return {field: (given or {}).get(field, field) for field in task.fields}


def read_rows(source: Path, fields: Mapping[str, str]) -> Iterator[tuple[int, Row]]:
    """Each row with its line number; every row has the column of each field.

    Raises `InputError`.
    """
    suffix = _suffix(source)
    try:
        # utf-8-sig: spreadsheets put a byte order mark before the first column's name.
        with source.open(encoding="utf-8-sig", newline="") as file:
            rows = _csv_rows if suffix == ".csv" else _jsonl_rows
            for line, row in rows(source, file):
                for field, column in fields.items():
                    if column not in row:
                        raise InputError(
                            f"{source}:{line}: there is no {column!r}; "
                            f"it has {', '.join(row) or 'nothing'}",
                            hint=f"name the one with the {field}: --column {field}=NAME",
                        )
                yield line, row
    except FileNotFoundError:
        raise InputError(f"there is no file at {source}") from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{source} is not UTF-8 text: {error.reason} at byte {error.start}"
        ) from None
    except OSError as error:
        raise InputError(f"{source} cannot be read: {error.strerror}") from error


def count_lines(source: Path) -> int | None:
    """Lines of a file: the rows, or a little more, for a progress bar. None if unreadable, or a
    pipe, which gives what it holds only once."""
    if not source.is_file():
        return None
    try:
        with source.open("rb") as file:
            return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))
    except OSError:
        return None


def _suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{path} is neither {' nor '.join(SUFFIXES)}", hint="rename or convert it")
    return suffix


def _jsonl_rows(source: Path, file: Iterable[str]) -> Iterator[tuple[int, Row]]:
    for line, text in enumerate(file, 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{source}:{line}: not valid JSON: {error}") from None
        if not isinstance(row, dict):
            raise InputError(f'{source}:{line}: a line is an object such as {{"text": "…"}}')
        yield line, row


def _csv_rows(source: Path, file: Iterable[str]) -> Iterator[tuple[int, Row]]:
    """Rows by the header's names, with the number of each row's last line."""
    # The limit is of the whole process, so it is only ever raised; how long a text may be is for
    # the bundle to say.
    csv.field_size_limit(max(csv.field_size_limit(), _MAX_CELL))
    reader = csv.DictReader(file, strict=True)
    try:
        _check_header(source, reader.fieldnames or ())
        for row in reader:
            # A comma that is not quoted cuts the text short, and the rest lands here.
            if any(row.pop(None, ())):
                raise InputError(
                    f"{source}:{reader.line_num}: has more cells than the header's "
                    f"{len(reader.fieldnames or ())}",
                    hint='put a text with commas in quotes: "a, b"',
                )
            yield reader.line_num, dict(row)
    except csv.Error as error:
        line = reader.line_num + 1  # counted where a row ends, and this one did not
        raise InputError(f"{source}:{line}: not valid CSV: {error}") from None


def _check_header(source: Path, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise InputError(f"{source}:1: two columns have the name {twice[0]!r}")


def _results(
    model: Model,
    source: Path,
    chunk: list[tuple[int, Row]],
    fields: Mapping[str, str],
    parameters: dict[str, Any],
) -> list[Row]:
    inputs = [input_of(row, fields, f"{source}:{line}") for line, row in chunk]
    try:
        results = model(inputs, **parameters)
    except InputError:
        _name_the_line(model, source, chunk, fields, parameters)
        raise
    except InferenceError as error:
        first, last = chunk[0][0], chunk[-1][0]
        raise InferenceError(
            f"{source}: of the rows in lines {first} to {last}, {error.message}", hint=error.hint
        ) from error
    return [
        msgspec.to_builtins(result, enc_hook=lambda array: array.tolist()) for result in results
    ]


def input_of(row: Row, fields: Mapping[str, str], where: str) -> Any:
    """A row's fields as a task takes them: the text alone, or a mapping of several fields.

    Raises `InputError` naming the place.
    """
    values = {field: row[column] for field, column in fields.items()}
    for field, value in values.items():
        if value in (None, "", []) or (isinstance(value, str) and not value.strip()):
            raise InputError(f"{where}: {fields[field]!r} is empty")
        # Several texts, such as the documents to rank, are a list.
        if not isinstance(value, (str, list) if len(fields) > 1 else str):
            raise InputError(f"{where}: {fields[field]!r} is not text")
    return next(iter(values.values())) if len(fields) == 1 else values


def _name_the_line(
    model: Model,
    source: Path,
    chunk: list[tuple[int, Row]],
    fields: Mapping[str, str],
    parameters: dict[str, Any],
) -> None:
    """Raise the first row's error with its line: the model counts inputs, a reader lines."""
    asked = model.task.parameters(parameters)
    for line, row in chunk:
        try:
            model.check_input(input_of(row, fields, ""), asked)
        except InputError as error:
            message = error.message
            if len(fields) == 1:
                message = message.replace("text 1", repr(*fields.values()), 1)
            message = message.removeprefix("input 1: ")
            raise InputError(f"{source}:{line}: {message}", hint=error.hint) from None


def merged(row: Row, result: Row) -> Row:
    """The row with the result's fields. A gold ``label`` must survive a prediction's."""
    both = dict(row)
    for name, value in result.items():
        free = name
        while free in row:
            free = f"result_{free}"
        both[free] = value
    return both


def _jsonl_writer(stream: TextIO) -> Callable[[Row], None]:
    def write(row: Row) -> None:
        stream.write(json.dumps(row, ensure_ascii=False) + "\n")

    return write


def _csv_writer(stream: TextIO) -> Callable[[Row], None]:
    """Lists and objects become JSON inside their cell."""
    writer: csv.DictWriter[str] | None = None

    def write(row: Row) -> None:
        nonlocal writer
        if writer is None:
            writer = csv.DictWriter(stream, list(row), restval="")
            writer.writeheader()
        if new := [key for key in row if key not in writer.fieldnames]:
            raise ValueError(
                f"the CSV's header, made of the first row, has no {', '.join(new)}; "
                "an output in .jsonl needs none"
            )
        writer.writerow(
            {
                key: json.dumps(value, ensure_ascii=False)
                if isinstance(value, (list, tuple, dict, bool))
                else value
                for key, value in row.items()
            }
        )

    return write


def read_lines(stream: TextIO | io.TextIOBase) -> list[str]:
    """A text a line. Raises `InputError`."""
    try:
        texts = [line.rstrip("\r\n") for line in stream]
    except UnicodeDecodeError as error:
        raise InputError(
            f"standard input is not {error.encoding} text: {error.reason} at byte {error.start}"
        ) from None
    if not texts:
        raise InputError("standard input is empty", hint="give a text a line")
    return texts
