"""The nearest vectors of a set, found exactly in bounded memory.

Products of blocks are computed in float32 and only choose candidates. A candidate's score is then
computed in float64 from its own two vectors alone, so it does not depend on where the vector is
stored or what else is asked, and equal vectors have equal scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lepton_edge.search.segment import Segment

_BLOCK_BYTES = 12 * 1024**2  # of float32: what one matrix product reads, at most
_SCORE_BYTES = 8 * 1024**2  # of float32: what it makes, at most
_WIDEN_BYTES = 3 * 1024**2 // 2  # of float32: stays in a core's cache between the steps
_FEW = 8
QUERIES = 256  # of one pass over the vectors


def margin(dimension: int) -> float:
    """Twice the most that a float32 product of two unit vectors can be off.

    The rounding error of a sum of n products is at most n u / (1 - n u) times the sum of their
    absolute values, which is at most 1 here, whatever the order of the sum; u is 2^-24 (Higham,
    Accuracy and Stability of Numerical Algorithms, 2002, section 3.1).
    """
    error = dimension * 2.0**-24
    return 2.02 * error / (1 - error)  # vectors stored as float16 are a little longer than 1


class Best:
    """The ``top_k`` best rows of one query so far: by score, then by the order of insertion."""

    def __init__(self, query: NDArray[np.float32], top_k: int) -> None:
        """``query`` is float32 [dimension]."""
        import numpy as np

        self.top_k = top_k
        self.scores = np.zeros(0)
        self.positions = np.zeros(0, np.int64)
        """Rows of the whole index, removed ones counted."""
        self._query = query.astype(np.float64)

    @property
    def floor(self) -> float:
        """A row of a lower score is not among them."""
        return float(self.scores[-1]) if len(self.scores) == self.top_k else -2.0

    def offer(self, vectors: NDArray[Any], rows: NDArray[np.int64], first: int) -> None:
        """Candidates: some rows of a segment's ``vectors``, whose first row is at ``first``."""
        import numpy as np

        products = (vectors[rows].astype(np.float64) * self._query).sum(axis=1)
        scores = np.concatenate([self.scores, products])
        positions = np.concatenate([self.positions, rows + first])
        order = np.lexsort((positions, -scores))[: self.top_k]
        self.scores, self.positions = scores[order], positions[order]


def search(segment: Segment, first: int, queries: NDArray[np.float32], bests: list[Best]) -> None:
    """Offer each query its nearest rows of a segment whose first row is at ``first``.

    ``queries`` is float32 [queries, dimension], unit vectors or zeros, at most `QUERIES` of them.
    """
    import numpy as np

    slack = margin(queries.shape[1])
    for start, scores in _scores(segment.vectors, queries):
        end = start + scores.shape[1]
        low, high = np.searchsorted(segment.removed, [start, end])
        scores[:, segment.removed[low:high] - start] = -np.inf
        for best, row in zip(bests, scores, strict=True):
            picked = _pick(row, best.top_k, best.floor - slack, slack)
            if len(picked):
                best.offer(segment.vectors, picked + start, first)


def _pick(scores: NDArray[np.float32], top_k: int, floor: float, slack: float) -> NDArray[np.int64]:
    """Where the ``top_k`` best of a block can be: at least ``floor``, and not ``slack`` below the
    block's own ``top_k``-th."""
    import numpy as np

    picked = np.flatnonzero(scores >= floor)
    if len(picked) > top_k:
        among = scores[picked]
        least = np.partition(among, len(among) - top_k)[len(among) - top_k]
        picked = picked[among >= least - slack]
    return picked


def _scores(
    vectors: NDArray[Any], queries: NDArray[np.float32]
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The first row of each block, and the products with it: float32 [queries, rows]."""
    import numpy as np

    rows, dimension = vectors.shape
    block = min(_BLOCK_BYTES // (4 * dimension), _SCORE_BYTES // (4 * len(queries)))
    block = max(block, 64)
    # Of many queries the products take longer than the widening, and are best made at one time.
    small = vectors.dtype != np.float32 and len(queries) <= _FEW
    step = max(_WIDEN_BYTES // (4 * dimension), 64) if small else block
    as_float32 = _widener(vectors, step)
    for start in range(0, rows, block):
        end = min(start + block, rows)
        scores = np.empty((end - start, len(queries)), np.float32)
        for low in range(start, end, step):
            high = min(low + step, end)
            # This way around a few queries take 1.4 times less than as queries times vectors.
            scores[low - start : high - start] = as_float32(vectors[low:high]) @ queries.T
        yield start, np.ascontiguousarray(scores.T)


def _widener(vectors: NDArray[Any], rows: int) -> Callable[[NDArray[Any]], NDArray[np.float32]]:
    """Makes float32 of up to ``rows`` of the vectors; the result is good until the next call.

    Of float16 by its bits, five times as fast as numpy's own conversion: shifted into place, with
    the sign carried along, a half is the float32 that is 2^112 times smaller. That is exact for
    every finite number.
    """
    import numpy as np

    if vectors.dtype != np.float16 or not vectors.dtype.isnative:
        return lambda stored: np.asarray(stored, dtype=np.float32)
    room = np.empty((rows, vectors.shape[1]), np.int32)

    def widen(stored: NDArray[Any]) -> NDArray[np.float32]:
        bits = room[: len(stored)]
        np.copyto(bits, stored.view(np.int16))
        np.left_shift(bits, 13, out=bits)
        np.bitwise_and(bits, np.int32(-0x70000001), out=bits)
        values = bits.view(np.float32)
        values *= np.float32(2.0**112)
        return values

    return widen
