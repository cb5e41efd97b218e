"""The loop around a decoder's step, with a decoder of a few lines."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lepton_edge.backend import Session, TensorSpec
from lepton_edge.errors import InferenceError, InputError
from lepton_edge.generation.loop import SessionStepper, Step, generate
from lepton_edge.generation.sampling import Sampling

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
        self.freed = 0

    def free(self) -> None:
        super().free()
        self.freed += 1


@pytest.mark.parametrize("after", [1, 3], ids="after {} steps".format)
@pytest.mark.parametrize("how", ["closed", "dropped"])
def test_a_stream_that_is_given_up_frees_the_cache(after: int, how: str) -> None:
    stepper = Watched(Counting())
    steps = generate(stepper, [[1, 2]], GREEDY, 10, (), PAD)
    for _ in range(after):
        next(steps)
    assert stepper.freed == 0
    if how == "closed":
        steps.close()
    del steps
    gc.collect()
    assert stepper.freed == 1
    with pytest.raises(InferenceError, match="was not started, or was freed"):
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
    assert stepper.freed == 1


def test_a_stream_that_is_not_begun_takes_no_cache() -> None:
    session = Counting()
    stepper = Watched(session)
    generate(stepper, [[1, 2]], GREEDY, 10, (), PAD).close()
    assert session.lengths == []
    with pytest.raises(InferenceError, match="was not started"):
        stepper.step(
            np.ones((1, 1), np.int64), np.ones((1, 1), np.int64), np.zeros((1, 1), np.int64)
        )


def test_a_row_that_has_no_numbers_is_named() -> None:
    class Broken(Counting):
        def infer(self, feeds: Tensors) -> dict[str, Array]:
            found = super().infer(feeds)
            found["logits"][1] = np.nan
            return found

    stepper = Watched(Broken())
    steps = generate(stepper, [[1, 2], [3]], GREEDY, 10, (), PAD)
    with pytest.raises(InferenceError, match=r"row 1: .* not numbers"):
        next(steps)
    assert stepper.freed == 1


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
        (
            [[1] * 12, [1] * 13],
            8,
            r"prompt 1 of 2 has 13 tokens, and with 8 more it is longer than the model's 20",
        ),
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
    assert caught.value.hint == "shorten it"


def test_a_session_that_is_no_decoder_is_refused_with_its_inputs() -> None:
    session = Counting()
    session.inputs = session.inputs[:2]
    with pytest.raises(InferenceError, match="its inputs are input_ids, attention_mask"):
        SessionStepper(session, 20)


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
