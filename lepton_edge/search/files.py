"""Where a segment's files are: a folder, or memory for an index that has no folder yet."""

from __future__ import annotations

import os
from collections.abc import Callable, Set
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol
from weakref import finalize

from lepton_edge.bundle.hashing import check_files
from lepton_edge.bundle.manifest import File
from lepton_edge.errors import BundleError, SearchIndexError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_AGAIN = "the index was changed or cut short: copy or build it again"
_CHUNK = 1024 * 1024


class Files(Protocol):
    """Named files that are written once, then only read."""

    def create(self, name: str) -> BinaryIO:
        """A new file, to write."""

    def path(self, name: str) -> Path:
        """A path that opens the file, for reading and for libraries that take no file object."""

    def where(self, name: str) -> str:
        """The file for people."""

    def check(self, name: str, data: NDArray[np.uint8], expected: File) -> None:
        """Raise `SearchIndexError` where the SHA-256 of a file, mapped as ``data``, is not the one
        in the header. One that was right before, and did not change since, is not hashed again."""


class FolderFiles:
    """Files of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def create(self, name: str) -> BinaryIO:
        return (self.folder / name).open("wb")

    def path(self, name: str) -> Path:
        return self.folder / name

    def where(self, name: str) -> str:
        return str(self.folder / name)

    def check(self, name: str, data: NDArray[np.uint8], expected: File) -> None:
        try:
            check_files(self.folder, {name: expected}, "cached")
        except (BundleError, OSError):  # gone, or another's by now: what counts is what is mapped
            check_digest(self.where(name), data, expected)


class MemoryFiles:
    """Files without a name on any disk, held open, so that both kinds are written and mapped by
    the same code. Freed with the object."""

    def __init__(self) -> None:
        self._handles: dict[str, int] = {}
        finalize(self, _close, self._handles)

    def create(self, name: str) -> BinaryIO:
        self._discard(name)  # of a change that failed
        self._handles[name] = os.memfd_create(name)
        return os.fdopen(os.dup(self._handles[name]), "wb")

    def path(self, name: str) -> Path:
        return Path(f"/proc/self/fd/{self._handles[name]}")

    def where(self, name: str) -> str:
        return f"{name} in memory"

    def check(self, name: str, data: NDArray[np.uint8], expected: File) -> None:
        """Nobody else can have changed it."""

    def keep(self, names: Set[str]) -> None:
        """Close the other files. What is mapped of them stays."""
        for name in self._handles.keys() - names:
            self._discard(name)

    def _discard(self, name: str) -> None:
        if name in self._handles:
            os.close(self._handles.pop(name))


def _close(handles: dict[str, int]) -> None:
    for handle in handles.values():
        os.close(handle)


def mapped(files: Files, name: str, expected: File) -> NDArray[np.uint8]:
    """A file's bytes as a read-only array, which are read where they are used, and stay there for
    the array's life whatever becomes of the file's name.

    Raises `SearchIndexError` where the file's size is not the one in the header, and
    `FileNotFoundError` where it is gone.
    """
    import numpy as np

    where = files.where(name)
    try:
        file = files.path(name).open("rb")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise SearchIndexError(f"{where} cannot be read: {error.strerror}") from error
    with file:
        size = os.fstat(file.fileno()).st_size
        if size != expected.size or not size:
            raise SearchIndexError(
                f"{where} has {size:,} bytes; the header says {expected.size:,}", hint=_AGAIN
            )
        # As a plain array: each slice of a memmap costs several times as much.
        return np.memmap(file, dtype=np.uint8, mode="r").view(np.ndarray)


def check_digest(
    where: str,
    data: NDArray[np.uint8],
    expected: File,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Raise `SearchIndexError` where a file's SHA-256 is not the one in the header."""
    from hashlib import sha256

    digest = sha256()
    for start in range(0, len(data), _CHUNK):
        chunk = data[start : start + _CHUNK]
        digest.update(chunk.data)
        if progress:
            progress(len(chunk))
    if digest.hexdigest() != expected.sha256:
        raise SearchIndexError(
            f"{where} has SHA-256 {digest.hexdigest()}; the header says {expected.sha256}",
            hint=_AGAIN,
        )


class DigestedFile:
    """A new file that is hashed while it is written."""

    def __init__(self, file: BinaryIO) -> None:
        from hashlib import sha256

        self._file = file
        self._digest = sha256()
        self.size = 0

    def write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)

    def write_array(self, array: NDArray[Any]) -> None:
        """An array's numbers as they lie in memory."""
        self.write(array.reshape(-1).view("u1").data)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> File:
        """Bring it to the disk; what the header says of it."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return File(self.size, self._digest.hexdigest())

    def abandon(self) -> None:
        """Close it without a word; one that was closed before stays as it is."""
        with suppress(OSError):
            self._file.close()
