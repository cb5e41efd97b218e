"""A segment: the vectors and documents of one addition, mapped from its files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from lepton_edge.bundle.manifest import File
from lepton_edge.errors import SearchIndexError
from lepton_edge.search.files import Files, check_digest, mapped
from lepton_edge.search.graph import Graph
from lepton_edge.search.header import Header, Id, SegmentEntry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VECTORS, DOCUMENTS, OFFSETS = "vectors", "documents.jsonl", "offsets.u64"
KEYS, GRAPH = "keys", "graph.usearch"
STORED = {"float32": "<f4", "float16": "<f2"}


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of ``documents.jsonl``."""

    id: Id
    text: str
    metadata: dict[str, Any] | None = None
    truncated: bool = False


@dataclass(frozen=True)
class Segment:
    """An open segment. ``vectors`` is [rows, dimension] of the index's dtype; ``removed`` the
    sorted rows that are not part of the index any more; ``data`` the bytes of each file."""

    files: Files
    entry: SegmentEntry
    data: Mapping[str, NDArray[np.uint8]]
    vectors: NDArray[Any]
    removed: NDArray[np.uint32]
    graph: Graph | None
    _offsets: NDArray[Any]
    _hashes: NDArray[Any]
    _hash_rows: NDArray[Any]

    @property
    def rows(self) -> int:
        return self.entry.rows

    @property
    def live(self) -> int:
        """Documents that were not removed."""
        return self.entry.rows - len(self.removed)

    def is_removed(self, rows: NDArray[Any]) -> NDArray[np.bool_]:
        """For each row whether it was removed."""
        import numpy as np

        if not len(self.removed):
            return np.zeros(len(rows), bool)
        places = np.searchsorted(self.removed, rows)
        found: NDArray[np.bool_] = self.removed[np.minimum(places, len(self.removed) - 1)] == rows
        return found

    def line(self, row: int) -> bytes:
        """A document as it is stored, with its line end. Raises `SearchIndexError`."""
        start, end = int(self._offsets[row]), int(self._offsets[row + 1])
        documents = self.data[DOCUMENTS]
        if not 0 <= start < end <= len(documents):
            raise SearchIndexError(
                f"{self.files.where(OFFSETS)} is damaged: row {row + 1} is said to be the bytes "
                f"{start} to {end} of {len(documents):,}",
                hint="copy or build the index again",
            )
        return bytes(documents[start:end])

    def document(self, row: int) -> Document:
        """Raises `SearchIndexError` where the line is not a document."""
        try:
            return msgspec.json.decode(self.line(row), type=Document)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise SearchIndexError(
                f"{self.files.where(DOCUMENTS)}:{row + 1} is damaged: {error}",
                hint="copy or build the index again",
            ) from error

    def find(self, ids: Sequence[Id]) -> list[int | None]:
        """The row of each id; None for one that is not here, or was removed.

        Raises `SearchIndexError`.
        """
        import numpy as np

        hashes = np.array([key(each) for each in ids], dtype=np.uint64)
        starts = np.searchsorted(self._hashes, hashes)
        return [
            self._row(each, digest, int(start))
            for each, digest, start in zip(ids, hashes, starts, strict=True)
        ]

    def hashes(self) -> NDArray[np.uint64]:
        """The hash of each row's id, in the order of the rows. Raises `SearchIndexError`."""
        import numpy as np

        self._check_row(int(self._hash_rows.max()))
        hashes = np.empty(self.rows, dtype=np.uint64)
        hashes[self._hash_rows] = self._hashes
        return hashes

    def verify(self, progress: Callable[[int], None] | None = None) -> None:
        """Hash every file. ``progress`` is told the bytes. Raises `SearchIndexError`."""
        for name, file in files_of(self.entry).items():
            check_digest(self.files.where(name), self.data[name], file, progress)

    def _row(self, wanted: Id, digest: np.uint64, start: int) -> int | None:
        import numpy as np

        # Two ids of one hash are as good as impossible, but a wrong document is not an option.
        for place in range(start, self.rows):
            if self._hashes[place] != digest:
                break
            row = int(self._hash_rows[place])
            self._check_row(row)
            gone = self.is_removed(np.array([row]))[0]
            if not gone and self.document(row).id == wanted:
                return row
        return None

    def _check_row(self, row: int) -> None:
        if row >= self.rows:
            raise SearchIndexError(
                f"{self.files.where(KEYS)} is damaged: it names row {row + 1:,} of {self.rows:,}",
                hint="copy or build the index again",
            )


def key(document_id: Id) -> int:
    """64 bits that stand for an id: the number 1 and the text "1" are two ids."""
    from hashlib import blake2b

    text = json.dumps(document_id).encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")


def files_of(entry: SegmentEntry) -> dict[str, File]:
    """A segment's files by name."""
    files = {
        VECTORS: entry.vectors,
        DOCUMENTS: entry.documents,
        OFFSETS: entry.offsets,
        KEYS: entry.keys,
    }
    if entry.graph:
        files[GRAPH] = entry.graph
    if entry.removed:
        files[entry.removed.name] = entry.removed.file
    return files


def open_segment(files: Files, entry: SegmentEntry, header: Header) -> Segment:
    """Map a segment's files: their sizes are compared with the header's, nothing else is read but
    what was removed.

    Raises `SearchIndexError`, and `FileNotFoundError` where a file is gone.
    """
    rows, dimension = entry.rows, header.origin.dimension
    data = {name: mapped(files, name, file) for name, file in files_of(entry).items()}
    vectors = STORED[header.dtype]
    sizes = {VECTORS: rows * dimension * int(vectors[-1]), OFFSETS: (rows + 1) * 8, KEYS: rows * 12}
    for name, size in sizes.items():
        if len(data[name]) != size:
            raise SearchIndexError(
                f"{files.where(name)} has {len(data[name]):,} bytes; {rows:,} rows take {size:,}: "
                "the header is damaged",
                hint="copy or build the index again",
            )
    graph = Graph(files, GRAPH, data[GRAPH], entry.graph, rows, dimension) if entry.graph else None
    return Segment(
        files,
        entry,
        data,
        data[VECTORS].view(vectors).reshape(rows, dimension),
        _removed(files, entry, data),
        graph,
        data[OFFSETS].view("<u8"),
        data[KEYS][: rows * 8].view("<u8"),
        data[KEYS][rows * 8 :].view("<u4"),
    )


def _removed(
    files: Files, entry: SegmentEntry, data: Mapping[str, NDArray[np.uint8]]
) -> NDArray[np.uint32]:
    """The rows that were removed. Raises `SearchIndexError`."""
    import numpy as np

    if entry.removed is None:
        return np.zeros(0, np.uint32)
    name = entry.removed.name
    rows = data[name][: len(data[name]) // 4 * 4].view("<u4").astype(np.uint32)
    if len(data[name]) % 4 or rows[-1] >= entry.rows or (rows[1:] <= rows[:-1]).any():
        raise SearchIndexError(
            f"{files.where(name)} is damaged: it is not a list of rows",
            hint="copy or build the index again",
        )
    return rows


def open_all(
    files_of_name: Callable[[str], Files], header: Header, known: Sequence[Segment] = ()
) -> tuple[Segment, ...]:
    """The segments of a header; those of ``known`` that are still the same stay open as they are.

    Raises as `open_segment`.
    """
    same = {msgspec.json.encode(segment.entry): segment for segment in known}
    return tuple(
        same.get(msgspec.json.encode(entry))
        or open_segment(files_of_name(entry.name), entry, header)
        for entry in header.segments
    )
