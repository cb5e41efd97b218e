"""A device profile: the settings that `lepton-edge tune` found best for a bundle on this machine.

It lies beside the bundle, as ``NAME-VERSION.profile.json``, never inside: what is in a bundle is
verified and the same everywhere. It counts only for the artifact and the machine that it was
measured on; elsewhere it is as if it were not there.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lepton_edge.backend import Setting
from lepton_edge.runtime.batching import DEFAULT, Limits
from lepton_edge.storage import storage_errors, write_atomically

if TYPE_CHECKING:
    from lepton_edge.backend import Backend
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
    library: str
    """The version of the backend's library."""
    machine: str
    """The processor and how many of its cores the process could use."""
    objective: str
    """What it was tuned for: `latency`, `throughput` or a bound such as `p99=20ms`."""
    settings: dict[str, Setting] = {}
    """The backend's own, in place of the artifact's; empty where its own were the best."""
    rows: int = DEFAULT.rows
    """The most texts in a micro-batch."""
    tokens: int = DEFAULT.tokens
    """The most padded tokens in a micro-batch."""
    gain: float = 1.0
    """How many times as good as the default it measured: 1 where the default won."""

    @property
    def limits(self) -> Limits:
        """Of micro-batches."""
        return Limits(rows=self.rows, tokens=self.tokens)


def profile_path(bundle: Path) -> Path:
    """Where a bundle's profile lies: beside its folder."""
    folder = bundle.absolute()
    return folder.with_name(f"{folder.name}.profile.json")


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
    """The profile beside a bundle, where it was measured on this artifact and machine and with this
    library. None otherwise, and where it cannot be read: the artifact's own settings always work.
    """
    try:
        profile = decode(profile_path(bundle).read_bytes())
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    here = (SCHEMA, artifact.sha256, artifact.backend, backend.version(), machine_key())
    there = (profile.schema, profile.artifact, profile.backend, profile.library, profile.machine)
    return profile if here == there else None


def write_profile(bundle: Path, profile: Profile) -> Path:
    """Keep a profile beside its bundle, in place of one that is there. Raises `StorageError`."""
    path = profile_path(bundle)
    data = msgspec.json.format(msgspec.json.encode(profile), indent=2) + b"\n"
    with storage_errors(path):
        write_atomically(path, data)
    return path


def decode(data: bytes) -> Profile:
    """Raises `msgspec.ValidationError` for what is no profile."""
    return msgspec.json.decode(data, type=Profile)
