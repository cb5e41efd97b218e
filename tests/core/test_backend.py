"""What every session checks before it runs, and the furniture of a backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lepton_edge.backend import Session, TensorSpec, check_feeds
from lepton_edge.errors import InferenceError

SPECS = (
    TensorSpec("input_ids", "int64", ("batch", "length")),
    TensorSpec("scale", "float32", ("batch", 3)),
)


def _feeds() -> dict[str, NDArray[Any]]:
    return {"input_ids": np.zeros((2, 5), np.int64), "scale": np.zeros((2, 3), np.float32)}


def test_feeds_that_fit_are_taken() -> None:
    check_feeds(SPECS, _feeds())
    check_feeds(SPECS, dict(reversed(_feeds().items())))
    check_feeds((), {})


@pytest.mark.parametrize(
    ("change", "given"),
    [
        ({"scale": None}, "['input_ids']"),
        ({"more": np.zeros(1)}, "['input_ids', 'more', 'scale']"),
        ({"scale": None, "scales": np.zeros((2, 3), np.float32)}, "['input_ids', 'scales']"),
        ({"input_ids": None, "scale": None}, "[]"),
    ],
)
def test_other_inputs_are_refused_with_both_lists(change: dict[str, Any], given: str) -> None:
    feeds = {name: value for name, value in {**_feeds(), **change}.items() if value is not None}
    with pytest.raises(InferenceError) as caught:
        check_feeds(SPECS, feeds)
    assert caught.value.message == (
        f"the model takes the inputs ['input_ids', 'scale'], and was given {given}"
    )


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        (
            "input_ids",
            np.zeros((2, 5), np.int32),
            "input input_ids takes int64 of shape ['batch', 'length'], "
            "and was given int32 of shape [2, 5]",
        ),
        (
            "input_ids",
            np.zeros(5, np.int64),
            "input input_ids takes int64 of shape ['batch', 'length'], "
            "and was given int64 of shape [5]",
        ),
        (
            "scale",
            np.zeros((2, 4), np.float32),
            "input scale takes float32 of shape ['batch', 3], "
            "and was given float32 of shape [2, 4]",
        ),
        (
            "scale",
            np.zeros((2, 3, 1), np.float32),
            "input scale takes float32 of shape ['batch', 3], "
            "and was given float32 of shape [2, 3, 1]",
        ),
    ],
)
def test_another_dtype_or_shape_is_refused_with_both(
    name: str, array: NDArray[Any], message: str
) -> None:
    with pytest.raises(InferenceError) as caught:
        check_feeds(SPECS, {**_feeds(), name: array})
    assert caught.value.message == message


def test_a_session_is_a_context_manager_that_closes_on_errors_too() -> None:
    class Counting(Session):
        closed = 0

        def infer(self, feeds: Any) -> dict[str, NDArray[Any]]:
            raise InferenceError("no")

        def close(self) -> None:
            self.closed += 1

    session = Counting()
    with session as entered:
        assert entered is session
    assert session.closed == 1
    with pytest.raises(InferenceError), session:
        session.infer({})
    assert session.closed == 2
