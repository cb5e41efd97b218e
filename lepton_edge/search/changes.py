"""Adding, removing and compacting: each makes a new state of an index from the newest one."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from lepton_edge.errors import InferenceError, InputError, SearchIndexError
from lepton_edge.search import graph
from lepton_edge.search.files import DigestedFile
from lepton_edge.search.header import LARGEST_ID, Header, Id, Removed, SegmentEntry
from lepton_edge.search.segment import Document, Segment, open_all
from lepton_edge.search.store import State, Store
from lepton_edge.search.vectors import embed
from lepton_edge.search.writer import SegmentWriter
from lepton_edge.storage import storage_errors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lepton_edge.runtime.model import Model

# Enough for full micro-batches of each length, small enough that progress moves.
_CHUNK = 512

# A segment up to this many rows joins a later one that is as large as it, and below this itself: an
# index that grows by one text at a time has few segments, each row is copied a few times at most,
# and what is large is written once, with its graph.
_SMALL = graph.MIN_ROWS


@dataclass(frozen=True)
class Entry:
    """A text to add. ``place`` names it in messages, and ``subject`` its text."""

    text: str
    id: Id | None
    metadata: Mapping[str, Any] | None
    place: str
    subject: str


@dataclass(frozen=True)
class Added:
    """What was added: the ids, and how many texts were longer than the model takes."""

    ids: list[Id]
    truncated: int


def append(
    store: Store,
    state: State,
    model: Model,
    entries: Iterable[Entry],
    *,
    replace: bool,
    progress: Callable[[int], None] | None,
) -> tuple[State, Added]:
    """Add a segment. With ``replace`` a document of an id that is there already gives way.

    Raises `InputError` naming the entry at fault, `InferenceError`, and what the store raises.
    """
    chunks = _chunks(entries)
    first = next(chunks, None)
    if first is None:
        return state, Added([], 0)
    naming = _Naming(state, replace)
    truncated = 0
    name = _name(state.header)
    with store.new_segment(name) as files, SegmentWriter(files, state.header) as writer:
        for chunk in chain([first], chunks):
            truncated += _write(writer, model, chunk, naming, state.header)
            if progress:
                progress(len(chunk))
        entry = writer.finish(name)
    header = msgspec.structs.replace(
        state.header,
        next_id=naming.next_id,
        next_segment=state.header.next_segment + 1,
        segments=(*_without(store, state, naming.replaced), entry),
    )
    return _commit(store, state, _join_small(store, state, header)), Added(naming.ids, truncated)


def remove(store: Store, state: State, ids: Sequence[Id]) -> State:
    """Remove documents. Raises `InputError` for an id that is not there; then none is removed."""
    ids = [check_id(each, "an id to remove") for each in ids]
    rows: dict[int, set[int]] = {}
    for each, place in zip(ids, locate(state, ids), strict=True):
        if place is None:
            raise InputError(f"there is no {each!r} in the index; nothing was removed")
        rows.setdefault(place[0], set()).add(place[1])
    if not rows:
        return state
    segments = tuple(_without(store, state, rows))
    return _commit(store, state, msgspec.structs.replace(state.header, segments=segments))


def compact(store: Store, state: State) -> State:
    """Make one segment of all, without what was removed."""
    if len(state.segments) < 2 and all(segment.live == segment.rows for segment in state.segments):
        return state
    return _commit(store, state, _joined(store, state.header, state.segments, 0))


def locate(state: State, ids: Sequence[Id]) -> list[tuple[int, int] | None]:
    """The segment's number and the row of each id; None for one that is not in the index."""
    places: list[tuple[int, int] | None] = [None] * len(ids)
    for number, segment in enumerate(state.segments):
        for index, row in enumerate(segment.find(ids)):
            if row is not None:
                places[index] = (number, row)
    return places


def check_id(given: object, place: str) -> Id:
    """An id as it is stored. Raises `InputError` for what is no id."""
    if isinstance(given, str) and given:
        try:
            given.encode()
        except UnicodeEncodeError:
            raise InputError(f"{place}: {given!a} is not Unicode text") from None
        return given
    try:
        number = None if isinstance(given, bool) else operator.index(given)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or abs(number) > LARGEST_ID:
        raise InputError(f"{place}: {given!r} is no id: an id is text or a whole number")
    return number


class _Naming:
    """Gives each entry its id, and notes the documents that give way to it."""

    def __init__(self, state: State, replace: bool) -> None:
        self.ids: list[Id] = []
        self.next_id = state.header.next_id
        self.replaced: dict[int, set[int]] = {}
        self._state = state
        self._replace = replace
        self._given: set[Id] = set()

    def ids_of(self, entries: Sequence[Entry]) -> list[Id]:
        """Raises `InputError` for an id that is given twice, or is there already."""
        ids = [self._id(entry) for entry in entries]
        self.ids += ids
        if self._given:
            self._check_new(entries, ids)
        return ids

    def _id(self, entry: Entry) -> Id:
        if entry.id is None:
            if self.next_id > LARGEST_ID:
                raise InputError(
                    f"{entry.place}: no number is left for it after the id {LARGEST_ID}",
                    hint="give the texts ids",
                )
            self.next_id += 1
            return self.next_id - 1
        given = check_id(entry.id, entry.place)
        if given in self._given:
            raise InputError(f"{entry.place}: the id {given!r} is given twice")
        self._given.add(given)
        if isinstance(given, int):
            self.next_id = max(self.next_id, given + 1)
        return given

    def _check_new(self, entries: Sequence[Entry], ids: Sequence[Id]) -> None:
        for entry, each, place in zip(entries, ids, locate(self._state, ids), strict=True):
            if place is None:
                continue
            if not self._replace:
                raise InputError(
                    f"{entry.place}: the id {each!r} is in the index already",
                    hint="replace=True (--replace) puts the new text in the old one's place",
                )
            self.replaced.setdefault(place[0], set()).add(place[1])


def _chunks(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    remaining = iter(entries)
    while chunk := list(islice(remaining, _CHUNK)):
        yield chunk


def _write(
    writer: SegmentWriter, model: Model, chunk: list[Entry], naming: _Naming, header: Header
) -> int:
    """Embed and write a chunk; how many of its texts were truncated."""
    ids = naming.ids_of(chunk)
    vectors, truncated = _embed(model, chunk)
    if vectors.shape[1] != header.origin.dimension:
        raise SearchIndexError(
            f"{model.manifest.name} gives vectors of {vectors.shape[1]} dimensions; "
            f"those of the index have {header.origin.dimension}"
        )
    documents = [
        Document(each, entry.text, dict(entry.metadata) if entry.metadata else None, cut)
        for each, entry, cut in zip(ids, chunk, truncated, strict=True)
    ]
    writer.write(vectors, documents, [entry.place for entry in chunk])
    return sum(truncated)


def _embed(model: Model, chunk: list[Entry]) -> tuple[NDArray[np.float32], list[bool]]:
    """Raises the model's error with the name of the entry that it is about."""
    try:
        return embed(model, [entry.text for entry in chunk])
    except InputError:
        for entry in chunk:
            try:
                model([entry.text])
            except InputError as error:
                message = error.message.replace("text 1", entry.subject, 1)
                raise InputError(message, hint=error.hint) from None
        raise
    except InferenceError as error:
        between = f"of {chunk[0].place} to {chunk[-1].place}"
        raise InferenceError(f"{between}: {error.message}", hint=error.hint) from error


def _without(store: Store, state: State, rows: Mapping[int, set[int]]) -> list[SegmentEntry]:
    """The segments with more of their rows removed; one that has none left is left out."""
    import numpy as np

    entries = []
    for number, segment in enumerate(state.segments):
        entry = segment.entry
        if more := rows.get(number):
            removed = np.union1d(segment.removed, np.array(sorted(more), np.uint32))
            if len(removed) == segment.rows:
                continue
            name = f"removed-{state.header.generation + 1}.u32"
            files = store.files(entry.name)
            with storage_errors(Path(files.where(name))):
                file = DigestedFile(files.create(name))
                file.write_array(removed.astype("<u4"))
                entry = msgspec.structs.replace(entry, removed=Removed(name, file.close()))
        entries.append(entry)
    return entries


def _join_small(store: Store, state: State, header: Header) -> Header:
    """The header with its last segment joined to the small ones before it, if all are small."""
    if header.segments[-1].rows >= _SMALL:
        return header
    segments = open_all(store.files, header, state.segments)
    first = len(segments) - 1
    rows = segments[first].rows
    while first and segments[first - 1].rows <= min(rows, _SMALL):
        first -= 1
        rows += segments[first].rows
    return header if first == len(segments) - 1 else _joined(store, header, segments, first)


def _joined(store: Store, header: Header, segments: Sequence[Segment], first: int) -> Header:
    """The header with the segments from ``first`` on made one."""
    kept = header.segments[:first]
    if not any(segment.live for segment in segments[first:]):
        return msgspec.structs.replace(header, segments=kept)
    name = _name(header)
    with store.new_segment(name) as files, SegmentWriter(files, header) as writer:
        for segment in segments[first:]:
            writer.copy(segment)
        entry = writer.finish(name)
    return msgspec.structs.replace(
        header, next_segment=header.next_segment + 1, segments=(*kept, entry)
    )


def _commit(store: Store, state: State, header: Header) -> State:
    generation = state.header.generation + 1
    return store.commit(msgspec.structs.replace(header, generation=generation), state)


def _name(header: Header) -> str:
    return f"segment-{header.next_segment:06}"
