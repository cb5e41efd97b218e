"""SHA-256 of files, and the memory of which files were found right before."""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

import msgspec

from lepton_edge.errors import BundleError, IntegrityError
from lepton_edge.storage import cache_directory, write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lepton_edge.bundle.manifest import File

Verify = Literal["cached", "always"]

_CHUNK = 1024 * 1024
_Stamp = tuple[int, int, int, int, str]


def sha256(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """Hexadecimal SHA-256 of a file; ``progress`` is told the bytes of each chunk read."""
    # Imported here: a start that finds every file as it was hashes nothing, and hashlib loads
    # OpenSSL (3 MB, and up to 3 ms).
    import hashlib

    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            if progress:
                progress(len(chunk))
    return digest.hexdigest()


def digest_of(files: Mapping[str, File]) -> str:
    """SHA-256 over the sorted names and digests of several files."""
    import hashlib

    listing = "".join(f"{file.sha256}  {name}\n" for name, file in sorted(files.items()))
    return hashlib.sha256(listing.encode()).hexdigest()


def check_file(path: Path, name: str, expected: File) -> os.stat_result:
    """The file's status, if it is a regular file of the size in the manifest.

    Raises `IntegrityError`, with ``name`` for the file.
    """
    hint = "the bundle was changed or cut short: copy or build it again"
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        raise IntegrityError(f"{name} is missing from the bundle", hint=hint) from None
    except OSError as error:
        raise _unreadable(name, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise IntegrityError(f"{name} is not a regular file", hint=hint)
    if status.st_size != expected.size:
        raise IntegrityError(
            f"{name} has {status.st_size:,} bytes; the manifest says {expected.size:,}", hint=hint
        )
    return status


def check_files(
    directory: Path,
    files: Mapping[str, File],
    verify: Verify,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Hash the bundle's files against the manifest.

    With ``verify="cached"`` a file is not hashed again while its size, times and inode are those
    of the last time that it was right. The memory is kept in the user's cache folder; where that
    cannot be written, every file is hashed each time. Raises `IntegrityError`, and `BundleError`
    for a file that cannot be read.
    """
    memory = _Memory(directory)
    known = memory.read() if verify == "cached" else {}
    fresh: dict[str, _Stamp] = {}
    _check_folders(directory, files)
    for name, expected in files.items():
        path = directory / name
        status = check_file(path, name, expected)
        stamp = _stamp(status, expected.sha256)
        if known.get(name) != stamp:
            try:
                found = sha256(path, progress)
            except OSError as error:
                raise _unreadable(name, error) from error
            if found != expected.sha256:
                raise IntegrityError(
                    f"{name} has SHA-256 {found}; the manifest says {expected.sha256}",
                    hint="the file was changed or damaged: copy or build the bundle again",
                )
        fresh[name] = stamp
    if fresh != known:
        memory.write(fresh)


def _check_folders(directory: Path, files: Mapping[str, File]) -> None:
    """Raise `IntegrityError` where a file's folder is a link: it would lead out of the bundle."""
    folders = {parent for name in files for parent in PurePosixPath(name).parents}
    for folder in sorted(folders, key=str):
        if (directory / folder).is_symlink() and folder.parts:
            raise IntegrityError(
                f"the bundle's folder {folder} is a link",
                hint="the bundle was changed: copy or build it again",
            )


def _unreadable(name: str, error: OSError) -> BundleError:
    return BundleError(
        f"{name} cannot be read: {error.strerror}",
        hint="check its permissions and the disk, or copy the bundle again",
    )


def _stamp(status: os.stat_result, digest: str) -> _Stamp:
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, digest)


class _Memory:
    """The stamps of one bundle folder's files, in the user's cache folder."""

    def __init__(self, directory: Path) -> None:
        status = directory.stat()
        self.path = cache_directory() / "verified" / f"{status.st_dev:x}-{status.st_ino:x}.json"

    def read(self) -> dict[str, _Stamp]:
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=dict[str, _Stamp])
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return {}  # no memory, or a damaged one: hash everything again

    def write(self, stamps: dict[str, _Stamp]) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, msgspec.json.encode(stamps))
        except OSError:
            pass  # a cache that cannot be written costs time, never correctness
