"""Compiling on the device what a build could only prepare."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from lepton_edge import registry
from lepton_edge.bundle import Bundle, open_bundle
from lepton_edge.bundle.hashing import Verify, check_files
from lepton_edge.errors import BackendError
from lepton_edge.runtime.choice import cache_of, candidates, device_of, files_to_read
from lepton_edge.target import TARGETS, this_machine

if TYPE_CHECKING:
    from lepton_edge.bundle.manifest import Artifact

Progress = Callable[[float, str], None]


class Finalized(msgspec.Struct, frozen=True):
    """A deferred artifact that opens on this device now."""

    target: str
    compiled: bool
    """Whether it was compiled just now, or had been before."""
    cache: str
    """The folder with the engine."""


def finalize(
    path: str | os.PathLike[str],
    device: str | None = None,
    *,
    verify: Verify = "cached",
    progress: Progress | None = None,
) -> Finalized | None:
    """Compile a bundle's deferred artifact on this device, once; None for a bundle that has none.

    ``device`` is a target's name or a device, as `load` takes it; by default the first deferred
    artifact that can be compiled here. ``progress`` is told the share that is done, 0 to 1, and
    what is being done; an exception that it raises, or Ctrl-C, ends the work, and the next call
    goes on with what was measured. Several processes may call this at once: one compiles.

    Raises `BundleError`, `IntegrityError`, `BackendError`, `StorageError`.
    """
    bundle = open_bundle(path)
    reasons: list[str] = []
    deferred = [each for each in candidates(bundle, device) if each.deferred]
    here = this_machine()
    deferred.sort(key=lambda artifact: artifact.target != here)
    for artifact in deferred:
        try:
            return _finalize(bundle, artifact, device, verify, progress)
        except BackendError as error:
            reasons.append(f"{artifact.target} ({artifact.backend}): {error}")
    # What a fleet runs everywhere: on a machine of another architecture than the deferred targets',
    # and for which there is another artifact, there is nothing to do. On one of theirs a failure is
    # one, also where it does not say which board it is, as in a container.
    others = len(deferred) < len(candidates(bundle, device))
    if not reasons or (others and device is None and not any(map(_may_be_for_here, deferred))):
        return None
    raise BackendError(
        f"{bundle.path} cannot be compiled on this machine:\n  " + "\n  ".join(reasons),
        hint="lepton-edge doctor shows what this machine has",
    )


def _may_be_for_here(artifact: Artifact) -> bool:
    target = TARGETS.get(artifact.target)
    return target is None or target.architecture.replace("-", "_") == platform.machine()


def _finalize(
    bundle: Bundle,
    artifact: Artifact,
    device: str | None,
    verify: Verify,
    progress: Progress | None,
) -> Finalized:
    backend = registry.get(artifact.backend)
    files = files_to_read(bundle, artifact)
    check_files(bundle.path, files, verify)
    cache = cache_of(files)
    parts = artifact.parts
    compiled = [
        backend.finalize(
            bundle.path / part.directory,
            part.compiled,
            part.cache(cache),
            device_of(artifact, device),
            _share(progress, place, len(parts)),
        )
        for place, part in enumerate(parts)
    ]
    return Finalized(artifact.target, any(compiled), str(cache))


def _share(progress: Progress | None, place: int, parts: int) -> Progress:
    """Progress of one part, as progress of all."""
    if progress is None:
        return lambda share, step: None
    told = progress
    return lambda share, step: told((place + share) / parts, step)
