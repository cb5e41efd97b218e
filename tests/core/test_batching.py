"""Micro-batches: every text once, within the limits, with little padding."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_edge.backend import TensorSpec
from lepton_edge.runtime.batching import Limits, plan

LENGTHS = st.lists(st.integers(0, 80), max_size=120)
LIMITS = st.builds(Limits, rows=st.integers(1, 40), tokens=st.integers(1, 600))


@settings(deadline=None, max_examples=200)
@given(LENGTHS, LIMITS, st.booleans())
def test_every_position_is_in_exactly_one_batch(
    lengths: list[int], limits: Limits, pad: bool
) -> None:
    batches = plan(lengths, 80, limits, pad=pad)
    assert sorted(row for batch in batches for row in batch.rows) == list(range(len(lengths)))
    assert all(batch.rows for batch in batches)


@settings(deadline=None, max_examples=200)
@given(LENGTHS, LIMITS, st.booleans())
def test_batches_stay_within_the_limits(lengths: list[int], limits: Limits, pad: bool) -> None:
    for batch in plan(lengths, 80, limits, pad=pad):
        assert len(batch.rows) <= limits.rows
        assert len(batch.rows) * batch.length <= limits.tokens or len(batch.rows) == 1


@pytest.mark.parametrize(
    ("shape", "tokens"),
    [
        (("batch", "length", 30_522), 549),
        (("batch", "length", 250_002), 67),
        (("batch", "length", 9), 4096),
        (("batch", "length"), 4096),
        (("batch", 77), 4096),
        (("batch", "length", 10**9), 1),
    ],
)
def test_outputs_over_a_vocabulary_leave_room_for_fewer_tokens(
    shape: tuple[int | str, ...], tokens: int
) -> None:
    small = TensorSpec("b", "float32", ("batch", "length", 2))
    limits = Limits().under([TensorSpec("a", "float32", shape), small])
    assert limits == Limits(tokens=tokens)


@settings(deadline=None, max_examples=200)
@given(LENGTHS, LIMITS, st.integers(1, 20))
def test_a_batch_is_as_long_as_its_longest_text_and_no_longer_than_the_model(
    lengths: list[int], limits: Limits, step: int
) -> None:
    limits = Limits(limits.rows, limits.tokens, step)
    for batch in plan(lengths, 80, limits):
        longest = max(lengths[row] for row in batch.rows)
        assert longest <= batch.length <= 80
        assert batch.length < longest + step


@settings(deadline=None, max_examples=200)
@given(LENGTHS, LIMITS)
def test_without_padding_a_batch_holds_one_length_only(lengths: list[int], limits: Limits) -> None:
    for batch in plan(lengths, 80, limits, pad=False):
        assert {lengths[row] for row in batch.rows} == {batch.length}


@settings(deadline=None, max_examples=50)
@given(LENGTHS, LIMITS)
def test_the_plan_is_the_same_each_time(lengths: list[int], limits: Limits) -> None:
    assert plan(lengths, 80, limits) == plan(list(lengths), 80, limits)


def test_batches_go_from_long_to_short_and_keep_the_order_of_equals() -> None:
    batches = plan([3, 9, 3, 9, 30, 3], 64, Limits(rows=2))
    assert [batch.rows for batch in batches] == [(4, 1), (3, 0), (2, 5)]
    assert [batch.length for batch in batches] == [32, 16, 8]


def test_without_padding_equal_lengths_share_a_batch() -> None:
    batches = plan([5, 7, 5, 7, 5], 64, pad=False)
    assert [(batch.rows, batch.length) for batch in batches] == [((1, 3), 7), ((0, 2, 4), 5)]


def test_a_text_over_the_token_limit_goes_alone() -> None:
    batches = plan([50, 50, 4], 64, Limits(tokens=20))
    assert [batch.rows for batch in batches] == [(0,), (1,), (2,)]


@pytest.mark.parametrize(("longest", "padded"), [(1, 8), (8, 8), (9, 16), (61, 62), (62, 62)])
def test_lengths_are_padded_to_a_step_up_to_the_models_longest(longest: int, padded: int) -> None:
    assert plan([longest], 62)[0].length == padded


def test_a_batch_is_never_shorter_than_its_texts() -> None:
    assert plan([70, 3], 62)[0].length == 70


def test_no_texts_give_no_batches() -> None:
    assert plan([], 64) == []


def test_mixed_lengths_waste_a_fraction_of_what_arrival_order_does() -> None:
    shuffled = random.Random(1)
    lengths = [int(min(256, 8 + shuffled.expovariate(1 / 40))) for _ in range(1000)]
    arrival = sum(
        len(rows) * max(rows) for rows in (lengths[i : i + 32] for i in range(0, 1000, 32))
    )
    planned = sum(len(batch.rows) * batch.length for batch in plan(lengths, 256))
    wasted, before = planned - sum(lengths), arrival - sum(lengths)
    assert before > sum(lengths)  # the case is one where order matters
    assert wasted < 0.15 * before
