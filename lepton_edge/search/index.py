"""The search index that users hold."""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import msgspec

from lepton_edge.errors import InputError, SearchIndexError
from lepton_edge.search import changes, exact, graph
from lepton_edge.search.changes import Added, Entry
from lepton_edge.search.header import SCHEMA, Dtype, Header, Id, Kind, Origin
from lepton_edge.search.segment import files_of
from lepton_edge.search.store import FolderStore, MemoryStore, State, Store, is_index, new_index
from lepton_edge.search.vectors import embed, require_embeddings, unit
from lepton_edge.storage import is_unfinished

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from lepton_edge.runtime.model import Model

Progress = Callable[[int], None]
INSIDE = "index"  # the folder of an index that is part of its bundle
_DTYPES, _KINDS = ("float32", "float16"), ("exact", "approximate")


@dataclass(frozen=True)
class Hit:
    """A text that was found.

    ``score`` is the cosine similarity of its vector and the query's, -1 to 1. ``truncated``: the
    text was longer than the model takes, and its end is not part of what was compared.
    """

    id: Id
    score: float
    text: str
    metadata: dict[str, Any]
    truncated: bool = False

    def __str__(self) -> str:
        return f"{self.score:.4f}  {self.text}"


class Index:
    """Texts that are found by meaning: their embeddings, and the texts themselves.

    An index that was opened from a folder, or saved to one, keeps every change there: a change is
    on disk when its call returns, and a process that ends in the middle of one leaves the old
    state. Vectors and texts are mapped, not read, so an index of a million texts opens at once and
    other processes share its memory. An object sees its own changes, and with each of them those
    that others made before; `open` again sees the newest state at any time.

    Safe from many threads. Changes by several threads or processes are made one after the other:
    a change waits while another adds, embedding included.
    """

    def __init__(self, store: Store, state: State) -> None:
        """For this package: users call `build` or `open`."""
        self._store = store
        self._state = state
        self._lock = threading.Lock()
        self._changing: int | None = None

    @classmethod
    def build(
        cls,
        model: Model,
        texts: Iterable[str],
        ids: Iterable[Id] | None = None,
        metadata: Iterable[Mapping[str, Any] | None] | None = None,
        *,
        path: str | os.PathLike[str] | None = None,
        force: bool = False,
        dtype: Dtype = "float32",
        kind: Kind = "exact",
        progress: Progress | None = None,
    ) -> Index:
        """An index of ``texts``, in a new folder ``path`` or, without one, in memory.

        ``model`` does feature-extraction. Without ``ids`` texts are numbered from 0. An id is text
        or a whole number, and no two texts have the same. ``metadata`` has what JSON has: a tuple
        comes back as a list. With a path the three are read as they are embedded, so they may be
        generators of any length. ``force`` replaces an index at ``path``.

        ``dtype`` is how vectors are stored: float16 takes half the space, and half the scores'
        digits. ``kind`` "exact" compares a query with every vector, good up to about a million;
        "approximate" follows a graph of neighbours and may miss some: it needs usearch
        (``pip install 'lepton-edge[search]'``). ``progress`` is told the texts done.

        Raises `InputError`, `InferenceError`, `StorageError`, `BackendError`.
        """
        if dtype not in _DTYPES or kind not in _KINDS:
            wrong, known = (dtype, _DTYPES) if dtype not in _DTYPES else (kind, _KINDS)
            raise InputError(f"an index is not {wrong!r}; choose {' or '.join(known)}")
        entries = _entries(texts, ids, metadata)
        index, _ = build(
            model, entries, path, force=force, dtype=dtype, kind=kind, progress=progress
        )
        return index

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Index:
        """The index in a folder: its header is read, its vectors and texts are mapped.

        Raises `SearchIndexError` where there is none or it is damaged: missing, cut short, or not
        what the header says. What only reading everything can tell, `verify` does.
        """
        folder = Path(path)
        if is_unfinished(folder):
            raise SearchIndexError(
                f"{folder} was left by a build that was interrupted",
                hint="remove it, and build the index again",
            )
        store = FolderStore(folder)
        return cls(store, store.read())

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write a copy to a new folder, which this index belongs to from then on.

        ``force`` replaces an index of that name. A folder inside a bundle is refused: the bundle's
        manifest lists each of its files. Raises `StorageError`.
        """
        folder = Path(path)
        with self._alone():
            state = self._state
            with new_index(folder, state.header, force=force) as store:
                for segment in state.segments:
                    (store.path / segment.entry.name).mkdir()
                    for name, data in segment.data.items():
                        with store.files(segment.entry.name).create(name) as file:
                            file.write(data.data)
            opened = Index.open(folder)
            self._store, self._state = opened._store, opened._state

    def add(
        self,
        model: Model,
        texts: Iterable[str],
        ids: Iterable[Id] | None = None,
        metadata: Iterable[Mapping[str, Any] | None] | None = None,
        *,
        replace: bool = False,
        progress: Progress | None = None,
    ) -> list[Id]:
        """Add texts, all of them or none; the ids they have.

        What is there already is not written again, but for a few rows of earlier small additions.
        A text whose id is in the index is refused or, with ``replace``, takes the place of the one
        that has it. The rest is as in `build`. Raises `SearchIndexError` where ``model`` is not
        the one that the index was made with, and what `build` raises.
        """
        entries = _entries(texts, ids, metadata)
        return self.append(model, entries, replace=replace, progress=progress).ids

    def append(
        self, model: Model, entries: Iterable[Entry], *, replace: bool, progress: Progress | None
    ) -> Added:
        """As `add`, of entries that say where they come from."""
        with self._turn() as state:
            self._check(model, state)
            self._state, added = changes.append(
                self._store, state, model, entries, replace=replace, progress=progress
            )
        return added

    def remove(self, ids: Iterable[Id]) -> None:
        """Remove texts: they are never found again, and gone from the disk with `compact`.

        Raises `InputError` for an id that is not in the index; then none is removed.
        """
        if isinstance(ids, str):
            raise InputError(f"ids is the text {ids!r}: it is a list of ids")
        with self._turn() as state:
            self._state = changes.remove(self._store, state, list(ids))

    def compact(self) -> None:
        """Write what was not removed as one piece. Answers stay the same. Raises `StorageError`."""
        with self._turn() as state:
            self._state = changes.compact(self._store, state)

    @overload
    def query(  # type: ignore[overload-overlap]  # a str is a sequence of str; here it is a text
        self, model: Model, texts: str, top_k: int = 10
    ) -> list[Hit]: ...

    @overload
    def query(self, model: Model, texts: Sequence[str], top_k: int = 10) -> list[list[Hit]]: ...

    def query(
        self, model: Model, texts: str | Sequence[str], top_k: int = 10
    ) -> list[Hit] | list[list[Hit]]:
        """The ``top_k`` nearest texts, best first; a list for each text of a list of texts.

        Of equal scores the text that was added first comes first. Raises `SearchIndexError` where
        ``model`` is not the one that the index was made with, `InputError` and `InferenceError`.
        """
        state = self._state
        self._check(model, state)
        one = isinstance(texts, str)
        if not one and not len(texts):
            return []
        vectors, _ = embed(model, [texts] if isinstance(texts, str) else texts)
        hits = _search(state, vectors, top_k)
        return hits[0] if one else hits

    def query_vectors(self, vectors: ArrayLike, top_k: int = 10) -> list[list[Hit]]:
        """As `query`, for embeddings made elsewhere by the same model: [queries, dimension].

        Raises `InputError`.
        """
        import numpy as np

        try:
            matrix = np.asarray(vectors, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise InputError(f"the queries are not vectors of numbers: {error}") from None
        if not np.isfinite(matrix).all():
            raise InputError("a query has a number that is not finite")
        return _search(self._state, matrix, top_k)

    def verify(self, progress: Progress | None = None) -> None:
        """Hash every file and compare with the header; ``progress`` is told the bytes.

        Raises `SearchIndexError` naming the file that is not as it was written.
        """
        for segment in self._state.segments:
            segment.verify(progress)

    @property
    def path(self) -> Path | None:
        """The folder, where it has one."""
        return self._store.path

    @property
    def header(self) -> Header:
        """What it was made by, and how it is stored."""
        return self._state.header

    @property
    def size(self) -> int:
        """Bytes of its files."""
        segments = self._state.segments
        return sum(file.size for each in segments for file in files_of(each.entry).values())

    def __len__(self) -> int:
        return self._state.live

    def __contains__(self, document_id: object) -> bool:
        try:
            wanted = changes.check_id(document_id, "an id")
        except InputError:
            return False
        return changes.locate(self._state, [wanted]) != [None]

    def __repr__(self) -> str:
        header = self._state.header
        texts = f"{len(self):,} {'text' if len(self) == 1 else 'texts'}"
        return (
            f"<Index {self.path or 'in memory'}: {texts}, {header.kind}, "
            f"{header.dtype} [{header.origin.dimension}] of {header.origin}>"
        )

    def _check(self, model: Model, state: State) -> None:
        require_embeddings(model, "semantic search")
        origin = state.header.origin
        given = origin_of(model, _dimension(model) or origin.dimension)
        if differences := origin.differences(given):
            raise SearchIndexError(
                f"this index was made with {origin}, and {given} gives other vectors: "
                + "; ".join(differences),
                hint=f"load the bundle {origin}, or build the index again with {given}",
            )

    @contextmanager
    def _turn(self) -> Iterator[State]:
        with self._alone(), self._store.turn(self._state) as newest:
            yield newest

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other thread changes this object meanwhile: its store and its state go together."""
        if self._changing == threading.get_ident():
            raise InputError("the texts that are being added come from a change of the same index")
        with self._lock:
            self._changing = threading.get_ident()
            try:
                yield
            finally:
                self._changing = None


def build(
    model: Model,
    entries: Iterable[Entry],
    path: str | os.PathLike[str] | None,
    *,
    force: bool,
    dtype: Dtype,
    kind: Kind,
    progress: Progress | None,
) -> tuple[Index, Added]:
    """As `Index.build`, of entries that say where they come from."""
    require_embeddings(model, "semantic search")
    if kind == "approximate":
        graph.require()
    dimension = _dimension(model) or len(model("text").vector)
    header = Header(SCHEMA, origin_of(model, dimension), dtype, kind)
    empty = State(header, ())
    if path is None:
        index = Index(MemoryStore(header), empty)
        return index, index.append(model, entries, replace=False, progress=progress)
    with new_index(Path(path), header, force=force) as store:
        added = Index(store, empty).append(model, entries, replace=False, progress=progress)
    return Index.open(path), added


def origin_of(model: Model, dimension: int) -> Origin:
    """What an index remembers of a model."""
    manifest = model.manifest
    config = msgspec.json.decode(msgspec.json.encode(manifest.task_config))
    return Origin(manifest.name, manifest.version, manifest.source.sha256, config, dimension)


def beside(bundle: Path) -> Path:
    """Where the index of a bundle folder is kept: NAME-VERSION.index beside it."""
    folder = bundle.resolve()
    return folder.with_name(f"{folder.name}.index")


def find(bundle: Path) -> Path:
    """The index of a bundle folder: the one beside it, else the one that was built into it."""
    outside, inside = beside(bundle), bundle / INSIDE
    return inside if is_index(inside) and not is_index(outside) else outside


def _dimension(model: Model) -> int | None:
    """Of the model's embeddings; None where its bundle leaves that open."""
    from lepton_edge.runtime.session_model import SessionModel

    assert isinstance(model, SessionModel), "it embeds: require_embeddings"
    for spec in model.session.outputs:
        if spec.name in model.task.outputs and isinstance(spec.shape[-1], int):
            return spec.shape[-1]
    return None


def _entries(
    texts: Iterable[str],
    ids: Iterable[Id] | None,
    metadata: Iterable[Mapping[str, Any] | None] | None,
) -> Iterator[Entry]:
    """Raises `InputError` where the three are not lists, or not of one length."""
    named = {"texts": texts, "ids": ids, "metadata": metadata}
    for name, given in named.items():
        if isinstance(given, (str, bytes, Mapping)) or not isinstance(
            given, (Iterable, type(None))
        ):
            raise InputError(f"{name} is of type {type(given).__name__}: it is a list")
    lists = {name: given for name, given in named.items() if given is not None}

    def rows() -> Iterator[Entry]:
        for position, row in enumerate(zip_longest(*lists.values(), fillvalue=_ABSENT), 1):
            values = dict(zip(lists, row, strict=True))
            if absent := [name for name, value in values.items() if value is _ABSENT]:
                raise InputError(f"{absent[0]} ends before {position}: one is needed for each text")
            place = f"text {position}"
            if "ids" in values and values["ids"] is None:
                raise InputError(f"{place} has no id: give one to every text, or to none")
            given = values.get("metadata")
            if not isinstance(given, (Mapping, type(None))):
                raise InputError(
                    f"{place}: its metadata is of type {type(given).__name__}: it is a mapping"
                )
            yield Entry(values["texts"], values.get("ids"), given, place, place)

    return rows()


_ABSENT: Any = object()


def _search(state: State, vectors: NDArray[Any], top_k: int) -> list[list[Hit]]:
    """The hits of each query: [queries, dimension] of finite numbers. Raises `InputError`."""
    dimension = state.header.origin.dimension
    if vectors.ndim != 2 or vectors.shape[1] != dimension:
        raise InputError(
            f"the queries have shape {list(vectors.shape)}; this index takes [queries, {dimension}]"
        )
    if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1:
        raise InputError(f"top_k is {top_k!r}: it is a number from 1")
    firsts = list(accumulate((segment.rows for segment in state.segments), initial=0))
    hits: list[list[Hit]] = []
    for start in range(0, len(vectors), exact.QUERIES):
        queries = unit(vectors[start : start + exact.QUERIES])
        bests = [exact.Best(query, min(top_k, max(state.live, 1))) for query in queries]
        for segment, first in zip(state.segments, firsts, strict=False):
            graph.search(segment, first, queries, bests)
        hits += [_hits(state, firsts, best) for best in bests]
    return hits


def _hits(state: State, firsts: list[int], best: exact.Best) -> list[Hit]:
    hits = []
    for score, position in zip(best.scores.tolist(), best.positions.tolist(), strict=True):
        number = bisect_right(firsts, position) - 1
        found = state.segments[number].document(position - firsts[number])
        cosine = min(1.0, max(-1.0, score))  # unit vectors are so to their last digit only
        hits.append(Hit(found.id, cosine, found.text, found.metadata or {}, found.truncated))
    return hits
