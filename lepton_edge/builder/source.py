"""A source that was read: what it is, what it says of itself, and how to run the original."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lepton_edge.bundle.hashing import sha256
from lepton_edge.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from lepton_edge.backend import Graph, Tensors
    from lepton_edge.bundle.manifest import Source
    from lepton_edge.tasks.base import Dimensions, Facts


class Original(Protocol):
    """The model as it was given: what every compiled artifact is compared with."""

    def graph(self, task: str, config: Any, work: Path) -> Graph:
        """The computation from tokens to the task's outputs; ``work`` is a folder for files."""
        ...

    def run(self, feeds: Tensors) -> dict[str, NDArray[np.float32]]:
        """The task's outputs, computed by the original. Called after `graph`."""
        ...


@dataclass(frozen=True)
class LoadedSource:
    """Everything that a build takes from a source."""

    source: Source
    original: Original
    task: str
    facts: Facts
    tokenizer: str
    """tokenizer.json as text."""
    pad_id: int
    max_length: int
    """The longest input in tokens that the model takes."""
    license: str | None
    default_length: int | None = None
    """The longest input where a recipe names none, if that is less."""


def hash_weights(files: Sequence[Path], pinned: str | None) -> str:
    """SHA-256 of a weights file; of several, over their sorted names and digests.

    Raises `SourceError` where it is not the one that the recipe pins.
    """
    digests = {path.name: sha256(path) for path in files}
    if len(digests) == 1:
        (found,) = digests.values()
    else:
        listing = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
        found = hashlib.sha256(listing.encode()).hexdigest()
    if pinned and found != pinned:
        raise SourceError(
            f"the weights in {files[0].parent} have SHA-256 {found}; the recipe pins {pinned}",
            hint="the file was changed or damaged: fetch it again, "
            "or change source.sha256 if the change is meant",
        )
    return found


def output_shape(
    what: str, name: str, shape: Sequence[int], wanted: Dimensions, config: Any
) -> tuple[int | str, ...]:
    """The shape of an output, as a `TensorSpec` says it, from its shape for 2 texts of 9 tokens.

    Raises `SourceError` where the task reads another one.
    """
    fixed = {"batch": 2, "length": 9}
    fits = len(shape) == len(wanted) and all(
        size == fixed.get(dimension, size) for size, dimension in zip(shape, wanted, strict=True)
    )
    if not fits:
        raise SourceError(
            f"{what} gives {name} of shape {list(shape)} for 2 texts of 9 tokens; "
            f"the task reads one of shape [{', '.join(wanted)}]"
        )
    size = shape[-1] if wanted[-1] == "size" else None
    labels = getattr(config, "labels", None)
    if labels is not None and size is not None and len(labels) != size:
        raise SourceError(f"{what} has {size} outputs for {len(labels)} labels")
    return tuple(
        int(size) if dimension == "size" else dimension
        for size, dimension in zip(shape, wanted, strict=True)
    )


def first_line(error: BaseException) -> str:
    """What an error of another library says, without the pages that may follow."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
