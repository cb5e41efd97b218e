"""What the tests of search are made with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_edge.search import header as headers
from lepton_edge.search.header import Dtype, Header, Kind, Origin
from lepton_edge.search.index import Hit, Index
from lepton_edge.search.segment import Document
from lepton_edge.search.store import new_index
from lepton_edge.search.writer import SegmentWriter

SEGMENT = "segment-000001"


def index_of_vectors(
    path: Path, vectors: NDArray[Any], *, dtype: Dtype = "float32", kind: Kind = "exact"
) -> Index:
    """An index whose text n, ``text n``, has the unit vector n: [texts, dimension]."""
    rows = np.asarray(vectors, np.float32)
    origin = Origin("fake", "1.0.0", "0" * 64, {}, rows.shape[1])
    header = Header(headers.SCHEMA, origin, dtype, kind)
    with new_index(path, header, force=False) as store:
        with store.new_segment(SEGMENT) as files, SegmentWriter(files, header) as writer:
            for start in range(0, len(rows), 4096):
                part = rows[start : start + 4096]
                documents = [Document(start + n, f"text {start + n}") for n in range(len(part))]
                writer.write(part, documents, ["a text"] * len(part))
            entry = writer.finish(SEGMENT)
        values = json.loads(headers.encode(header)) | {"next_id": len(rows), "next_segment": 2}
        full = json.dumps({**values, "segments": [_plain(entry)]})
        (store.path / headers.FILE_NAME).write_text(full)
    return Index.open(path)


def _plain(value: Any) -> Any:
    import msgspec

    return msgspec.to_builtins(value)


def unit_rows(matrix: NDArray[Any]) -> NDArray[np.float32]:
    wide = np.asarray(matrix, np.float64)
    unit: NDArray[np.float32] = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype("f4")
    return unit


def clustered(
    rows: int, dimension: int, clusters: int, seed: int = 0, spread: float = 0.7
) -> NDArray[np.float32]:
    """Random unit vectors around random centres."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((clusters, dimension))
    chosen = centres[random.integers(0, clusters, rows)]
    return unit_rows(chosen + spread * random.standard_normal((rows, dimension)))


def ids(hits: Sequence[Hit]) -> list[Any]:
    return [hit.id for hit in hits]


def texts(index: Index) -> list[str]:
    """Every text of an index, sorted."""
    dimension = index.header.origin.dimension
    (hits,) = index.query_vectors(np.ones((1, dimension)), top_k=100_000)
    return sorted(hit.text for hit in hits)
