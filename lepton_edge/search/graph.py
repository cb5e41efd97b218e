"""Approximate search: a graph of near neighbours (HNSW), by the usearch library.

A graph gives candidates; their scores are computed from the stored vectors like those of an exact
search, so the two differ in what they find, never in how it is scored.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from lepton_edge.errors import BackendError, SearchIndexError, StorageError
from lepton_edge.search import exact
from lepton_edge.storage import free_space

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from lepton_edge.bundle.manifest import File
    from lepton_edge.search.exact import Best
    from lepton_edge.search.files import Files
    from lepton_edge.search.segment import Segment

# A segment of fewer rows is searched exactly: that takes about a millisecond at this size.
MIN_ROWS = 16_384

# Measured on 100,000 clustered vectors of 384 dimensions: half the size and build time of float32,
# and no loss once the candidates are scored from the stored vectors.
_DTYPE = "f16"
_CONNECTIVITY = 16
_EXPANSION_ADD = 128
_EXPANSION_SEARCH = 128
_CANDIDATES = 2  # for each result that is asked for


class GraphWriter:
    """A graph that grows by rows. Raises `BackendError` where usearch is not installed."""

    def __init__(self, dimension: int) -> None:
        self._graph = _new(dimension)

    def add(self, first_row: int, vectors: NDArray[np.float32]) -> None:
        """Rows from ``first_row`` on: float32 [rows, dimension] of length 1."""
        import numpy as np

        rows = np.arange(first_row, first_row + len(vectors), dtype=np.uint64)
        self._graph.add(rows, vectors)

    def save(self, path: Path) -> None:
        """Raises `StorageError`."""
        try:
            self._graph.save(str(path))
        except Exception as error:  # the library's own words for any fault
            raise StorageError(f"{path} could not be written: {error}") from error
        # The library maps a file as it finds it, and does not always say that a disk was full.
        if path.stat().st_size != self._graph.serialized_length:
            raise StorageError(
                f"{path} could not be written whole ({free_space(path)})",
                hint="free some space; nothing was changed",
            )


class Graph:
    """A saved graph, opened when it is first asked. Safe from threads."""

    def __init__(
        self,
        files: Files,
        name: str,
        data: NDArray[np.uint8],
        file: File,
        rows: int,
        dimension: int,
    ) -> None:
        self._files, self._name, self._data, self._file = files, name, data, file
        self._rows, self._dimension = rows, dimension
        self._lock = threading.Lock()
        self._graph: Any = None

    def candidates(self, queries: NDArray[np.float32], count: int) -> list[NDArray[np.int64]]:
        """For each query the rows of ``count`` near vectors, or fewer where it finds fewer.

        ``queries`` is float32 [queries, dimension]. Raises `BackendError` where usearch is not
        installed and `SearchIndexError` where the graph cannot be read.
        """
        import numpy as np

        with self._lock:  # a search uses the library's own threads, and their working memory
            if self._graph is None:
                self._graph = self._open()
            found = self._graph.search(queries, count)
        keys, counts = np.atleast_2d(found.keys), np.atleast_1d(getattr(found, "counts", count))
        return [
            row[: int(number)].astype(np.int64)
            for row, number in zip(keys, np.broadcast_to(counts, len(keys)), strict=True)
        ]

    def _open(self) -> Any:
        """Open the file where it is mapped, once it is known to be the one that was written: the
        library trusts it."""
        self._files.check(self._name, self._data, self._file)
        graph = _new(self._dimension)
        where = self._files.where(self._name)
        try:
            graph.view(self._data)
        except Exception as error:  # the library's own words for any fault
            raise SearchIndexError(
                f"{where} cannot be opened by this version of usearch: {error}",
                hint="build the index again",
            ) from error
        if len(graph) != self._rows:
            raise SearchIndexError(
                f"{where} has {len(graph):,} vectors; the header says {self._rows:,}",
                hint="copy or build the index again",
            )
        return graph


def search(segment: Segment, first: int, queries: NDArray[np.float32], bests: list[Best]) -> None:
    """Offer each query near rows of a segment whose first row is at ``first``; all of its rows
    where it has no graph, or so many are asked for or removed that the graph is of no use.

    Raises as `Graph.candidates`.
    """
    import numpy as np

    pending = list(range(len(queries)))
    count = max((best.top_k for best in bests), default=0) * _CANDIDATES
    while segment.graph and count < segment.rows // 4:
        found = segment.graph.candidates(queries[pending], max(count, _EXPANSION_SEARCH // 2))
        short = []
        for place, rows in zip(pending, found, strict=True):
            live = rows[~segment.is_removed(rows)]
            if len(live) < bests[place].top_k:
                short.append(place)
            else:
                bests[place].offer(segment.vectors, np.sort(live), first)
        if not short:
            return
        pending, count = short, count * 4
    exact.search(segment, first, queries[pending], [bests[place] for place in pending])


def require() -> Any:
    """The library's class. Raises `BackendError` where usearch cannot be imported."""
    try:
        from usearch.index import Index
    except ImportError as error:
        raise BackendError(
            f"an approximate index needs usearch, which cannot be imported: {error}",
            hint="pip install 'lepton-edge[search]'; up to 1,000,000 texts an exact index is fast",
        ) from error
    return Index


def _new(dimension: int) -> Any:
    return require()(
        ndim=dimension,
        metric="ip",
        dtype=_DTYPE,
        connectivity=_CONNECTIVITY,
        expansion_add=_EXPANSION_ADD,
        expansion_search=_EXPANSION_SEARCH,
        enable_key_lookups=False,
    )
