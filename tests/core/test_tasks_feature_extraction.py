"""Embeddings: what numpy makes of them, similarity, and how they look."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from lepton_edge import Embedding, similarity
from lepton_edge.cli.output import to_json
from lepton_edge.errors import InputError
from lepton_edge.tasks.base import Facts
from lepton_edge.tasks.feature_extraction import (
    FeatureExtraction,
    FeatureExtractionConfig,
    FeatureExtractionOptions,
)
from tests.core.parts import answers

NUMPY_2 = int(np.__version__.split(".")[0]) >= 2
MATRIX = arrays.arrays(
    np.float32, (3, 5), elements=st.floats(-1000, 1000, width=32).filter(lambda x: abs(x) > 1e-3)
)


def _embedding(*values: float, truncated: bool = False) -> Embedding:
    return Embedding(np.array(values, dtype=np.float32), truncated)


@settings(deadline=None, max_examples=100)
@given(MATRIX, MATRIX)
def test_similarity_is_the_cosine(left: NDArray[np.float32], right: NDArray[np.float32]) -> None:
    found = similarity([Embedding(row) for row in left], right)
    exact = left.astype(np.float64), right.astype(np.float64)
    norms = [np.linalg.norm(matrix, axis=1) for matrix in exact]
    expected = (exact[0] @ exact[1].T) / np.outer(*norms)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_similarity_has_a_row_for_each_of_the_first_list() -> None:
    one, two, three = _embedding(1, 0), _embedding(0, 2), _embedding(-3, 0)
    found = similarity([one, two, three], [one, two])
    np.testing.assert_array_equal(found, [[1, 0], [0, 1], [-1, 0]])


def test_an_empty_list_is_similar_to_nothing() -> None:
    some = [_embedding(1, 0), _embedding(0, 1)]
    assert similarity([], some).shape == (0, 2)
    assert similarity(some, []).shape == (2, 0)
    assert similarity([], []).dtype == np.float32


def test_two_embeddings_have_one_similarity() -> None:
    found = _embedding(1, 1).similarity(_embedding(1, 0))
    assert isinstance(found, float)
    assert found == pytest.approx(2**-0.5)


def test_a_zero_vector_is_similar_to_nothing() -> None:
    zero = _embedding(0, 0)
    assert zero.similarity(_embedding(1, 2)) == 0
    assert zero.similarity(zero) == 0


def test_plain_lists_of_numbers_are_vectors_too() -> None:
    assert similarity([[3, 4]], [_embedding(3, 4)]) == pytest.approx(1)


def test_other_dimensions_are_refused_with_both_numbers() -> None:
    with pytest.raises(InputError, match="of 2 and 3 dimensions cannot be compared"):
        similarity([_embedding(1, 2)], [_embedding(1, 2, 3)])
    with pytest.raises(InputError, match="of 2 and 3 dimensions cannot be compared"):
        _embedding(1, 2).similarity(_embedding(1, 2, 3))


@pytest.mark.parametrize(
    "rows",
    [
        [_embedding(1, 2), _embedding(1, 2, 3)],
        [[1, 2], [1]],
        ["a text", "another"],
        [None],
    ],
)
def test_rows_that_make_no_matrix_are_refused(rows: list[Any]) -> None:
    with pytest.raises(InputError, match="similarity takes two lists of embeddings"):
        similarity(rows, [_embedding(1, 2)])


def test_one_embedding_where_a_list_belongs_is_refused_with_its_shape() -> None:
    with pytest.raises(InputError, match=r"two lists of embeddings; got shape \(2,\)"):
        similarity(_embedding(1, 2), [_embedding(1, 2)])


def test_numpy_takes_one_embedding_without_a_copy() -> None:
    embedding = _embedding(1, 2, 3)
    assert np.asarray(embedding) is embedding.vector
    assert np.asarray(embedding).dtype == np.float32


def test_numpy_takes_a_list_of_embeddings_as_a_matrix() -> None:
    matrix = np.asarray([_embedding(1, 2, 3), _embedding(4, 5, 6)])
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix, [[1, 2, 3], [4, 5, 6]])
    np.testing.assert_array_equal(np.stack([_embedding(1), _embedding(2)]), [[1], [2]])


def test_a_copy_is_the_callers() -> None:
    embedding = _embedding(1, 2)
    copy = np.array(embedding)
    copy[:] = 0
    np.testing.assert_array_equal(embedding.vector, [1, 2])


def test_another_dtype_is_a_conversion() -> None:
    embedding = _embedding(1, 2)
    assert np.asarray(embedding, dtype=np.float64).dtype == np.float64
    assert np.array(embedding, dtype=np.float16).dtype == np.float16
    assert embedding.vector.dtype == np.float32


@pytest.mark.skipif(not NUMPY_2, reason="numpy 1 does not pass copy on")
def test_numpy_is_told_when_a_copy_cannot_be_avoided() -> None:
    embedding = _embedding(1, 2)
    assert np.shares_memory(np.array(embedding, copy=False), embedding.vector)
    with pytest.raises(ValueError, match="copy"):
        np.array(embedding, dtype=np.float64, copy=False)
    assert not np.shares_memory(np.array(embedding, copy=True), embedding.vector)


def test_an_embedding_prints_its_start_and_size() -> None:
    embedding = _embedding(0.5, -0.25, 1, 0, 3)
    assert str(embedding) == "[0.5000, -0.2500, 1.0000, 0.0000, …] 5 dimensions"
    assert str(_embedding(1, 2, 3, 4, 5, truncated=True)).endswith("  (text truncated)")
    assert len(embedding) == 5


def test_an_embedding_is_plain_json() -> None:
    data = json.loads(to_json([_embedding(0.5, -2)]))
    assert data == [{"vector": [0.5, -2.0], "truncated": False}]


def test_each_row_of_the_output_is_an_embedding() -> None:
    task = FeatureExtraction(FeatureExtractionConfig("mean", True))
    output = np.arange(6, dtype=np.float32).reshape(2, 3)
    results = answers(task, {"embedding": output}, [False, True])
    np.testing.assert_array_equal(np.asarray(results), output)
    assert [result.truncated for result in results] == [False, True]
    with pytest.raises(InputError, match="feature-extraction has no option 'normalize'"):
        answers(task, {"embedding": output}, [False, True], normalize=False)


@pytest.mark.parametrize(
    ("options", "facts", "expected"),
    [
        ((None, None), (None, None), ("mean", True)),
        ((None, None), ("cls", False), ("cls", False)),
        (("mean", True), ("cls", False), ("mean", True)),
        (("cls", False), (None, None), ("cls", False)),
    ],
)
def test_the_recipes_options_win_over_the_source(
    options: Any, facts: Any, expected: tuple[str, bool]
) -> None:
    given = FeatureExtractionOptions(*options)
    said = Facts(pooling=facts[0], normalize=facts[1])
    assert FeatureExtraction.configure(given, said) == FeatureExtractionConfig(*expected)  # type: ignore[arg-type]
