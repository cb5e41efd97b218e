"""Logits of a compiled model beside the original's, and how well they predict tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from lepton_edge.bundle.manifest import Parity
from lepton_edge.errors import ParityError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lepton_edge.backend import Setting

_MAX_RATIO = {"fp32": 1.001, "int8-weights": 1.05, "int4-weights": 1.5}
_ANY_RATIO = 1.02
_MIN_EQUAL = {"fp32": 0.9}


def max_ratio(limit: float | None, precision: str) -> float:
    """How many times the original's a perplexity may be; ``limit`` is the recipe's."""
    return limit or _MAX_RATIO.get(precision, _ANY_RATIO)


def min_equal(limit: float | None, precision: str) -> float:
    """The smallest share of equal greedy tokens; ``limit`` is the recipe's."""
    return _MIN_EQUAL.get(precision, 0.0) if limit is None else limit


class Difference:
    """Compiled and original logits beside each other, row by row."""

    def __init__(self) -> None:
        self._largest = self._sum = 0.0
        self._count = self._equal = 0
        self._cosines: list[float] = []

    def add(self, found: NDArray[np.float32], wanted: NDArray[np.float32]) -> None:
        """Both [rows, vocabulary]."""
        error = np.abs(found - wanted)
        self._largest = max(self._largest, float(error.max()))
        self._sum += float(error.sum(dtype=np.float64))
        self._count += error.size
        self._equal += int((found.argmax(axis=-1) == wanted.argmax(axis=-1)).sum())
        a, b = found.astype(np.float64), wanted.astype(np.float64)
        norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
        self._cosines += ((a * b).sum(axis=-1) / np.maximum(norms, 1e-30)).tolist()

    def parity(self, texts: int, details: Mapping[str, Setting]) -> Parity:
        """What was found on so many texts; ``details`` are the compiled model's own."""
        return Parity(
            texts=texts,
            max_error=self._largest,
            mean_error=self._sum / self._count,
            min_cosine=min(self._cosines),
            mean_cosine=sum(self._cosines) / len(self._cosines),
            equal_labels=self._equal / len(self._cosines),
            compute=str(details.get("compute", "")),
            through=str(details.get("through", "")),
        )


def perplexity(losses: NDArray[np.float64]) -> float:
    """exp of the mean."""
    return float(np.exp(losses.mean()))


def sound(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same. Raises `ParityError` where they are not numbers, or all zero."""
    if not np.isfinite(logits).all():
        raise ParityError(
            "the compiled model's logits are not numbers: NaN or infinite",
            hint="a number overflows at this precision: build with precision: fp32 or bf16",
        )
    if not logits.any():
        raise ParityError(
            "the compiled model's logits are all zero", hint="build with precision: fp32"
        )
    return logits


def losses_of(logits: NDArray[np.float32], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """-log softmax(logits)[token] of each row."""
    # A row at a time: over a large vocabulary, float64 of all of them is hundreds of MiB.
    return np.array([_loss(row, token) for row, token in zip(logits, tokens, strict=True)])


def _loss(logits: NDArray[np.float32], token: np.int64) -> float:
    wide = logits.astype(np.float64)
    largest = wide.max()
    return float(np.log(np.exp(wide - largest).sum()) + largest - wide[token])
