"""An index of a file: JSON Lines or CSV, a text a row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_edge.errors import InputError
from lepton_edge.runtime.files import Row, input_of, read_rows
from lepton_edge.search.changes import Added, Entry
from lepton_edge.search.header import Dtype, Kind
from lepton_edge.search.index import Index, build

if TYPE_CHECKING:
    from lepton_edge.runtime.model import Model


def build_from_file(
    model: Model,
    source: Path,
    path: Path,
    *,
    column: str = "text",
    id_column: str | None = None,
    force: bool = False,
    dtype: Dtype = "float32",
    kind: Kind = "exact",
    progress: Callable[[int], None] | None = None,
) -> tuple[Index, Added]:
    """Build the index ``path`` of every row of ``source``: ``.jsonl``, or ``.csv`` with a header.

    ``column`` has the text and ``id_column`` the id; without one rows are numbered from 0. The
    other columns are the text's metadata. The rest is as in `Index.build`. Raises `InputError`
    naming file and line, and what `Index.build` raises.
    """
    entries = _entries(source, column, id_column)
    return build(model, entries, path, force=force, dtype=dtype, kind=kind, progress=progress)


def add_from_file(
    model: Model,
    source: Path,
    path: Path,
    *,
    column: str = "text",
    id_column: str | None = None,
    replace: bool = False,
    progress: Callable[[int], None] | None = None,
) -> tuple[Index, Added]:
    """Add every row of ``source`` to the index ``path``, all or none of them.

    As `build_from_file` and `Index.add`.
    """
    index = Index.open(path)
    entries = _entries(source, column, id_column)
    return index, index.append(model, entries, replace=replace, progress=progress)


def _entries(source: Path, column: str, id_column: str | None) -> Iterator[Entry]:
    fields = {"text": column}
    found = False
    for line, row in read_rows(source, fields):
        found = True
        place = f"{source}:{line}"
        text = input_of(row, fields, place)
        rest = {name: value for name, value in row.items() if name not in (column, id_column)}
        yield Entry(text, _id(row, id_column, place), rest, place, f"{place}: {column!r}")
    if not found:
        raise InputError(f"{source} has no rows")


def _id(row: Row, column: str | None, place: str) -> Any:
    if column is None:
        return None
    if column not in row:
        raise InputError(
            f"{place}: there is no {column!r}; it has {', '.join(row)}",
            hint="name the column of the ids: --id-column NAME",
        )
    if row[column] in (None, ""):
        raise InputError(f"{place}: {column!r} is empty")
    return row[column]
