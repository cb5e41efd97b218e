"""index.json: what a search index holds, and which model made its vectors."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from lepton_edge.bundle.manifest import File, Sha256
from lepton_edge.errors import SearchIndexError

SCHEMA = 1
FILE_NAME = "index.json"

Dtype = Literal["float32", "float16"]
Kind = Literal["exact", "approximate"]
Id = str | int
LARGEST_ID = 2**63 - 1

_Count = Annotated[int, msgspec.Meta(ge=0)]
_Rows = Annotated[int, msgspec.Meta(ge=1, lt=2**32)]
_SegmentName = Annotated[str, msgspec.Meta(pattern=r"^segment-[0-9]{6,}$")]
_RemovedName = Annotated[str, msgspec.Meta(pattern=r"^removed-[0-9]+\.u32$")]


class Origin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The bundle whose model made the vectors.

    Two bundles make the same vectors when ``source_sha256``, ``task_config`` and ``dimension``
    agree, whatever device and precision each was compiled for. The name and version are for
    people.
    """

    name: str
    """Name of the bundle."""
    version: str
    """Version of the bundle."""
    source_sha256: Sha256
    """SHA-256 of the source's weights, from the bundle's manifest."""
    task_config: dict[str, Any]
    """How token vectors become an embedding, from the bundle's manifest."""
    dimension: Annotated[int, msgspec.Meta(ge=1)]
    """Numbers in a vector."""

    def differences(self, other: Origin) -> list[str]:
        """Why vectors of the other cannot be compared with these; none where they can."""
        found = []
        if self.source_sha256 != other.source_sha256:
            theirs, own = other.source_sha256[:12], self.source_sha256[:12]
            found.append(f"its weights are others (SHA-256 {theirs}…, not {own}…)")
        if self.task_config != other.task_config:
            found.append(f"its task_config is {other.task_config}, not {self.task_config}")
        if self.dimension != other.dimension:
            found.append(f"its vectors have {other.dimension} dimensions, not {self.dimension}")
        return found

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


class Removed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The rows of a segment that were removed: a sorted list of little-endian 32-bit numbers."""

    name: _RemovedName
    """The file, in the segment's folder."""
    file: File
    """Its size and SHA-256."""


class SegmentEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One segment: a folder with the rows of one addition."""

    name: _SegmentName
    """The folder."""
    rows: _Rows
    """How many documents it holds, removed ones included."""
    vectors: File
    """``vectors``: rows of numbers of the index's dtype, little-endian, of length 1."""
    documents: File
    """``documents.jsonl``: a document a line, in the order of the vectors."""
    offsets: File
    """``offsets.u64``: where each line starts, and where the last one ends; little-endian."""
    keys: File
    """``keys``: a hash of each id (64 bits) and its row (32 bits), sorted; little-endian."""
    graph: File | None = None
    """``graph.usearch``: the neighbours of each vector, where the index is approximate."""
    removed: Removed | None = None
    """What was removed since the segment was written."""


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole of index.json."""

    schema: int
    """Version of this format. A reader refuses a newer one."""
    origin: Origin
    """What made the vectors."""
    dtype: Dtype
    """How vectors are stored; scores are computed in higher precision either way."""
    kind: Kind
    """Whether the nearest vectors are found exactly or by way of a graph."""
    generation: _Count = 0
    """Raised by every change."""
    next_id: _Count = 0
    """The id of the next document that is given none."""
    next_segment: _Count = 1
    """The number of the next segment's folder."""
    segments: tuple[SegmentEntry, ...] = ()
    """In the order in which their documents were added."""


def encode(header: Header) -> bytes:
    """The file's bytes: UTF-8 JSON, indented, in the order of the fields."""
    return msgspec.json.format(msgspec.json.encode(header), indent=2) + b"\n"


def decode(data: bytes, where: str) -> Header:
    """Read a header; ``where`` names it in errors. Raises `SearchIndexError`."""
    try:
        schema = msgspec.json.decode(data, type=_Versioned).schema
        if schema > SCHEMA:
            raise SearchIndexError(
                f"{where} has schema {schema}; this lepton-edge reads up to {SCHEMA}",
                hint="pip install --upgrade lepton-edge",
            )
        header = msgspec.json.decode(data, type=Header)
    # msgspec's ValidationError is a DecodeError; invalid UTF-8 in a string is not.
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SearchIndexError(
            f"{where} is not the header of a search index: {error}",
            hint="build or copy the index again",
        ) from error
    names = [segment.name for segment in header.segments]
    if len(set(names)) != len(names):
        raise SearchIndexError(
            f"{where} names a segment twice", hint="build or copy the index again"
        )
    return header


class _Versioned(msgspec.Struct):
    schema: int
