"""Feature extraction: a text's embedding, a vector to compare with others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lepton_edge.errors import InputError
from lepton_edge.tasks.base import Dimensions, Facts, NoParameters, Task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from lepton_edge.backend import Tensors
    from lepton_edge.runtime.text import Tokens

Pooling = Literal["mean", "cls"]


@dataclass(frozen=True, eq=False)
class Embedding:
    """A text's embedding. ``numpy.asarray`` takes one, or a list of them as a matrix.

    ``vector`` is float32 of shape [dimension]. ``truncated``: the text was longer than the model
    takes.
    """

    vector: NDArray[np.float32]
    truncated: bool = False

    def similarity(self, other: Embedding) -> float:
        """Cosine similarity, -1 to 1."""
        return float(similarity([self], [other])[0, 0])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[np.float32]:
        import numpy as np

        if copy is None:
            return np.asarray(self.vector, dtype=dtype)
        # numpy refuses copy=False where the dtype needs one.
        return np.array(self.vector, dtype=dtype, copy=copy)

    def __len__(self) -> int:
        return len(self.vector)

    def __str__(self) -> str:
        start = ", ".join(f"{value:.4f}" for value in self.vector[:4].tolist())
        note = "  (text truncated)" if self.truncated else ""
        return f"[{start}, …] {len(self)} dimensions{note}"


def similarity(a: ArrayLike | Sequence[Embedding], b: ArrayLike | Sequence[Embedding]) -> Any:
    """Cosine similarity of every row of ``a`` with every row of ``b``: float32 [len(a), len(b)].

    Rows are embeddings or vectors of one dimension. A zero vector is similar to nothing: 0.
    Raises `InputError` where the dimensions differ.
    """
    left, right = _unit_rows(a), _unit_rows(b)
    if not left.size or not right.size:
        return left[:, :0] @ right[:, :0].T
    if left.shape[1] != right.shape[1]:
        raise InputError(
            f"embeddings of {left.shape[1]} and {right.shape[1]} dimensions cannot be compared"
        )
    return left @ right.T


def _unit_rows(rows: Any) -> NDArray[np.float32]:
    import numpy as np

    try:
        matrix = np.asarray(rows, dtype=np.float32)
    except (TypeError, ValueError) as error:  # rows of several lengths, or not of numbers
        raise InputError(
            f"similarity takes two lists of embeddings of one dimension: {error}"
        ) from None
    if matrix.shape == (0,):  # an empty list has no dimension
        matrix = matrix.reshape(0, 0)
    if matrix.ndim != 2:
        raise InputError(f"similarity takes two lists of embeddings; got shape {matrix.shape}")
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    unit: NDArray[np.float32] = np.divide(matrix, norms, where=norms > 0, out=np.zeros_like(matrix))
    return unit


@dataclass(frozen=True)
class FeatureExtractionOptions:
    """``task_options`` of a recipe for feature-extraction."""

    pooling: Pooling | None = None
    """How token vectors become one: the model's own way where absent, else `mean`."""
    normalize: bool | None = None
    """Scale to length 1; the model's own way where absent, else true."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  (a ClassVar to pydantic)


@dataclass(frozen=True)
class FeatureExtractionConfig:
    """The manifest's block: what the compiled graph does before it gives the embedding."""

    pooling: Pooling
    """How token vectors became one."""
    normalize: bool
    """Whether embeddings are scaled to length 1."""


class FeatureExtraction(Task[str, Embedding]):
    """Reads ``embedding`` of shape [batch, dimension]; pooling is part of the graph."""

    name: ClassVar[str] = "feature-extraction"
    outputs: ClassVar[Mapping[str, Dimensions]] = {"embedding": ("batch", "size")}
    Options = FeatureExtractionOptions
    Config = FeatureExtractionConfig
    config: FeatureExtractionConfig

    @staticmethod
    def configure(options: FeatureExtractionOptions, facts: Facts) -> FeatureExtractionConfig:
        pooling = options.pooling or facts.pooling or "mean"
        normalize = facts.normalize if options.normalize is None else options.normalize
        return FeatureExtractionConfig(pooling, normalize is None or normalize)

    def read(
        self, outputs: Tensors, sequences: Sequence[Tokens], parameters: NoParameters
    ) -> Sequence[Any]:
        """Each vector is a row of one matrix."""
        vectors: Any = outputs["embedding"]
        return list(vectors)

    def result(
        self,
        given: str,
        sequences: Sequence[Tokens],
        values: Sequence[Any],
        parameters: NoParameters,
    ) -> Embedding:
        return Embedding(values[0], sequences[0].truncated)
