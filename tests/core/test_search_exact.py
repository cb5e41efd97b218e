"""Exact search: the nearest vectors of all, whatever the blocks, the storage and the company."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lepton_edge.errors import InputError
from lepton_edge.search import exact
from lepton_edge.search.header import Dtype
from tests.core.search_parts import clustered, ids, index_of_vectors, unit_rows


def best_rows(vectors: NDArray[np.float32], query: NDArray[np.float32], top_k: int) -> list[int]:
    """By definition: every score in float64, and the earlier row of equal ones first."""
    scores = (vectors.astype(np.float64) * unit_rows(query[None])[0].astype(np.float64)).sum(axis=1)
    return np.lexsort((np.arange(len(vectors)), -scores))[:top_k].tolist()


@settings(deadline=None, max_examples=25)
@given(
    rows=st.integers(1, 700),
    dimension=st.integers(1, 40),
    top_k=st.integers(1, 60),
    queries=st.integers(1, 5),
    distinct=st.integers(1, 50),
    dtype=st.sampled_from(["float32", "float16"]),
    seed=st.integers(0, 2**32),
)
def test_the_nearest_are_those_of_every_score_computed(
    tmp_path_factory: pytest.TempPathFactory,
    rows: int,
    dimension: int,
    top_k: int,
    queries: int,
    distinct: int,
    dtype: Dtype,
    seed: int,
) -> None:
    """Many vectors are equal, so that most of the order is the order of insertion."""
    random = np.random.default_rng(seed)
    vectors = unit_rows(random.standard_normal((distinct, dimension)))
    vectors = vectors[random.integers(0, distinct, rows)]
    asked = random.standard_normal((queries, dimension)).astype(np.float32)
    index = index_of_vectors(tmp_path_factory.mktemp("index") / "i", vectors, dtype=dtype)
    stored = vectors.astype(dtype).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:  # several blocks, and steps in a block
        patch.setattr(exact, "_BLOCK_BYTES", 4 * dimension * 150)
        patch.setattr(exact, "_WIDEN_BYTES", 4 * dimension * 70)
        found = index.query_vectors(asked, top_k)
    assert [ids(hits) for hits in found] == [best_rows(stored, each, top_k) for each in asked]


def test_scores_are_cosines_of_what_is_stored(tmp_path: Path) -> None:
    vectors = clustered(300, 24, 5)
    index = index_of_vectors(tmp_path / "i", vectors)
    (hits,) = index.query_vectors(vectors[7:8] * 3.5, top_k=300)
    assert (hits[0].id, hits[0].score) == (7, pytest.approx(1, abs=1e-6))
    expected = vectors.astype(np.float64) @ vectors[7].astype(np.float64)
    for hit in hits:
        assert hit.score == pytest.approx(expected[int(hit.id)], abs=1e-6)
        assert -1 <= hit.score <= 1


def test_float16_costs_digits_and_no_more(tmp_path: Path) -> None:
    vectors, asked = clustered(2000, 64, 20), clustered(20, 64, 20, seed=1)
    full = index_of_vectors(tmp_path / "full", vectors)
    half = index_of_vectors(tmp_path / "half", vectors, dtype="float16")
    same = [
        len({*ids(a)} & {*ids(b)})
        for a, b in zip(full.query_vectors(asked), half.query_vectors(asked), strict=True)
    ]
    assert np.mean(same) > 9.5
    sizes = [(index.path or Path()) / "segment-000001" / "vectors" for index in (full, half)]
    assert sizes[0].stat().st_size == 2 * sizes[1].stat().st_size
    for a, b in zip(full.query_vectors(asked, 1), half.query_vectors(asked, 1), strict=True):
        assert a[0].score == pytest.approx(b[0].score, abs=2e-3)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_answer_does_not_depend_on_what_else_is_asked(tmp_path: Path, dtype: Dtype) -> None:
    vectors, asked = clustered(3000, 48, 10), clustered(300, 48, 10, seed=2)
    index = index_of_vectors(tmp_path / "i", vectors, dtype=dtype)
    together = index.query_vectors(asked, 5)  # more than one pass of queries
    assert len(together) == 300
    for place in (0, 1, 255, 256, 299):
        assert index.query_vectors(asked[place : place + 1], 5) == [together[place]]


def test_every_half_is_widened_exactly() -> None:
    bits = np.arange(2**16, dtype=np.uint16)
    halves = bits.view(np.float16)
    halves = halves[np.isfinite(halves)].reshape(-1, 8)
    widen = exact._widener(halves, len(halves))
    np.testing.assert_array_equal(widen(halves), halves.astype(np.float32))


def test_memory_is_bounded_by_blocks_not_by_the_index(tmp_path: Path) -> None:
    vectors = clustered(150_000, 8, 50)
    index = index_of_vectors(tmp_path / "i", vectors, dtype="float16")
    asked = clustered(200, 8, 50, seed=3)
    index.query_vectors(asked[:1])
    tracemalloc.start()
    index.query_vectors(asked)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * 200 * 150_000 / 3, "a third of a matrix of all scores"


def test_more_than_there_are_gives_all(tmp_path: Path) -> None:
    index = index_of_vectors(tmp_path / "i", clustered(5, 4, 2))
    (hits,) = index.query_vectors(np.ones((1, 4)), top_k=10**9)
    assert sorted(ids(hits)) == [0, 1, 2, 3, 4]
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_a_query_of_zeros_is_near_nothing(tmp_path: Path) -> None:
    index = index_of_vectors(tmp_path / "i", clustered(5, 4, 2))
    (hits,) = index.query_vectors(np.zeros((1, 4)), top_k=3)
    assert [(hit.id, hit.score) for hit in hits] == [(0, 0.0), (1, 0.0), (2, 0.0)]
    assert index.query_vectors(np.zeros((0, 4))) == []


@pytest.mark.parametrize(
    ("vectors", "problem"),
    [
        ([1.0, 2.0, 3.0, 4.0], "have shape [4]; this index takes [queries, 4]"),
        ([[1.0, 2.0]], "have shape [1, 2]"),
        ([[1.0, 2.0, 3.0, float("nan")]], "a number that is not finite"),
        ([[1e39, 0, 0, 0]], "a number that is not finite"),
        ([["a", "b", "c", "d"]], "not vectors of numbers"),
        ([[1.0], [1.0, 2.0]], "not vectors of numbers"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_queries_that_are_no_vectors_are_refused(
    tmp_path: Path, vectors: object, problem: str
) -> None:
    index = index_of_vectors(tmp_path / "i", clustered(5, 4, 2))
    with pytest.raises(InputError) as caught:
        index.query_vectors(vectors)  # type: ignore[arg-type]
    assert problem in caught.value.message


@pytest.mark.parametrize("top_k", [0, -1, 2.0, True, None])
def test_top_k_is_a_number_from_1(tmp_path: Path, top_k: object) -> None:
    index = index_of_vectors(tmp_path / "i", clustered(5, 4, 2))
    with pytest.raises(InputError, match=f"top_k is {top_k!r}"):
        index.query_vectors(np.ones((1, 4)), top_k)  # type: ignore[arg-type]
