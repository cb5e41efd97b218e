"""Writing segments: new documents as they come, or the rows of older segments together."""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lepton_edge.bundle.manifest import File
from lepton_edge.errors import InputError
from lepton_edge.search import graph
from lepton_edge.search.files import DigestedFile, Files
from lepton_edge.search.header import Header, SegmentEntry
from lepton_edge.search.segment import (
    DOCUMENTS,
    GRAPH,
    KEYS,
    OFFSETS,
    STORED,
    VECTORS,
    Document,
    Segment,
    key,
)

if TYPE_CHECKING:
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Self

_CHUNK = 4096  # rows copied at one time


class SegmentWriter:
    """Writes one segment row by row; what it holds in memory is 16 bytes a row.

    Raises `BackendError` where the index is approximate and usearch is not installed.
    """

    def __init__(self, files: Files, header: Header) -> None:
        if header.kind == "approximate":
            graph.require()
        self.rows = 0
        self._files = files
        self._header = header
        self._vectors = DigestedFile(files.create(VECTORS))
        self._documents = DigestedFile(files.create(DOCUMENTS))
        self._offsets = array("Q", [0])
        self._hashes = array("Q")
        self._graph: graph.GraphWriter | None = None

    def write(
        self,
        vectors: NDArray[np.float32],
        documents: Sequence[Document],
        places: Sequence[str],
    ) -> None:
        """New documents with their vectors: float32 [documents, dimension] of length 1.

        Raises `InputError`, with the document's place, where metadata is not JSON.
        """
        lines = [encode(each, place) for each, place in zip(documents, places, strict=True)]
        hashes = [key(document.id) for document in documents]
        self._append(vectors.astype(STORED[self._header.dtype]), lines, hashes)

    def copy(self, segment: Segment) -> None:
        """The rows of another segment that were not removed, as they are stored there.

        Raises `SearchIndexError` where it is damaged: the copy would have a SHA-256 that is right.
        """
        import numpy as np

        segment.verify()
        hashes = segment.hashes()
        for start in range(0, segment.rows, _CHUNK):
            rows = np.arange(start, min(start + _CHUNK, segment.rows))
            rows = rows[~segment.is_removed(rows)]
            if len(rows):
                lines = [segment.line(int(row)) for row in rows]
                self._append(segment.vectors[rows], lines, hashes[rows].tolist())

    def finish(self, name: str) -> SegmentEntry:
        """Close the files; the segment as the header names it. At least one row was written."""
        import numpy as np

        offsets = self._file(OFFSETS, np.frombuffer(self._offsets, np.uint64).astype("<u8"))
        hashes = np.frombuffer(self._hashes, np.uint64)
        order = hashes.argsort(kind="stable")
        keys = self._file(KEYS, hashes[order].astype("<u8"), order.astype("<u4"))
        return SegmentEntry(
            name=name,
            rows=self.rows,
            vectors=self._vectors.close(),
            documents=self._documents.close(),
            offsets=offsets,
            keys=keys,
            graph=self._save_graph(),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._vectors.abandon()
        self._documents.abandon()

    def _append(self, vectors: NDArray[Any], lines: list[bytes], hashes: list[int]) -> None:
        self._vectors.write_array(vectors)
        self._documents.write(b"".join(lines))
        end = self._offsets[-1]
        for line in lines:
            end += len(line)
            self._offsets.append(end)
        self._hashes.extend(hashes)
        first, self.rows = self.rows, self.rows + len(lines)
        self._grow_graph(first, vectors)

    def _grow_graph(self, first: int, vectors: NDArray[Any]) -> None:
        """Add rows to the graph; when there is none yet and now enough rows, all rows so far."""
        import numpy as np

        if self._header.kind != "approximate" or self.rows < graph.MIN_ROWS:
            return
        if self._graph is None:
            dimension = self._header.origin.dimension
            self._graph = graph.GraphWriter(dimension)
            self._vectors.flush()
            stored = np.fromfile(self._files.path(VECTORS), STORED[self._header.dtype])
            vectors, first = stored.reshape(self.rows, dimension), 0
        self._graph.add(first, vectors.astype(np.float32))

    def _save_graph(self) -> File | None:
        if self._graph is None:
            return None
        from lepton_edge.bundle.hashing import sha256

        self._files.create(GRAPH).close()
        path = self._files.path(GRAPH)
        self._graph.save(path)
        return File(path.stat().st_size, sha256(path))

    def _file(self, name: str, *arrays: NDArray[Any]) -> File:
        file = DigestedFile(self._files.create(name))
        for each in arrays:
            file.write_array(each)
        return file.close()


def encode(document: Document, place: str) -> bytes:
    """A line of ``documents.jsonl``. Raises `InputError` where metadata is not JSON."""
    fields: dict[str, Any] = {"id": document.id, "text": document.text}
    if document.metadata:
        fields["metadata"] = document.metadata
    if document.truncated:
        fields["truncated"] = True
    try:
        return json.dumps(fields, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    # NaN, a lone surrogate or a circle; a type that JSON has not; a depth that nobody reads
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(
            f"{place}: its metadata cannot be written as JSON: {error}",
            hint="metadata is a mapping of text to what JSON has",
        ) from None
