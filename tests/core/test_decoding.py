"""The settings of a search, and the scores under its rules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_edge.errors import InputError
from lepton_edge.generation.decoding import Decoding, constrained

VOCABULARY = 7
START, PAD, END = 0, 1, 2


def decoding_of(**options: Any) -> Decoding:
    given = {"eos_token_ids": (END,), "max_new_tokens": 5, **options}
    return Decoding(decoder_start_token_id=START, pad_token_id=PAD, **given)


def ngrams(tokens: Sequence[int], size: int) -> list[tuple[int, ...]]:
    return [tuple(tokens[n : n + size]) for n in range(len(tokens) - size + 1)] if size else []


# Rules.


@given(
    rows=st.integers(1, 4).flatmap(
        lambda length: st.lists(
            st.lists(st.integers(0, 6), min_size=length, max_size=length), min_size=1, max_size=4
        )
    ),
    size=st.integers(0, 3),
    words=st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=3), max_size=3),
    least=st.integers(0, 4),
)
@settings(deadline=None, max_examples=200)
def test_rules_forbid_what_they_say_and_nothing_else(
    rows: list[list[int]], size: int, words: list[list[int]], least: int
) -> None:
    decoding = decoding_of(
        no_repeat_ngram_size=size,
        bad_words_ids=tuple(map(tuple, words)),
        min_new_tokens=least,
        suppress_tokens=(6,),
    )
    scores = np.random.default_rng(0).standard_normal((len(rows), VOCABULARY)).astype(np.float32)
    found = constrained(scores.copy(), np.array(rows), decoding)
    for row, tokens in enumerate(rows):
        for token in range(VOCABULARY):
            longer = [*tokens, token]
            grams = ngrams(longer, size)
            forbidden = (
                token == 6
                or (token == END and len(tokens) - 1 < least)
                or (size > 0 and len(longer) >= size and grams[-1] in grams[:-1])
                or any(
                    longer[-len(each) :] == each and len(each) < len(longer) and each != [END]
                    for each in words
                )
            )
            assert found[row, token] == (-math.inf if forbidden else scores[row, token])


def test_a_penalty_makes_a_token_that_was_there_less_likely() -> None:
    scores = np.array([[2.0, -2.0, 1.0, -1.0, 0, 0, 0]], np.float32)
    found = constrained(scores, np.array([[0, 1, 0]]), decoding_of(repetition_penalty=2.0))
    np.testing.assert_array_equal(found, np.array([[1.0, -4.0, 1.0, -1.0, 0, 0, 0]], np.float32))


def test_scores_are_probabilities_again_where_that_is_asked() -> None:
    scores = np.log(np.array([[0.5, 0.25, 0.125, 0.125, 0, 0, 0]], np.float32) + 1e-9)
    found = constrained(
        scores,
        np.array([[1, 3]]),
        decoding_of(suppress_tokens=(0,), renormalize_logits=True),
    )
    expected = [0, 0.5, 0.25, 0.25, 0, 0, 0]
    np.testing.assert_allclose(np.exp(found[0]), expected, atol=1e-6)


# Settings.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0: it is a whole number from 1"),
        ({"min_new_tokens": -1}, "min_new_tokens is -1"),
        ({"min_new_tokens": 6}, "min_new_tokens is 6, and max_new_tokens 5"),
        ({"num_beams": 0}, "num_beams is 0: it is a whole number from 1"),
        ({"num_beams": True}, "num_beams is True"),
        ({"no_repeat_ngram_size": 1.5}, "no_repeat_ngram_size is 1.5"),
        ({"length_penalty": math.nan}, "length_penalty is nan: it is a number"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0: it is a number above 0"),
        ({"early_stopping": "soon"}, "early_stopping is 'soon': it is true, false or 'never'"),
        ({"bad_words_ids": ((3,), ())}, "bad_words_ids has a sequence of no tokens"),
    ],
)
def test_a_setting_out_of_range_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        decoding_of(**changes)


def test_a_generation_config_is_read() -> None:
    found = Decoding.from_generation_config(
        {
            "bad_words_ids": [[9, 4], [5]],
            "bos_token_id": 0,
            "decoder_start_token_id": 7,
            "eos_token_id": 3,
            "forced_eos_token_id": [3],
            "max_length": 512,
            "min_length": None,
            "num_beams": 4,
            "pad_token_id": None,
            "renormalize_logits": True,
            "sequence_bias": None,
            "transformers_version": "5.5.4",
        },
        num_beams=2,
    )
    assert found == Decoding(
        decoder_start_token_id=7,
        pad_token_id=3,
        eos_token_ids=(3,),
        max_new_tokens=511,
        num_beams=2,
        bad_words_ids=((9, 4), (5,)),
        forced_eos_token_id=3,
        renormalize_logits=True,
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"eos_token_id": 3}, "generation_config.json has no decoder_start_token_id"),
        ({"bos_token_id": 3}, "generation_config.json has no pad_token_id"),
        (
            {"bos_token_id": 3, "pad_token_id": 3, "num_beam_groups": 2},
            "asks for num_beam_groups, which is not supported",
        ),
        (
            {"bos_token_id": 3, "pad_token_id": 3, "forced_bos_token_id": [3, 4]},
            r"forced_bos_token_id in generation_config.json is \[3, 4\]: it is one",
        ),
    ],
)
def test_a_generation_config_that_cannot_be_followed_is_refused(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Decoding.from_generation_config(values)
