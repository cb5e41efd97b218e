"""A bundle in one file: a zip with the manifest first, uncompressed, the same bytes each time.

Nothing is compressed because weights hardly shrink, and because two zlib versions would give two
archives of one bundle.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from lepton_edge.bundle import ARCHIVE_SUFFIX, Bundle, open_bundle, refuse_output
from lepton_edge.bundle import manifest as manifests
from lepton_edge.bundle.manifest import File, Manifest
from lepton_edge.errors import BundleError, IntegrityError, StorageError
from lepton_edge.storage import new_directory, new_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Progress = Callable[[int], None]

_CHUNK = 1024 * 1024
_MAX_MANIFEST = 64 * 1024 * 1024
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can hold


def pack(
    bundle: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Verify a bundle and write it into one file, ``NAME-VERSION.lepton`` unless told otherwise.

    ``progress`` is told the bytes written. Raises `IntegrityError` and `StorageError`.
    """
    opened = open_bundle(bundle)
    opened.verify()
    manifest = opened.manifest
    final = Path(output) if output else Path(f"{manifest.name}-{manifest.version}{ARCHIVE_SUFFIX}")
    if final.resolve().is_relative_to(opened.path.resolve()):
        raise StorageError(
            f"{final} is inside the bundle that it would hold",
            hint=f"choose another output: -o ../{final.name}",
        )
    with new_file(final, replace=force) as work, zipfile.ZipFile(work, "w") as archive:
        for name in (manifests.FILE_NAME, *sorted(manifest.files)):
            with (opened.path / name).open("rb") as source:
                _add(archive, name, source, progress)
    return final


def unpack(
    archive: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> Bundle:
    """Unpack an archive into a new folder, ``NAME-VERSION`` unless told otherwise.

    Only the files that the manifest lists are written, hashed on the way; anything else in the
    archive (a path outside, a link, a name given twice, a file not listed) refuses the whole.
    Raises `BundleError`, `IntegrityError` and `StorageError`.
    """
    archive = Path(archive)
    with _opened(archive) as file, _zip_errors(archive), zipfile.ZipFile(file) as opened:
        entries = _entries(opened, archive)
        manifest = _manifest(opened, entries, archive)
        final = Path(output) if output else Path(f"{manifest.name}-{manifest.version}")
        refuse_output(final, force)
        with new_directory(final, replace=force) as work:
            for name, expected in manifest.files.items():
                _extract(opened, entries[name], work / name, expected, progress)
            (work / manifests.FILE_NAME).write_bytes(opened.read(manifests.FILE_NAME))
    return Bundle(final, manifest)


def _opened(archive: Path) -> IO[bytes]:
    try:
        return archive.open("rb")
    except FileNotFoundError:
        raise BundleError(f"there is no archive at {archive}") from None
    except IsADirectoryError:
        raise BundleError(f"{archive} is a folder", hint="it needs no unpacking") from None
    except OSError as error:
        raise BundleError(f"{archive} cannot be read: {error.strerror}") from error


@contextmanager
def _zip_errors(archive: Path) -> Iterator[None]:
    """Turn what zipfile raises for bytes that are not what they should be into `BundleError`."""
    try:
        yield
    except _DAMAGED as error:
        raise BundleError(
            f"{archive} is not a valid archive: {error}", hint="copy or pack it again"
        ) from error


_DAMAGED = (
    zipfile.BadZipFile,
    EOFError,
    LookupError,
    OSError,  # a seek to before the start, or a disk that cannot be read
    OverflowError,
    RuntimeError,
    ValueError,
    struct.error,
)


def _add(archive: zipfile.ZipFile, name: str, source: IO[bytes], progress: Progress | None) -> None:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.external_attr = (stat.S_IFREG | 0o644) << 16
    with archive.open(entry, "w", force_zip64=True) as target:
        while chunk := source.read(_CHUNK):
            target.write(chunk)
            if progress:
                progress(len(chunk))


def _entries(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    """The archive's entries by name, each plain, inside, and there once."""
    entries: dict[str, zipfile.ZipInfo] = {}
    folded: set[str] = set()
    for entry in archive.infolist():
        # orig_filename: zipfile itself cuts names at a NUL byte.
        name = entry.orig_filename
        if not manifests.is_safe_path(name.removesuffix("/")):
            raise BundleError(f"the archive names a path outside the bundle: {name!r}")
        mode = entry.external_attr >> 16
        if (mode and not stat.S_ISREG(mode)) or name.endswith("/"):
            raise BundleError(f"the archive's entry {name!r} is not a regular file")
        if entry.compress_type != zipfile.ZIP_STORED:
            raise BundleError(f"the archive's entry {name!r} is compressed")
        # Case folded: two names that differ in case are one file on some systems.
        if name.casefold() in folded:
            raise BundleError(f"the archive has {name!r} twice")
        folded.add(name.casefold())
        entries[name] = entry
    # Nothing is compressed, so entries that share bytes are the only way to say more than this.
    if sum(entry.file_size for entry in entries.values()) > path.stat().st_size:
        raise BundleError(f"{path} names more bytes than it has", hint="copy or pack it again")
    return entries


def _manifest(
    archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo], path: Path
) -> Manifest:
    entry = entries.get(manifests.FILE_NAME)
    if entry is None:
        raise BundleError(f"{path} has no {manifests.FILE_NAME}", hint="was it made by pack?")
    if entry.file_size > _MAX_MANIFEST:
        raise BundleError(f"the manifest of {path} has {entry.file_size:,} bytes")
    manifest = manifests.decode(archive.read(entry), f"{path}:{manifests.FILE_NAME}")
    listed = {manifests.FILE_NAME, *manifest.files}
    for name in sorted(listed ^ entries.keys()):
        fault = "is missing from" if name in listed else "is not listed in the manifest of"
        raise IntegrityError(f"{name} {fault} {path}", hint="copy or pack it again")
    return manifest


def _extract(
    archive: zipfile.ZipFile,
    entry: zipfile.ZipInfo,
    target: Path,
    expected: File,
    progress: Progress | None,
) -> None:
    if entry.file_size != expected.size:
        raise IntegrityError(
            f"{entry.filename} has {entry.file_size:,} bytes; the manifest says {expected.size:,}"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with archive.open(entry) as source, target.open("xb") as file:
        while chunk := source.read(_CHUNK):
            file.write(chunk)
            digest.update(chunk)
            if progress:
                progress(len(chunk))
    if digest.hexdigest() != expected.sha256:
        raise IntegrityError(
            f"{entry.filename} has SHA-256 {digest.hexdigest()}; "
            f"the manifest says {expected.sha256}",
            hint="the archive was changed or damaged: copy or pack it again",
        )
