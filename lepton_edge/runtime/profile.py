"""A device profile: the settings that `lepton-edge tune` found best for a bundle on this machine.

It lies beside the bundle, as ``NAME-VERSION.profile.json``, never inside: what is in a bundle is
verified and the same everywhere. It counts only for the artifact, the machine and the library that
it was measured with; elsewhere it is as if it were not there, and so is one that cannot be read.

It is not signed, and need not be. It chooses among `Backend.tunings`, none of which answers less
exactly than the artifact's own settings, and its limits of a micro-batch are bounded.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec

from lepton_edge.backend import Setting
from lepton_edge.errors import BackendError, BundleError
from lepton_edge.runtime.batching import DEFAULT, Limits
from lepton_edge.storage import new_file, storage_errors

if TYPE_CHECKING:
    from lepton_edge.backend import Backend
    from lepton_edge.bundle import Bundle
    from lepton_edge.bundle.manifest import Artifact

SCHEMA = 1


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What was measured best, for which artifact, on which machine."""

    schema: int = SCHEMA
    """Version of this format. A profile of another version is passed over."""
    artifact: str
    """The artifact's SHA-256."""
    backend: str
    """The backend that opens it."""
    device: str
    """The device that it runs on, as the session names it."""
    library: str
    """The version of the backend's library."""
    machine: str
    """The processor and how many of its cores the process could use."""
    objective: str
    """What it was tuned for: `latency`, `throughput` or a bound such as `p99=20ms`."""
    settings: dict[str, Setting] = {}
    """The backend's own, in place of the artifact's; empty where its own were the best."""
    rows: Annotated[int, msgspec.Meta(ge=1, le=4096)] = DEFAULT.rows
    """The most texts in a micro-batch."""
    tokens: Annotated[int, msgspec.Meta(ge=1, le=2**19)] = DEFAULT.tokens
    """The most padded tokens in a micro-batch."""
    gain: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    """How many times as good as the default it measured: 1 where the default won."""

    @property
    def limits(self) -> Limits:
        """Of micro-batches."""
        return Limits(rows=self.rows, tokens=self.tokens)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Profile:
        """The profile in a file. Raises `BundleError` for one that is missing or no profile."""
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise BundleError(f"{path} cannot be read: {error.strerror}", hint=_MAKE) from error
        try:
            schema = msgspec.json.decode(data, type=_Versioned).schema
            if schema != SCHEMA:
                raise BundleError(
                    f"{path} is a profile of schema {schema}; this lepton-edge reads {SCHEMA}",
                    hint=_MAKE,
                )
            return msgspec.json.decode(data, type=cls)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BundleError(f"{path} is not a device profile: {error}", hint=_MAKE) from error

    def write(self, path: Path) -> None:
        """Write it to a file, in place of what is there. Raises `StorageError`."""
        data = msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"
        with new_file(path, replace=True) as work:  # which whoever runs the bundle may read
            work.write_bytes(data)


@dataclass(frozen=True)
class Kept:
    """The profile beside a bundle, and what becomes of it on this machine."""

    path: str
    profile: Profile | None
    """None where the file is no profile."""
    unused: str | None
    """Why it is passed over; None where it is used."""


def profile_path(bundle: Path) -> Path:
    """Where a bundle's profile lies: beside its folder, which a link may lead to."""
    folder = Path(os.path.realpath(bundle))
    return folder.parent / f"{folder.name}.profile.json"


def machine_key() -> str:
    """What a profile is measured on, such as ``Intel(R) Xeon(R) … , 2 cores``."""
    model = platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            names = (line.partition(":")[2].strip() for line in file if line[:10] == "model name")
            model = next(names, model)
    except OSError:
        pass  # not Linux
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model}, {cores} cores"


def read_profile(bundle: Path, artifact: Artifact, backend: Backend) -> Profile | None:
    """The profile beside a bundle, where it `fits`. None otherwise, and where it cannot be read:
    the artifact's own settings always work.
    """
    try:
        profile = Profile.read(profile_path(bundle))
    except BundleError:
        return None
    return profile if fits(profile, artifact, backend) else None


def fits(profile: Profile, artifact: Artifact, backend: Backend) -> bool:
    """Whether it was measured on this artifact and machine, with this library. Raises
    `BackendError` where the library cannot be used."""
    return misfit(profile, artifact, backend) is None


def misfit(profile: Profile, artifact: Artifact, backend: Backend) -> str | None:
    """Why a profile is not for this artifact here; None where it `fits`. Raises `BackendError`."""
    if (profile.artifact, profile.backend) != (artifact.sha256, artifact.backend):
        return "it was measured on another artifact than the bundle has"
    if profile.machine != (here := machine_key()):
        return f"it was measured on another machine: {profile.machine}; this is {here}"
    if profile.library != (version := backend.version()):
        return f"it was measured with {backend.name} {profile.library}; this is {version}"
    if profile.settings and profile.settings not in backend.tunings(artifact.compiled):
        return f"{backend.name} does not tune to its settings: {profile.settings}"
    return None


def find_profile(bundle: Bundle) -> Kept | None:
    """What lies beside a bundle, for people; None where nothing does. Changes nothing."""
    from lepton_edge import registry

    path = profile_path(bundle.path)
    if not os.path.lexists(path):
        return None
    try:
        profile = Profile.read(path)
    except BundleError as error:
        return Kept(str(path), None, error.message)
    own = (each for each in bundle.manifest.artifacts if each.sha256 == profile.artifact)
    # Any other says that none is the one.
    artifact = next(own, next(iter(bundle.manifest.artifacts), None))
    if artifact is None:
        return Kept(str(path), profile, "the bundle has no artifact")
    try:
        unused = misfit(profile, artifact, registry.get(artifact.backend))
    except BackendError as error:
        unused = error.message
    return Kept(str(path), profile, unused)


def remove_profile(bundle: Path) -> Path | None:
    """Remove the profile beside a bundle: the path that is gone, None where there was none.

    Raises `StorageError`.
    """
    path = profile_path(bundle)
    with storage_errors(path):
        try:
            path.unlink()
        except FileNotFoundError:
            return None
    return path


_MAKE = "lepton-edge tune BUNDLE makes one"


class _Versioned(msgspec.Struct):
    schema: int
