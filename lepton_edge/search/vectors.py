"""Texts to unit vectors, by a model that embeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lepton_edge.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lepton_edge.runtime.model import Model

_TASK = "feature-extraction"


def require_embeddings(model: Model, purpose: str) -> None:
    """Raise `InputError` for a model that does something else."""
    if model.task.name != _TASK:
        raise InputError(
            f"{model.manifest.name} does {model.task.name}; {purpose} needs a bundle of {_TASK}",
            hint=f"lepton-edge build path/to/model --task {_TASK}",
        )


def embed(model: Model, texts: Sequence[str]) -> tuple[NDArray[np.float32], list[bool]]:
    """The texts' embeddings scaled to length 1, float32 [texts, dimension], and which texts were
    longer than the model takes.

    Raises `InputError` and `InferenceError`.
    """
    import numpy as np

    embeddings = model(list(texts))
    matrix = np.stack([np.asarray(each, dtype=np.float32) for each in embeddings])
    return unit(matrix), [bool(each.truncated) for each in embeddings]


def unit(matrix: NDArray[Any]) -> NDArray[np.float32]:
    """Rows scaled to length 1; a row of zeros stays one."""
    import numpy as np

    # In float64: the squares of a float32 can be out of its range.
    wide = np.asarray(matrix, dtype=np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    return (wide / np.where(norms > 0, norms, 1)).astype(np.float32)
