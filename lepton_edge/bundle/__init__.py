"""A bundle: a folder with a manifest, its artifacts and its tokenizer."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lepton_edge.bundle import manifest as manifests
from lepton_edge.bundle.hashing import Verify, check_files, digest_of, sha256
from lepton_edge.bundle.manifest import Artifact, File, Manifest
from lepton_edge.errors import BundleError, IntegrityError, StorageError
from lepton_edge.storage import is_unfinished, refuse_existing

if TYPE_CHECKING:
    from collections.abc import Callable

REPORT = "quality.html"
TOKENIZER = "tokenizer/tokenizer.json"
ARCHIVE_SUFFIX = ".lepton"


@dataclass(frozen=True)
class Bundle:
    """A bundle folder and its manifest. Opening one reads the manifest and nothing else."""

    path: Path
    manifest: Manifest

    def verify(
        self, verify: Verify = "always", progress: Callable[[int], None] | None = None
    ) -> None:
        """Hash every file and refuse files that the manifest does not list.

        ``progress`` is told the bytes hashed. Raises `IntegrityError`.
        """
        unlisted = sorted(files_below(self.path) - {*self.manifest.files, manifests.FILE_NAME})
        if unlisted:
            raise IntegrityError(
                f"{self.path} has {len(unlisted)} file(s) that its manifest does not list: "
                f"{', '.join(unlisted[:5])}",
                hint="remove them, or build or copy the bundle again",
            )
        check_files(self.path, self.manifest.files, verify, progress)
        for artifact in self.manifest.artifacts:
            if artifact.sha256 != digest_of(self.files_of(artifact)):
                raise IntegrityError(
                    f"the manifest's SHA-256 of the artifact for {artifact.target} is not that of "
                    "its files",
                    hint="build or copy the bundle again",
                )

    def files_of(self, artifact: Artifact) -> dict[str, File]:
        """The files of one artifact, by their paths in the bundle."""
        prefix = f"{artifact.directory}/"
        return {name: file for name, file in self.manifest.files.items() if name.startswith(prefix)}

    @property
    def size(self) -> int:
        """Bytes of all files that the manifest lists."""
        return sum(file.size for file in self.manifest.files.values())


def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Read the manifest of a bundle folder.

    Raises `BundleError` where there is none or it cannot be read, and `SchemaError` where it was
    written by a newer lepton-edge.
    """
    path = Path(path)
    if is_unfinished(path):
        raise BundleError(
            f"{path} was left by a build or an unpacking that was interrupted",
            hint="remove it, and build or unpack the bundle again",
        )
    file = path / manifests.FILE_NAME
    try:
        data = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        if path.suffix == ARCHIVE_SUFFIX and path.is_file():
            raise BundleError(f"{path} is packed", hint=f"lepton-edge unpack {path}") from None
        if not path.exists():
            raise BundleError(f"there is no bundle at {path}", hint=_bundles_near(path)) from None
        raise BundleError(
            f"{path} is not a bundle: it has no {manifests.FILE_NAME}", hint=_bundles_near(path)
        ) from None
    except OSError as error:
        raise BundleError(f"{file} cannot be read: {error.strerror}") from error
    return Bundle(path, manifests.decode(data, str(file)))


def refuse_output(final: Path, force: bool) -> None:
    """Raise `StorageError` where a bundle cannot be written to ``final``: something is there, and
    ``force`` is not given or it is no bundle."""
    refuse_existing(final, force)
    if final.is_dir() and any(final.iterdir()) and not (final / manifests.FILE_NAME).is_file():
        raise StorageError(
            f"{final} is a folder and not a bundle: replacing it would delete what is in it",
            hint="choose another output, or remove the folder first",
        )


def describe_files(directory: Path, below: str = "") -> dict[str, File]:
    """Size and hash of every file of a folder, or of its folder ``below``, sorted by path."""
    return {
        name: File((directory / name).stat().st_size, sha256(directory / name))
        for name in sorted(files_below(directory))
        if not below or name.startswith(f"{below}/")
    }


def files_below(directory: Path) -> set[str]:
    """The relative paths, with forward slashes, of everything that is not a folder."""
    return {
        path.relative_to(directory).as_posix()
        for path in directory.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }


def _bundles_near(path: Path) -> str:
    """Where a bundle is, if one is below the folder given; else how to make one."""
    near = sorted(path.glob(f"*/{manifests.FILE_NAME}")) if path.is_dir() else []
    near = [file for file in near if not is_unfinished(file.parent)]
    if near:
        return f"did you mean {near[0].parent}?"
    return "lepton-edge build makes one; lepton-edge recipes lists what to build"
