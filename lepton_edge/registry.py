"""The installed backends: listed from package metadata without importing any of them."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

import msgspec

from lepton_edge.errors import BackendError
from lepton_edge.target import TARGETS

if TYPE_CHECKING:
    from lepton_edge.backend import Backend, Probe

GROUP = "lepton_edge.backends"


class Entry(msgspec.Struct, frozen=True):
    """A backend that package metadata names; it may still fail to import."""

    name: str
    distribution: str
    version: str
    entry_point: EntryPoint


def entries() -> tuple[Entry, ...]:
    """The backends that installed distributions name, sorted.

    Raises `BackendError` where two distributions claim one name.
    """
    found: dict[str, Entry] = {}
    for point in entry_points(group=GROUP):
        entry = Entry(
            name=point.name,
            distribution=_metadata(point, "Name") or "unknown",
            version=_metadata(point, "Version"),
            entry_point=point,
        )
        first = found.setdefault(entry.name, entry)
        # One distribution can be on the path twice (installed, and as a checkout): that is one.
        if first.distribution != entry.distribution:
            raise BackendError(
                f"two distributions provide the backend {entry.name!r}: "
                f"{first.distribution} {first.version} and {entry.distribution} {entry.version}",
                hint=f"remove one of them: pip uninstall {entry.distribution}",
            )
    return tuple(found[name] for name in sorted(found))


def get(name: str) -> Backend:
    """The backend of that name, imported now.

    Raises `BackendError` where it is not installed or cannot be imported.
    """
    for entry in entries():
        if entry.name == name:
            return _open(entry)
    installed = ", ".join(entry.name for entry in entries()) or "none"
    raise BackendError(
        f"the backend {name!r} is not installed (installed: {installed})", hint=how_to_install(name)
    )


def probe(name: str) -> Probe:
    """What that backend finds on this machine.

    Raises `BackendError`, whatever went wrong inside it.
    """
    backend = get(name)
    try:
        return backend.probe()
    except BackendError:
        raise
    except Exception as error:  # a vendor's library can fail in any way
        raise BackendError(
            f"the backend {name!r} failed while it looked at this machine: "
            f"{type(error).__name__}: {error}"
        ) from error


def how_to_install(name: str) -> str | None:
    """The command that installs the backend of a target; None for another project's."""
    known = {target.backend for target in TARGETS.values()}
    return f"pip install 'lepton-edge[{name}]'" if name in known else None


def _metadata(point: EntryPoint, field: str) -> str:
    """A field of the distribution's metadata; empty where that is gone, as after a crash of pip."""
    metadata = point.dist.metadata if point.dist else None
    return metadata[field] if metadata is not None and field in metadata else ""


def _open(entry: Entry) -> Backend:
    try:
        backend = _load(entry.entry_point)
    except Exception as error:  # a plugin's import can fail in any way
        raise BackendError(
            f"the backend {entry.name!r} ({entry.distribution} {entry.version}) "
            f"cannot be imported: {type(error).__name__}: {error}",
            hint=f"pip install --force-reinstall {entry.distribution}",
        ) from error
    return backend


@cache
def _load(point: EntryPoint) -> Backend:
    from lepton_edge.backend import Backend

    backend = point.load()()
    if not isinstance(backend, Backend):
        raise TypeError(f"{point.value} makes a {type(backend).__name__}, not a Backend")
    return backend
