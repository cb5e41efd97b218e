"""Which artifact of a bundle is for this machine, and where what is derived from it is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from lepton_edge import registry
from lepton_edge.bundle import TOKENIZER, Bundle
from lepton_edge.errors import BackendError, BundleError, DeferredError
from lepton_edge.storage import cache_directory
from lepton_edge.target import TARGETS, resolved

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from lepton_edge.backend import Backend
    from lepton_edge.bundle.manifest import Artifact, File

T = TypeVar("T")


def first_to_open(
    bundle: Bundle, device: str | None, opened: Callable[[Artifact, Backend], T]
) -> T:
    """What ``opened`` makes of the first artifact that can be opened here.

    Raises `BackendError` with the reason for each, and what ``opened`` raises otherwise;
    `DeferredError` where one only has to be compiled here first.
    """
    reasons: list[str] = []
    deferred = False
    for artifact in candidates(bundle, device):
        try:
            return opened(artifact, registry.get(artifact.backend))
        except BackendError as error:
            reasons.append(f"{artifact.target} ({artifact.backend}): {error.message}")
            deferred |= isinstance(error, DeferredError)
            if error.hint and not isinstance(error, DeferredError):
                reasons[-1] += f"\n  {error.hint}"
    if deferred:
        raise DeferredError(
            f"{bundle.path} cannot be opened on this machine yet:\n  " + "\n  ".join(reasons),
            hint=f"compile it here, once: lepton-edge finalize {bundle.path}; "
            "or load(path, finalize=True)",
        )
    raise BackendError(
        f"{bundle.path} cannot be opened on this machine:\n  " + "\n  ".join(reasons),
        hint="lepton-edge doctor shows what this machine has",
    )


def candidates(bundle: Bundle, device: str | None) -> list[Artifact]:
    """The artifacts to try, in order. A device that is no target's name is for the backends to
    judge.

    Raises `BundleError` for a bundle without any, and `BackendError` for a target that it was not
    built for.
    """
    artifacts = bundle.manifest.artifacts
    if not artifacts:
        raise BundleError(f"{bundle.path} has no artifact", hint="build the bundle again")
    names = (device, *(TARGETS[device].alias_of if device in TARGETS else ()))
    named = [artifact for artifact in artifacts if artifact.target in names]
    if device in TARGETS:  # of an alias, what it stands for here comes first
        own = resolved(TARGETS[device]).name
        named.sort(key=lambda artifact: artifact.target != own)
    if device in TARGETS and not named:
        raise BackendError(
            f"{bundle.path} was not built for {device}; "
            f"it has {', '.join(artifact.target for artifact in artifacts)}",
            hint=f"lepton-edge build … --target {device}",
        )
    return named or list(artifacts)


def device_of(artifact: Artifact, device: str | None) -> str | None:
    """The device to open an artifact on, of what a user named; None for the backend's own choice,
    as where a target is named."""
    return None if device in TARGETS or device == artifact.target else device


def files_to_read(bundle: Bundle, artifact: Artifact) -> dict[str, File]:
    """The artifact's files and the tokenizer's. Raises `BundleError` where one is not listed."""
    needed = bundle.files_of(artifact)
    if not needed or TOKENIZER not in bundle.manifest.files:
        raise BundleError(
            f"{bundle.path} lists no files for {artifact.target}", hint="build it again"
        )
    needed[TOKENIZER] = bundle.manifest.files[TOKENIZER]
    return needed


def cache_of(files: Mapping[str, File]) -> Path:
    """The folder of what is derived from these very files, whose digests were verified.

    Of each digest as much as fits in a file name, rather than a digest of them: hashlib alone
    maps 3 MB.
    """
    share = max(200 // len(files), 1)
    key = "".join(files[name].sha256[:share] for name in sorted(files))
    return cache_directory() / "artifacts" / key
