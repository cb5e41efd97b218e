"""Where an index is kept, and how a change of it becomes visible: wholly or not at all.

A change writes new files, then puts a new index.json in the old one's place, then deletes what the
new one does not name. Whoever opened the index before keeps its files mapped and sees nothing of
it. Writers take turns.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lepton_edge.bundle import open_bundle
from lepton_edge.errors import BundleError, SearchIndexError, StorageError
from lepton_edge.search import header as headers
from lepton_edge.search.files import Files, FolderFiles, MemoryFiles
from lepton_edge.search.header import Header
from lepton_edge.search.segment import Segment, files_of, open_all
from lepton_edge.storage import is_unfinished, new_directory, new_file, storage_errors

_LOCK = "lock"
_STAGED = "staged"
_TRIES = 100


@dataclass(frozen=True)
class State:
    """An index at one moment. Never changes."""

    header: Header
    segments: tuple[Segment, ...]

    @property
    def live(self) -> int:
        """Documents that were not removed."""
        return sum(segment.live for segment in self.segments)


class Store(Protocol):
    """Keeps the newest state of an index. All but `turn` and `path` is called in a turn."""

    @property
    def path(self) -> Path | None:
        """The folder, where there is one."""

    def turn(self, known: State) -> AbstractContextManager[State]:
        """Wait for this writer's turn and read the newest state; what of ``known`` is still the
        same stays open."""

    def new_segment(self, name: str) -> AbstractContextManager[Files]:
        """Where to write a segment, which is there when the block ends well."""

    def files(self, segment: str) -> Files:
        """A segment's files."""

    def commit(self, header: Header, known: State) -> State:
        """Make a header the newest, and open what it names."""


class MemoryStore:
    """An index without a folder."""

    path: Path | None = None

    def __init__(self, header: Header) -> None:
        self._newest = State(header, ())
        self._files: dict[str, MemoryFiles] = {}
        self._lock = threading.Lock()

    @contextmanager
    def turn(self, known: State) -> Iterator[State]:
        with self._lock:
            yield self._newest

    @contextmanager
    def new_segment(self, name: str) -> Iterator[Files]:
        files = MemoryFiles()
        yield files
        self._files[name] = files

    def files(self, segment: str) -> Files:
        return self._files[segment]

    def commit(self, header: Header, known: State) -> State:
        self._newest = State(header, open_all(self.files, header, known.segments))
        self._files = {segment.name: self._files[segment.name] for segment in header.segments}
        for segment in header.segments:
            self._files[segment.name].keep(files_of(segment).keys())
        return self._newest


class FolderStore:
    """An index in a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, known: State | None = None) -> State:
        """The newest state. Raises `SearchIndexError`.

        A writer may replace files, or the whole folder, while they are opened one by one: what
        was opened, or was wrong with it, counts when the header is still the same.
        """
        header = _read_header(self.path)
        for _ in range(_TRIES):
            problem = None
            try:
                segments = open_all(self.files, header, known.segments if known else ())
            except FileNotFoundError as error:
                problem = SearchIndexError(
                    f"{error.filename} is missing", hint="copy or build the index again"
                )
            except SearchIndexError as error:
                problem = error
            newest = _read_header(self.path)
            if newest == header:
                if problem:
                    raise problem
                return State(header, segments)
            header = newest
        raise SearchIndexError(
            f"{self.path} was changed {_TRIES} times while it was opened", hint="open it again"
        )

    @contextmanager
    def turn(self, known: State) -> Iterator[State]:
        """Raises `StorageError` where the folder cannot be written, or is inside a bundle."""
        refuse_bundles(self.path)
        _read_header(self.path)  # says what is wrong with a folder that is no index any more
        with locked(self.path):
            state = self.read(known)
            self._sweep(state.header)  # before new files need the space
            yield state

    @contextmanager
    def new_segment(self, name: str) -> Iterator[Files]:
        staged = self.path / _STAGED
        with new_directory(staged, replace=True) as work:
            yield FolderFiles(work)
        with storage_errors(self.path):
            shutil.rmtree(self.path / name, ignore_errors=True)  # of a writer that was killed
            os.rename(staged, self.path / name)
            _sync(self.path / name)

    def files(self, segment: str) -> Files:
        return FolderFiles(self.path / segment)

    def commit(self, header: Header, known: State) -> State:
        """Raises `StorageError`."""
        with storage_errors(self.path):
            for segment in header.segments:
                _sync(self.path / segment.name)
            _sync(self.path)
        with new_file(self.path / headers.FILE_NAME, replace=True) as work:
            work.write_bytes(headers.encode(header))
        _sync(self.path)
        state = self.read(known)
        self._sweep(header)
        return state

    def _sweep(self, header: Header) -> None:
        """Delete what the header does not name: replaced files, and those of a change that failed
        or was killed. A reader that has them mapped keeps them."""
        named = {segment.name: segment.removed for segment in header.segments}
        for path in self.path.iterdir():
            segment = path.name.startswith("segment-") and path.name not in named
            if segment or path.name == _STAGED or is_unfinished(path):
                _delete(path)
        for name, removed in named.items():
            for path in (self.path / name).glob("removed-*.u32"):
                if removed is None or path.name != removed.name:
                    _delete(path)


@contextmanager
def new_index(path: Path, header: Header, *, force: bool) -> Iterator[FolderStore]:
    """A store in a temporary folder that takes the name ``path`` when the block ends well.

    Raises `StorageError` where something is there: with ``force``, something that is no index.
    """
    refuse_bundles(path)
    if force and path.is_dir() and any(path.iterdir()) and not is_index(path):
        raise StorageError(
            f"{path} is a folder and not a search index: replacing it would delete what is in it",
            hint="choose another output, or remove the folder first",
        )
    with ExitStack() as stack:
        if force and is_index(path):
            stack.enter_context(locked(path))
        work = stack.enter_context(new_directory(path, replace=force))
        (work / headers.FILE_NAME).write_bytes(headers.encode(header))
        yield FolderStore(work)
        (work / _LOCK).unlink(missing_ok=True)


def is_index(path: Path) -> bool:
    """Whether a folder has the header of a search index."""
    return (path / headers.FILE_NAME).is_file()


def refuse_bundles(path: Path) -> None:
    """Raise `StorageError` for a folder inside a bundle: its manifest lists every file."""
    for folder in path.resolve().parents:
        try:
            bundle = open_bundle(folder)
        except BundleError:
            continue  # no manifest there, or another program's file of that name
        raise StorageError(
            f"{path} is inside the bundle {bundle.path}, whose manifest lists every file: "
            "a change there would break it",
            hint=f"keep the index beside it: {bundle.path}.index",
        )


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the right to write to an index, alone on this machine; it ends with the process."""
    with storage_errors(path):
        while True:
            handle = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                # While this one waited, the whole folder may have been replaced by another.
                if _is_at(handle, path / _LOCK):
                    break
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)
    try:
        yield
    finally:
        os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _read_header(path: Path) -> Header:
    file = path / headers.FILE_NAME
    try:
        data = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        problem = f"{path} is not a search index: it has no {headers.FILE_NAME}"
        raise SearchIndexError(
            problem if path.exists() else f"there is no search index at {path}",
            hint="lepton-edge index BUNDLE --input texts.jsonl makes one",
        ) from None
    except OSError as error:
        raise SearchIndexError(f"{file} cannot be read: {error.strerror}") from error
    return headers.decode(data, str(file))


def _delete(path: Path) -> None:
    """What cannot be deleted now is tried again after the next change."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _sync(folder: Path) -> None:
    """Bring a folder's names to the disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
