"""Engines that were compiled on this device, each for one plan, GPU and library."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lepton_edge.bundle.hashing import check_files
from lepton_edge.bundle.manifest import File
from lepton_edge.errors import BundleError, StorageError
from lepton_edge.storage import is_unfinished, storage_errors, write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator


_RECORD = "engine.json"


class Record(msgspec.Struct, frozen=True):
    """What an engine is, written after it: an engine without one was never finished."""

    plan: str
    gpu: str
    capability: str
    library: str
    size: int
    sha256: str


@dataclass(frozen=True)
class EngineCache:
    """The place of one engine below a cache folder.

    ``plan`` is the plan's digest, ``library`` the flavour and its version. An engine for another
    plan, GPU or library is never found, as it is in another folder; one that is not what its record
    says is not taken.
    """

    root: Path
    plan: str
    gpu: str
    capability: str
    library: str

    @property
    def folder(self) -> Path:
        name = f"{self.library} {self.gpu} sm{self.capability} {self.plan[:16]}"
        return self.root / re.sub(r"[^A-Za-z0-9.]+", "-", name).lower()

    @property
    def engine(self) -> Path:
        return self.folder / "model.engine"

    def find(self) -> Path | None:
        """The engine, if it is there and whole: hashed once, while its size and times stay the
        same."""
        try:
            record = msgspec.json.decode(self._record.read_bytes(), type=Record)
            if self._expected(record.size, record.sha256) != record:
                return None
            whole = File(record.size, record.sha256)
            check_files(self.folder, {self.engine.name: whole}, "cached")
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, BundleError):
            return None
        return self.engine

    def keep(self, data: bytes) -> Path:
        """Write an engine. Raises `StorageError`."""
        import hashlib

        with _errors(self.engine):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._record.unlink(missing_ok=True)
            write_atomically(self.engine, data)
            record = self._expected(len(data), hashlib.sha256(data).hexdigest())
            write_atomically(self._record, msgspec.json.encode(record))
            for path in (self.engine, self._record):
                path.chmod(0o644)  # a service of another user may share the cache
        self._forget_older()
        return self.engine

    def _forget_older(self) -> None:
        """Remove this plan's engines for the same GPU of other versions of the library: after an
        upgrade nothing opens them."""
        for folder in self.root.iterdir():
            with suppress(OSError, msgspec.DecodeError, UnicodeDecodeError):
                record = msgspec.json.decode((folder / _RECORD).read_bytes(), type=Record)
                same = (record.plan, record.gpu, record.capability)
                if same == (self.plan, self.gpu, self.capability) and folder != self.folder:
                    shutil.rmtree(folder)

    def timings(self) -> bytes | None:
        """What an earlier compilation measured of this GPU's kernels."""
        try:
            return self._timings.read_bytes()
        except OSError:
            return None

    def keep_timings(self, data: bytes) -> None:
        with _errors(self._timings):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self._timings, data)

    @contextmanager
    def locked(self, waiting: Callable[[], None]) -> Iterator[None]:
        """One process at a time; ``waiting`` is called where another has it, and then waited.

        The lock goes with the process, however it ends. Raises `StorageError`.
        """
        with _errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if not _lock(handle, fcntl.LOCK_NB):
                waiting()
                _lock(handle)
            self._sweep()
            yield
        finally:
            os.close(handle)

    def _sweep(self) -> None:
        """Remove what a killed process was writing."""
        for left in self.folder.iterdir():
            if is_unfinished(left):
                left.unlink(missing_ok=True)

    def _expected(self, size: int, digest: str) -> Record:
        return Record(self.plan, self.gpu, self.capability, self.library, size, digest)

    @property
    def _record(self) -> Path:
        return self.folder / _RECORD

    @property
    def _timings(self) -> Path:
        return self.folder / "timing.cache"


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    """As `storage_errors`, with what helps with a cache."""
    try:
        with storage_errors(path):
            yield
    except StorageError as error:
        raise StorageError(
            error.message, hint="free some space, or: export XDG_CACHE_HOME=/another/folder"
        ) from error


def _lock(handle: int, options: int = 0) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | options)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks: two that compile at once keep the same engine
    return True
