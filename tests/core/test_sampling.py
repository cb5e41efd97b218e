"""Which token comes next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lepton_edge.errors import InferenceError, InputError
from lepton_edge.generation.sampling import (
    Sampler,
    Sampling,
    log_probability,
    probabilities,
    processed,
)

LOGITS = np.array([1.0, 4.0, 2.0, 3.0, -1.0, 0.5], np.float32)
Array = NDArray[Any]


def drawn(sampling: Sampling, count: int = 400) -> set[int]:
    sampler = Sampler(sampling)
    return {sampler.choose(LOGITS, [], []) for _ in range(count)}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"temperature": -0.1}, "temperature is -0.1: it is a number from 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"top_k": -1}, "top_k is -1: it is a whole number from 0"),
        ({"top_k": 2.5}, "top_k is 2.5"),
        ({"top_k": True}, "top_k is True"),
        ({"top_p": 0.0}, "top_p is 0.0: it is a number above 0, up to 1"),
        ({"top_p": 1.01}, "top_p is 1.01"),
        ({"min_p": -0.01}, "min_p is -0.01: it is a number from 0 to 1"),
        ({"min_p": 1.5}, "min_p is 1.5"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0: it is a number above 0"),
        ({"presence_penalty": 2.1}, "presence_penalty is 2.1: it is a number from -2 to 2"),
        ({"frequency_penalty": -3}, "frequency_penalty is -3: it is a number from -2 to 2"),
        ({"logit_bias": {"5": 1.0}}, "a token id of logit_bias is '5': it is a whole number"),
        ({"logit_bias": {-1: 1.0}}, "a token id of logit_bias is -1"),
        ({"logit_bias": {5: 101}}, "logit_bias of token 5 is 101: it is a number from -100 to 100"),
        ({"logit_bias": {5: float("-inf")}}, "logit_bias of token 5 is -inf"),
        ({"logit_bias": [1, 2]}, "logit_bias is [1, 2]: it is numbers by token id"),
        ({"logit_bias": 7}, "logit_bias is 7"),
        ({"logit_bias": dict.fromkeys(range(1025), 1)}, "logit_bias has 1,025 tokens"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 1.0}, "seed is 1.0"),
    ],
)
def test_an_option_out_of_range_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as caught:
        Sampling(**options)
    assert says in str(caught.value)


def test_options_at_their_ends_are_taken() -> None:
    Sampling(0, 0, 1, 0, 0.01, -2, -2, {0: -100}, 0)
    Sampling(min_p=1, presence_penalty=2, frequency_penalty=2, logit_bias={7: 100})


def test_a_way_to_sample_is_a_value() -> None:
    one, other = (Sampling(logit_bias=bias) for bias in ({3: 1.0, 1: 2}, {1: 2, 3: 1.0}))
    assert one == other
    assert hash(one) == hash(other)
    assert replace(one, seed=5).biases == ((1, 2), (3, 1.0))
    assert len({one, other, Sampling()}) == 2


def test_no_temperature_takes_the_most_likely_token() -> None:
    for temperature in (0, 1e-30):
        assert drawn(Sampling(temperature, top_k=3, top_p=0.5)) == {1}


def test_only_what_is_kept_is_drawn_and_all_of_it() -> None:
    hot = Sampling(temperature=5.0, seed=1)
    assert drawn(hot) == {0, 1, 2, 3, 4, 5}
    assert drawn(replace(hot, top_k=3)) == {1, 3, 2}
    assert drawn(replace(hot, top_k=100)) == {0, 1, 2, 3, 4, 5}
    assert drawn(replace(hot, top_p=1e-9)) == {1}
    assert drawn(replace(hot, min_p=1.0)) == {1}
    # e^(-1 / 5) = 0.82 of the most likely one, and e^(-2 / 5) = 0.67.
    assert drawn(replace(hot, min_p=0.8)) == {1, 3}
    assert drawn(replace(hot, min_p=0.6)) == {1, 2, 3}


def test_min_p_looks_at_what_the_others_left() -> None:
    found = processed(LOGITS, [], [], Sampling(1.0, top_k=2, min_p=0.3))
    assert np.flatnonzero(np.isfinite(found)).tolist() == [1, 3]  # e^-1 = 0.37 of the first


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    sampler = Sampler(Sampling(temperature=2.0, seed=3))
    found = Counter(sampler.choose(LOGITS, [], []) for _ in range(20_000))
    expected = probabilities(LOGITS / np.float32(2))
    shares = [found[token] / 20_000 for token in range(6)]
    np.testing.assert_allclose(shares, expected, rtol=0, atol=0.015)


@given(
    seed=st.integers(0, 2**32 - 1),
    top_p=st.floats(0.01, 0.999),
    levels=st.integers(2, 5000),
    spread=st.floats(0.1, 9),
)
@settings(deadline=None, max_examples=60)
def test_of_a_large_vocabulary_top_p_keeps_what_sorting_it_all_would(
    seed: int, top_p: float, levels: int, spread: float
) -> None:
    """Also where many tokens are equally likely."""
    random = np.random.default_rng(seed)
    logits = (random.integers(0, levels, 5000) * spread / levels).astype(np.float32)
    found = processed(logits, [], [], Sampling(1.0, top_p=top_p))
    order = np.argsort(logits, kind="stable")[::-1]
    before = probabilities(logits)[order].cumsum() - probabilities(logits)[order]
    kept = np.isfinite(found)
    # Kept are those with less than p before them; within rounding either is right.
    assert kept[order[before < top_p - 1e-9]].all()
    assert not kept[order[before > top_p + 1e-9]].any()
    np.testing.assert_array_equal(found[kept], logits[kept])


def test_a_repeated_token_becomes_less_likely() -> None:
    sampling = Sampling(repetition_penalty=2.0)
    assert Sampler(sampling).choose(LOGITS, [1], [1]) == 3
    for prompt, answer in (([1, 4], [1]), ([], [1, 4]), ([4, 1], [])):
        found = processed(LOGITS, prompt, answer, sampling)
        np.testing.assert_array_equal(found, [1.0, 2.0, 2.0, 3.0, -2.0, 0.5])
    assert LOGITS[1] == 4.0, "the model's own array is left alone"


def test_penalties_of_openai_look_at_the_answer_alone() -> None:
    sampling = Sampling(presence_penalty=0.5, frequency_penalty=0.25)
    found = processed(LOGITS, [1, 1, 1, 2], [3, 4, 3], sampling)
    np.testing.assert_array_equal(found, [1.0, 4.0, 2.0, 3.0 - 1.0, -1.0 - 0.75, 0.5])
    np.testing.assert_array_equal(processed(LOGITS, [1, 2], [], sampling), LOGITS)
    liked = replace(sampling, presence_penalty=-2.0, frequency_penalty=0.0)
    assert Sampler(liked).choose(LOGITS, [], [3]) == 3


def test_a_bias_comes_before_the_penalties_and_the_temperature() -> None:
    sampling = Sampling(0.5, repetition_penalty=2.0, frequency_penalty=1.0, logit_bias={4: 3.0})
    found = processed(LOGITS, [], [4], sampling)
    assert found[4] == ((-1.0 + 3.0) / 2 - 1.0) / 0.5
    assert Sampler(Sampling(logit_bias={5: 100})).choose(LOGITS, [], []) == 5
    assert Sampler(Sampling(logit_bias={1: -100})).choose(LOGITS, [], []) == 3
    # Of a token that the model does not have.
    np.testing.assert_array_equal(processed(LOGITS, [], [], Sampling(logit_bias={6: 9})), LOGITS)


class Only:
    """A grammar that allows some tokens."""

    def __init__(self, *tokens: int) -> None:
        self.tokens = list(tokens)

    def mask(self, logits: Array) -> None:
        kept = logits[self.tokens]
        logits.fill(-np.inf)
        logits[self.tokens] = kept


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 3.0},
        {"temperature": 3.0, "top_k": 2},
        {"temperature": 3.0, "top_p": 0.9, "min_p": 0.1},
        {"temperature": 3.0, "repetition_penalty": 9.0, "presence_penalty": 2.0},
        {"logit_bias": {1: 100.0, 4: 100.0}},
    ],
    ids=str,
)
def test_what_a_grammar_forbids_never_comes(options: Mapping[str, Any]) -> None:
    sampler = Sampler(Sampling(**options, seed=2))
    matcher: Any = Only(0, 2, 5)
    found = {sampler.choose(LOGITS, [], [0, 2, 5], matcher) for _ in range(200)}
    assert found <= {0, 2, 5}
    assert len(found) > 1 or not options.get("temperature")
    assert LOGITS[1] == 4.0, "the model's own array is left alone"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_an_error(bad: float) -> None:
    logits = LOGITS.copy()
    logits[2] = bad
    for sampling in (Sampling(), Sampling(temperature=1.0)):
        with pytest.raises(InferenceError, match="logits are not numbers"):
            Sampler(sampling).choose(logits, [], [])


def test_tokens_that_a_model_rules_out_itself_are_no_error() -> None:
    logits = LOGITS.copy()
    logits[[1, 3]] = -np.inf
    assert Sampler(Sampling()).choose(logits, [], []) == 2
    sampler = Sampler(Sampling(5.0, top_p=0.99, seed=1))
    assert {sampler.choose(logits, [], []) for _ in range(300)} == {0, 2, 4, 5}


def test_a_seed_and_a_place_say_which_tokens_are_drawn() -> None:
    def text(seed: int | None, place: int) -> list[int]:
        sampler = Sampler(Sampling(5.0, seed=seed), place)
        return [sampler.choose(LOGITS, [], []) for _ in range(40)]

    assert text(7, 0) == text(7, 0)
    assert text(7, 0) != text(7, 1)
    assert text(7, 0) != text(8, 0)
    assert text(None, 0) != text(None, 0)


@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(0.01, 1000))
@settings(deadline=None, max_examples=50)
def test_log_probabilities_are_those_of_the_models_own_distribution(
    seed: int, scale: float
) -> None:
    logits = (np.random.default_rng(seed).standard_normal(50) * scale).astype(np.float32)
    found = [log_probability(logits, token) for token in range(50)]
    assert max(found) <= 0
    np.testing.assert_allclose(np.exp(found).sum(), 1, rtol=1e-9)
    np.testing.assert_allclose(np.diff(found), np.diff(logits.astype(np.float64)), atol=1e-6)
