"""Choosing tokens, and the loop around a decoder's step, with a decoder of a few lines."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lepton_edge.backend import Session, TensorSpec
from lepton_edge.errors import InferenceError, InputError
from lepton_edge.generation.loop import SessionStepper, Step, generate
from lepton_edge.generation.sampling import Sampler, Sampling, probabilities, processed

if TYPE_CHECKING:
    from lepton_edge.backend import Tensors

Array = NDArray[Any]

VOCABULARY = 24
STOP = 9
PAD = 0
GREEDY = Sampling()


class Counting(Session):
    """A decoder that says the sum of a row's real tokens, plus one for each: it sees them only
    through its cache, its mask and its positions, and answers NaN where those do not agree."""

    def __init__(self) -> None:
        cache = ("batch", 1, "past", 1)
        tokens = ("batch", "length")
        self.inputs = (
            TensorSpec("input_ids", "int64", tokens),
            TensorSpec("attention_mask", "int64", ("batch", "total")),
            TensorSpec("position_ids", "int64", tokens),
            TensorSpec("past.0.key", "float32", cache),
            TensorSpec("past.0.value", "float32", cache),
        )
        present = ("batch", 1, "total", 1)
        self.outputs = (
            TensorSpec("logits", "float32", ("batch", VOCABULARY)),
            TensorSpec("present.0.key", "float32", present),
            TensorSpec("present.0.value", "float32", present),
        )
        self.device, self.details = "CPU", {}
        self.lengths: list[int] = []
        self.masks: list[list[int]] = []
        self.fails_at: int | None = None

    def infer(self, feeds: Tensors) -> dict[str, Array]:
        ids, mask = feeds["input_ids"], feeds["attention_mask"]
        if self.fails_at == len(self.lengths):
            raise InferenceError("the device is gone")
        self.lengths.append(ids.shape[1])
        self.masks.append(mask[:, -1].tolist())
        new = np.stack([ids, feeds["position_ids"]])[:, :, None, :, None].astype(np.float32)
        keys = np.concatenate([feeds["past.0.key"], new[0]], axis=2)
        values = np.concatenate([feeds["past.0.value"], new[1]], axis=2)
        assert mask.shape == keys[:, 0, :, 0].shape
        assert all(array.flags.c_contiguous for array in feeds.values())
        logits = np.zeros((len(ids), VOCABULARY), np.float32)
        for row, real in enumerate(mask == 1):
            if list(values[row, 0, real, 0]) != list(range(real.sum())):
                logits[row] = np.nan
            logits[row, int(keys[row, 0, real, 0].sum() + real.sum()) % VOCABULARY] = 5
        return {"logits": logits, "present.0.key": keys, "present.0.value": values}

    def close(self) -> None:
        raise AssertionError("the session is its owner's")


def counted(prompt: Sequence[int], max_tokens: int, stop: Sequence[int] = ()) -> list[int]:
    """What `Counting` says after a prompt, worked out without it."""
    text = list(prompt)
    for _ in range(max_tokens):
        text.append((sum(text) + len(text)) % VOCABULARY)
        if text[-1] in stop:
            break
    return text[len(prompt) :]


def rows_of(steps: Sequence[Step]) -> list[list[int]]:
    return [
        [t for t in row if t is not None] for row in zip(*(s.tokens for s in steps), strict=True)
    ]


# The loop.


@given(
    prompts=st.lists(st.lists(st.integers(1, 20), min_size=1, max_size=9), min_size=1, max_size=5),
    max_tokens=st.integers(1, 12),
    stop=st.sets(st.integers(0, VOCABULARY - 1), max_size=3),
)
@settings(deadline=None, max_examples=100)
def test_each_row_of_a_batch_is_continued_as_it_is_alone(
    prompts: list[list[int]], max_tokens: int, stop: set[int]
) -> None:
    stepper = SessionStepper(Counting(), 100)
    steps = list(generate(stepper, prompts, GREEDY, max_tokens, stop, PAD))
    assert rows_of(steps) == [counted(prompt, max_tokens, [*stop]) for prompt in prompts]
    for row in range(len(prompts)):
        reasons = [step.finished[row] for step in steps]
        tokens = [step.tokens[row] for step in steps]
        (ended,) = [place for place, reason in enumerate(reasons) if reason]
        assert all(token is None for token in tokens[ended + 1 :])
        assert reasons[ended] == ("stop" if tokens[ended] in stop else "length")


def test_a_prompt_is_one_step_and_each_token_another() -> None:
    session = Counting()
    steps = generate(SessionStepper(session, 100), [[1, 2, 3], [4]], GREEDY, 4, (), PAD)
    assert session.lengths == []
    assert next(steps).tokens == (counted([1, 2, 3], 1)[0], counted([4], 1)[0])
    assert session.lengths == [3]
    list(steps)
    assert session.lengths == [3, 1, 1, 1]


def test_the_loop_ends_with_its_last_row() -> None:
    session = Counting()
    # 1, then 2, then 5, then 11 …: the first row stops at once, the second after two tokens.
    first, second = [1], [2]
    stop = {counted(first, 1)[0], counted(second, 2)[1]}
    assert len(counted(first, 9, [*stop])) == 1
    assert len(counted(second, 9, [*stop])) == 2
    steps = list(generate(SessionStepper(session, 100), [first, second], GREEDY, 9, stop, PAD))
    assert [step.finished for step in steps] == [("stop", None), (None, "stop")]
    assert steps[1].tokens[0] is None
    assert session.lengths == [1, 1]
    assert session.masks == [[1, 1], [0, 1]], "the row that ended is padded"


class Watched(SessionStepper):
    def __init__(self, session: Session) -> None:
        super().__init__(session, 100)
        self.closed = 0

    def close(self) -> None:
        super().close()
        self.closed += 1


@pytest.mark.parametrize("after", [0, 1, 3], ids="after {} steps".format)
@pytest.mark.parametrize("how", ["closed", "dropped"])
def test_a_stream_that_is_given_up_frees_the_cache(after: int, how: str) -> None:
    stepper = Watched(Counting())
    steps = generate(stepper, [[1, 2]], GREEDY, 10, (), PAD)
    for _ in range(after):
        next(steps)
    assert stepper.closed == 0
    if how == "closed":
        steps.close()
    del steps
    gc.collect()
    assert stepper.closed == 1
    with pytest.raises(InferenceError, match="was not started, or was closed"):
        stepper.step(
            np.ones((1, 1), np.int64), np.ones((1, 1), np.int64), np.zeros((1, 1), np.int64)
        )


def test_a_step_that_fails_frees_the_cache_and_is_said() -> None:
    session = Counting()
    session.fails_at = 2
    stepper = Watched(session)
    steps = generate(stepper, [[1, 2]], GREEDY, 10, (), PAD)
    next(steps)
    next(steps)
    with pytest.raises(InferenceError, match="the device is gone"):
        next(steps)
    assert stepper.closed == 1


def test_a_stepper_can_be_used_again() -> None:
    stepper = SessionStepper(Counting(), 100)
    for prompt in ([1, 2, 3], [7], [5, 5]):
        steps = list(generate(stepper, [prompt], GREEDY, 5, (), PAD))
        assert rows_of(steps) == [counted(prompt, 5)]


def test_logits_of_every_position_do_as_well() -> None:
    class All(Counting):
        def infer(self, feeds: Tensors) -> dict[str, Array]:
            found = super().infer(feeds)
            shape = feeds["input_ids"].shape[1]
            wrong = np.full((len(found["logits"]), shape - 1, VOCABULARY), np.nan, np.float32)
            found["logits"] = np.concatenate([wrong, found["logits"][:, None]], axis=1)
            return found

    steps = list(generate(SessionStepper(All(), 100), [[1, 2, 3]], GREEDY, 5, (), PAD))
    assert rows_of(steps) == [counted([1, 2, 3], 5)]


@pytest.mark.parametrize(
    ("prompts", "max_tokens", "says"),
    [
        ([], 5, "no prompt"),
        ([[1], []], 5, "prompt 1 of 2 has no tokens"),
        ([[1]], 0, "max_tokens is 0"),
        ([[1] * 12, [1] * 13], 8, r"13 tokens, and with 8 more it is longer than the model's 20"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(
    prompts: list[list[int]], max_tokens: int, says: str
) -> None:
    session = Counting()
    with pytest.raises(InputError, match=says):
        generate(SessionStepper(session, 20), prompts, GREEDY, max_tokens, (), PAD)
    assert session.lengths == []


def test_a_prompt_that_just_fits_is_continued() -> None:
    stepper = SessionStepper(Counting(), 20)
    assert len(list(generate(stepper, [[1] * 13], GREEDY, 7, (), PAD))) == 7
    with pytest.raises(InputError) as caught:
        generate(stepper, [[1] * 13], GREEDY, 8, (), PAD)
    assert "at most 7 tokens" in str(caught.value)
    with pytest.raises(InputError) as caught:
        generate(stepper, [[1] * 20], GREEDY, 1, (), PAD)
    assert caught.value.hint == "shorten the prompt"


def test_a_session_that_is_no_decoder_is_refused_with_its_inputs() -> None:
    session = Counting()
    session.inputs = session.inputs[:2]
    with pytest.raises(InferenceError, match="its inputs are input_ids, attention_mask"):
        SessionStepper(session, 20)


# The choice.


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
        ({"repetition_penalty": 0}, "repetition_penalty is 0: it is a number above 0"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 1.0}, "seed is 1.0"),
    ],
)
def test_an_option_out_of_range_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as caught:
        Sampling(**options)
    assert says in str(caught.value)


def test_options_at_their_ends_are_taken() -> None:
    Sampling(temperature=0, top_k=0, top_p=1, repetition_penalty=0.01, seed=0)


LOGITS = np.array([1.0, 4.0, 2.0, 3.0, -1.0, 0.5], np.float32)


def drawn(sampling: Sampling, count: int = 400) -> set[int]:
    sampler = Sampler(sampling, 1)
    return {sampler.choose(0, LOGITS, []) for _ in range(count)}


def test_no_temperature_takes_the_most_likely_token() -> None:
    assert drawn(Sampling(top_k=3, top_p=0.5)) == {1}


def test_only_what_is_kept_is_drawn_and_all_of_it() -> None:
    hot = Sampling(temperature=5.0, seed=1)
    assert drawn(hot) == {0, 1, 2, 3, 4, 5}
    assert drawn(replace(hot, top_k=3)) == {1, 3, 2}
    assert drawn(replace(hot, top_k=100)) == {0, 1, 2, 3, 4, 5}
    assert drawn(replace(hot, top_p=1e-9)) == {1}


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    sampler = Sampler(Sampling(temperature=2.0, seed=3), 1)
    found = np.bincount([sampler.choose(0, LOGITS, []) for _ in range(20_000)], minlength=6)
    expected = probabilities(LOGITS / np.float32(2))
    np.testing.assert_allclose(found / 20_000, expected, rtol=0, atol=0.015)


def test_a_repeated_token_becomes_less_likely() -> None:
    assert Sampler(Sampling(repetition_penalty=2.0), 1).choose(0, LOGITS, [1, 1]) == 3
    found = processed(LOGITS, [1, 4, 1], Sampling(repetition_penalty=2.0))
    np.testing.assert_array_equal(found, [1.0, 2.0, 2.0, 3.0, -2.0, 0.5])
    assert LOGITS[1] == 4.0, "the model's own array is left alone"


def test_the_same_seed_gives_the_same_text_and_another_one_another() -> None:
    def texts(seed: int | None, prompts: list[list[int]]) -> list[list[int]]:
        sampling = Sampling(temperature=8.0, seed=seed)
        return rows_of(
            list(generate(SessionStepper(Counting(), 99), prompts, sampling, 20, (), PAD))
        )

    assert texts(7, [[1, 2], [3]]) == texts(7, [[1, 2], [3]])
    assert texts(7, [[1, 2]]) != texts(8, [[1, 2]])
    assert texts(None, [[1, 2]]) != texts(None, [[1, 2]])


def test_a_rows_numbers_are_its_own() -> None:
    """Rows of one prompt differ, and another row beside one changes nothing for it."""
    sampling = Sampling(temperature=8.0, seed=7)

    def texts(*prompts: list[int]) -> list[list[int]]:
        stepper = SessionStepper(Counting(), 99)
        return rows_of(list(generate(stepper, prompts, sampling, 20, (), PAD)))

    same = texts([1, 2], [1, 2])
    assert same[0] != same[1]
    assert texts([1, 2])[0] == same[0] == texts([1, 2], [9, 9, 9], [4])[0]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_an_error(bad: float) -> None:
    logits = LOGITS.copy()
    logits[2] = bad
    for sampling in (Sampling(), Sampling(temperature=1.0)):
        with pytest.raises(InferenceError, match="row 3 are not numbers"):
            Sampler(sampling, 4).choose(3, logits, [])
