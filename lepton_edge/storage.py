"""Writing to disk so that a reader sees all of a thing or none of it."""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import shutil
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from lepton_edge.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

_TEMPORARY = ".lepton-"
# Long enough that a folder made a moment ago, and not locked yet, is never taken for abandoned.
_ABANDONED_SECONDS = 60


def cache_directory() -> Path:
    """Where caches live: ``$XDG_CACHE_HOME/lepton-edge``, else ``~/.cache/lepton-edge``."""
    base = os.environ.get("XDG_CACHE_HOME")
    if base and os.path.isabs(base):
        return Path(base) / "lepton-edge"
    return Path(os.path.expanduser("~")) / ".cache" / "lepton-edge"


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file under its final name only when all of it is on disk. Raises `OSError`."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=_TEMPORARY)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def new_directory(final: Path, *, replace: bool = False) -> Iterator[Path]:
    """A temporary folder beside ``final`` that takes its name when the block ends well.

    Whatever ends the block early removes the folder. Raises `StorageError` where ``final``
    exists (unless ``replace``, and it is a folder), or the disk is full or not writable, inside
    the block too.
    """
    with storage_errors(final):
        refuse_existing(final, replace)
        if os.path.lexists(final) and (final.is_symlink() or not final.is_dir()):
            raise StorageError(f"{final} is not a folder", hint="choose another output")
        final.parent.mkdir(parents=True, exist_ok=True)
        _sweep(final)
        work = Path(tempfile.mkdtemp(dir=final.parent, prefix=f"{_TEMPORARY}{final.name}-"))
        lock = os.open(work, os.O_RDONLY)
        try:
            with suppress(OSError):  # NFS cannot lock a folder; nothing is swept there then
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield work
            work.chmod(0o755)  # mkdtemp's folders are private; bundles are meant to be shared
            _sync(work)
            _take_name(work, final, replace)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
        finally:
            os.close(lock)


@contextmanager
def new_file(final: Path, *, replace: bool = False) -> Iterator[Path]:
    """A temporary file path beside ``final`` that takes its name when the block ends well.

    Raises as `new_directory`.
    """
    with storage_errors(final):
        refuse_existing(final, replace)
        if final.is_dir():
            raise StorageError(f"{final} is a folder", hint="name a file for the output")
        final.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=final.parent, prefix=f"{_TEMPORARY}{final.name}-")
        os.close(handle)
        work = Path(name)
        try:
            yield work
            work.chmod(0o644)
            with work.open("rb") as file:
                os.fsync(file.fileno())
            refuse_existing(final, replace)  # again: another process may have been faster
            os.replace(work, final)
            _sync_name(final)
        except BaseException:
            work.unlink(missing_ok=True)
            raise


def why_not_writable(path: Path) -> str | None:
    """Why no file could be written there, as far as can be told now; None where it could."""
    if path.is_dir():
        return "it is a folder"
    try:
        with storage_errors(path), tempfile.TemporaryFile(dir=path.parent):
            return None
    except StorageError as error:
        return error.message
    except FileNotFoundError:
        return "there is no such folder"


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn `OSError` about space, permission and names into `StorageError`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(
                f"the disk is full: {path} could not be written ({free_space(path)})",
                hint="free some space or choose another output folder; nothing was left behind",
            ) from error
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise StorageError(
                f"{error.filename or path} is in the way, or was written by another process",
                hint="choose another output folder, or remove it",
            ) from error
        if error.errno in _NOT_WRITABLE:
            raise StorageError(
                f"{error.filename or path} cannot be written: {error.strerror}",
                hint="choose another output folder, or change its permissions",
            ) from error
        raise


_NOT_WRITABLE = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EBUSY,
    errno.EFBIG,  # a file of 4 GiB or more on a FAT stick
    errno.ELOOP,
    errno.ENAMETOOLONG,
)


def free_space(path: Path) -> str:
    """How much is free where ``path`` is or would be, for a message."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return f"{shutil.disk_usage(path).free / 1024**2:,.1f} MiB free"


def refuse_existing(final: Path, replace: bool) -> None:
    """Raise `StorageError` where ``final`` exists and must not be replaced."""
    if os.path.lexists(final) and not replace:
        raise StorageError(
            f"{final} already exists", hint="--force replaces it; or choose another output"
        )


def is_unfinished(path: Path) -> bool:
    """Whether a path is one of `new_directory`'s or `new_file`'s that never got its name."""
    return path.name.startswith(_TEMPORARY)


def _take_name(work: Path, final: Path, replace: bool) -> None:
    """Rename ``work`` to ``final``. A folder cannot be replaced in one step, so the old one
    steps aside first and goes back if the new one does not arrive."""
    if not replace:
        refuse_existing(final, replace)  # again: another process may have been faster
        os.rename(work, final)
        _sync_name(final)
        return
    aside = Path(tempfile.mkdtemp(dir=final.parent, prefix=f"{_TEMPORARY}old-"))
    moved = arrived = False
    try:
        with suppress(FileNotFoundError):
            os.replace(final, aside)
            moved = True
        os.rename(work, final)
        arrived = True
        _sync_name(final)
    except BaseException:
        if moved:
            with suppress(OSError):  # another process's folder took the name
                os.rename(aside, final)
        raise
    finally:
        # What stepped aside is kept only where nothing else has the name: not ours, not another's.
        if arrived or not moved or final.exists():
            shutil.rmtree(aside, ignore_errors=True)


def _sweep(final: Path) -> None:
    """Remove what a killed process left beside ``final``: temporary folders of its name that have
    not changed for a while and that no process holds."""
    for left in final.parent.glob(f"{_TEMPORARY}{glob.escape(final.name)}-*"):
        with suppress(OSError):
            if time.time() - left.lstat().st_mtime < _ABANDONED_SECONDS:
                continue
            handle = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # OSError: in use
                shutil.rmtree(left)
            finally:
                os.close(handle)


def _sync(directory: Path) -> None:
    for path in (directory, *directory.rglob("*")):
        if path.is_file() or path.is_dir():
            _sync_one(path)


def _sync_name(path: Path) -> None:
    """So that a power cut does not take the name back. The files are there in any case."""
    with suppress(OSError):  # a folder that may be written and not read, or cannot be synced
        _sync_one(path.parent)


def _sync_one(path: Path) -> None:
    """A file's bytes, or a folder's names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
