"""Searching an answer, greedy and with beams, with a model of a few lines."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lepton_edge.backend import Session, TensorSpec, check_feeds
from lepton_edge.errors import InferenceError, InputError
from lepton_edge.generation.beams import EncoderDecoder, beam_search, greedy
from lepton_edge.generation.decoding import Decoding
from lepton_edge.generation.hypotheses import Hypothesis

if TYPE_CHECKING:
    from lepton_edge.backend import Tensors

Array = NDArray[Any]

VOCABULARY = 7
START, PAD, END = 0, 1, 2


class Encoder(Session):
    """Gives a text's tokens as keys, and what they are worth by their place as values."""

    def __init__(self, cross: str = "float32") -> None:
        tokens, pair = ("batch", "length"), ("batch", 1, "length", 1)
        self.inputs = (
            TensorSpec("input_ids", "int64", tokens),
            TensorSpec("attention_mask", "int64", tokens),
        )
        self.outputs = tuple(TensorSpec(f"cross.0.{each}", cross, pair) for each in PARTS)
        self.device, self.details = "CPU", {}
        self.runs = 0

    def infer(self, feeds: Tensors) -> dict[str, Array]:
        check_feeds(self.inputs, feeds)
        assert all(array.flags.c_contiguous for array in feeds.values())
        self.runs += 1
        ids = feeds["input_ids"][:, None, :, None]
        places = np.broadcast_to(np.arange(ids.shape[2])[None, None, :, None] + 1, ids.shape)
        made = zip(self.outputs, (ids, places), strict=True)
        return {spec.name: array.astype(spec.dtype) for spec, array in made}

    def close(self) -> None:
        raise AssertionError("the session is its owner's")


class Decoder(Session):
    """Draws logits by the text and the whole answer so far, which it knows from its tensors alone:
    the text from ``cross`` where the mask is 1, the answer from its cache."""

    def __init__(self, seed: int = 0, spread: float = 2, cross: str = "float32") -> None:
        pair = ("batch", 1, "past", 1)
        self.inputs = (
            TensorSpec("input_ids", "int64", ("batch", "length")),
            TensorSpec("encoder_attention_mask", "int64", ("batch", "source")),
            *(TensorSpec(f"past.0.{each}", "float32", pair) for each in PARTS),
            *(TensorSpec(f"cross.0.{each}", cross, ("batch", 1, "source", 1)) for each in PARTS),
        )
        total = ("batch", 1, "total", 1)
        self.outputs = (
            TensorSpec("logits", "float32", ("batch", VOCABULARY)),
            *(TensorSpec(f"present.0.{each}", "float32", total) for each in PARTS),
        )
        self.device, self.details = "CPU", {}
        self.rows: list[int] = []
        self._seed, self._spread = seed, spread

    def logits(self, text: Sequence[int], answer: Sequence[int]) -> NDArray[np.float32]:
        """After a text and an answer, the start token first."""
        random = np.random.default_rng([self._seed, len(text), *text, *answer])
        return (random.standard_normal(VOCABULARY) * self._spread).astype(np.float32)

    def infer(self, feeds: Tensors) -> dict[str, Array]:
        check_feeds(self.inputs, feeds)
        assert all(array.flags.c_contiguous for array in feeds.values())
        ids, mask = feeds["input_ids"], feeds["encoder_attention_mask"]
        assert ids.shape[1] == 1
        self.rows.append(len(ids))
        new = ids[:, None, :, None].astype(np.float32)
        keys = np.concatenate([feeds["past.0.key"], new], axis=2)
        values = np.concatenate([feeds["past.0.value"], -new], axis=2)
        assert (keys == -values).all()
        logits = np.empty((len(ids), VOCABULARY), np.float32)
        for row in range(len(ids)):
            text = feeds["cross.0.key"][row, 0, mask[row] == 1, 0].astype(int).tolist()
            places = feeds["cross.0.value"][row, 0, mask[row] == 1, 0].tolist()
            assert places == list(range(1, len(text) + 1))
            logits[row] = self.logits(text, keys[row, 0, :, 0].astype(int).tolist())
        return {"logits": logits, "present.0.key": keys, "present.0.value": values}

    def close(self) -> None:
        raise AssertionError("the session is its owner's")


PARTS = ("key", "value")


def decoding_of(**options: Any) -> Decoding:
    given = {"eos_token_ids": (END,), "max_new_tokens": 5, **options}
    return Decoding(decoder_start_token_id=START, pad_token_id=PAD, **given)


def made(seed: int = 0, **options: Any) -> EncoderDecoder:
    return EncoderDecoder(Encoder(), Decoder(seed, **options))


def log_probs(model: EncoderDecoder, text: Sequence[int], answer: Sequence[int]) -> Array:
    assert isinstance(model.decoder, Decoder)
    logits = model.decoder.logits(text, [START, *answer]).astype(np.float64)
    found: Array = logits - np.log(np.exp(logits).sum())
    return found


def total(model: EncoderDecoder, text: Sequence[int], answer: Sequence[int]) -> float:
    """The log-probability of an answer, worked out without its search."""
    return sum(
        float(log_probs(model, text, answer[:place])[token]) for place, token in enumerate(answer)
    )


def answers_of(model: EncoderDecoder, texts: Sequence[Sequence[int]], decoding: Decoding) -> Any:
    rows = zip(*(step.tokens for step in greedy(model, texts, decoding)), strict=True)
    return [[token for token in row if token is not None] for row in rows]


TEXTS = st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=5), min_size=1, max_size=5)

# Beams.


@given(
    seed=st.integers(0, 10**6),
    penalty=st.sampled_from([-1.0, 0.0, 0.6, 1.0, 2.0]),
    text=st.lists(st.integers(0, 6), min_size=1, max_size=4),
)
@settings(deadline=None, max_examples=50)
def test_enough_beams_find_the_best_answer_of_all(
    seed: int, penalty: float, text: list[int]
) -> None:
    longest, model = 3, made(seed)
    all_of = [
        answer
        for length in range(1, longest + 1)
        for answer in itertools.product(range(VOCABULARY), repeat=length)
        if END not in answer[:-1] and (answer[-1] == END or length == longest)
    ]
    scores = [total(model, text, answer) / len(answer) ** penalty for answer in all_of]
    decoding = decoding_of(
        max_new_tokens=longest, num_beams=49, length_penalty=penalty, early_stopping="never"
    )
    ((best, *_),) = beam_search(model, [text], decoding)
    assert best.score == pytest.approx(max(scores), abs=1e-4)
    assert total(model, text, best.tokens) / len(best.tokens) ** penalty == pytest.approx(
        max(scores), abs=1e-4
    )


@pytest.mark.parametrize("early", [True, False, "never"])
@pytest.mark.parametrize("penalty", [-1.0, 0.0, 0.6, 2.0])
@pytest.mark.parametrize("ends", [(), (END,), (END, 5), (END, 3, 4, 5)])
def test_answers_are_those_of_the_search_as_it_is_defined(
    early: Any, penalty: float, ends: tuple[int, ...]
) -> None:
    decoding = decoding_of(
        num_beams=3,
        length_penalty=penalty,
        early_stopping=early,
        eos_token_ids=ends,
        max_new_tokens=8,
    )
    for seed in range(12):
        model = made(seed, spread=1 + seed / 6)
        (found,) = beam_search(model, [[3, 4]], decoding)
        expected = defined(model, [3, 4], decoding)
        assert [each.tokens for each in found] == [answer for _, answer in expected]
        assert [each.score for each in found] == pytest.approx(
            [score for score, _ in expected], rel=1e-4
        )


def defined(
    model: EncoderDecoder, text: list[int], decoding: Decoding
) -> list[tuple[float, tuple[int, ...]]]:
    """The search of one text, with nothing in arrays: scores and answers, the best first."""
    beams, ends, longest = decoding.num_beams, decoding.eos_token_ids, decoding.max_new_tokens
    going: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    ended: list[tuple[float, tuple[int, ...]]] = []
    for length in range(1, longest + 1):
        longer = [
            (score + float(more), (*answer, token))
            for score, answer in going
            for token, more in enumerate(log_probs(model, text, answer))
        ]
        best = sorted(longer, reverse=True)[: max(2, 1 + len(ends)) * beams]
        ended += [
            (score / length**decoding.length_penalty, answer)
            for score, answer in best[:beams]
            if answer[-1] in ends or length == longest
        ]
        ended = sorted(ended, reverse=True)[:beams]
        going = [(score, answer) for score, answer in best if answer[-1] not in ends][:beams]
        if len(ended) < beams:
            continue
        hoped = decoding.early_stopping == "never" and decoding.length_penalty > 0
        possible = going[0][0] / (longest if hoped else length) ** decoding.length_penalty
        if decoding.early_stopping is True or possible <= ended[-1][0]:
            break
    return ended


@given(
    texts=TEXTS,
    seed=st.integers(0, 10**6),
    beams=st.integers(1, 5),
    penalty=st.sampled_from([-1.0, 0.6, 2.0]),
    early=st.sampled_from([True, False, "never"]),
    ngram=st.integers(0, 3),
)
@settings(deadline=None, max_examples=150)
def test_each_text_of_a_batch_is_answered_as_it_is_alone(
    texts: list[list[int]], seed: int, beams: int, penalty: float, early: Any, ngram: int
) -> None:
    model = made(seed)
    decoding = decoding_of(
        num_beams=beams,
        length_penalty=penalty,
        early_stopping=early,
        no_repeat_ngram_size=ngram,
        max_new_tokens=6,
    )
    found = beam_search(model, texts, decoding)
    assert found == [beam_search(model, [text], decoding)[0] for text in texts]
    for text, row in zip(texts, found, strict=True):
        assert len({each.tokens for each in row}) == len(row) <= beams
        assert row == sorted(row, key=lambda each: -each.score)
        for each in row:
            assert_is_an_answer(model, text, each, decoding)


def assert_is_an_answer(
    model: EncoderDecoder, text: list[int], found: Hypothesis, decoding: Decoding
) -> None:
    *before, last = found.tokens
    assert END not in before
    assert found.finish_reason == ("stop" if last == END else "length")
    assert last == END or len(found.tokens) == decoding.max_new_tokens
    # Its score is that of its own tokens: else a beam went on with the cache of another.
    score = total(model, text, found.tokens) / len(found.tokens) ** decoding.length_penalty
    assert found.score == pytest.approx(score, abs=1e-3, rel=1e-4)
    grams = ngrams([START, *found.tokens], decoding.no_repeat_ngram_size)
    assert len(set(grams)) == len(grams)


def ngrams(tokens: Sequence[int], size: int) -> list[tuple[int, ...]]:
    return [tuple(tokens[n : n + size]) for n in range(len(tokens) - size + 1)] if size else []


def test_a_text_that_is_answered_leaves_the_batch() -> None:
    """Each row's beams together, of four texts that end one after another."""
    texts = [[3], [4], [5], [6]]
    for seed in itertools.count():
        model = made(seed)
        decoding = decoding_of(num_beams=3, max_new_tokens=9, early_stopping=True)
        alone = [len(runs(made(seed), [text], decoding)) for text in texts]
        if len({*alone}) == 4:
            break
    rows = runs(model, texts, decoding)
    assert rows == [3 * sum(count > step for count in alone) for step in range(max(alone))]


def runs(model: EncoderDecoder, texts: list[list[int]], decoding: Decoding) -> list[int]:
    """How many rows each step of the decoder had."""
    beam_search(model, texts, decoding)
    assert isinstance(model.decoder, Decoder)
    return model.decoder.rows


# Greedy.


@given(texts=TEXTS, seed=st.integers(0, 10**6))
@settings(deadline=None, max_examples=100)
def test_a_greedy_answer_takes_the_likeliest_token_each_time(
    texts: list[list[int]], seed: int
) -> None:
    model = made(seed)
    steps = list(greedy(model, texts, decoding_of(max_new_tokens=6)))
    for row, text in enumerate(texts):
        expected: list[int] = []
        while len(expected) < 6 and END not in expected:
            expected.append(int(log_probs(model, text, expected).argmax()))
        tokens = [step.tokens[row] for step in steps]
        assert tokens == expected + [None] * (len(steps) - len(expected))
        reasons = [step.finished[row] for step in steps]
        last = len(expected) - 1
        assert reasons[last] == ("stop" if expected[-1] == END else "length")
        assert all(reason is None for at, reason in enumerate(reasons) if at != last)


def test_greedy_gives_each_step_as_soon_as_it_is_there() -> None:
    model = made(5)
    assert isinstance(model.encoder, Encoder)
    assert isinstance(model.decoder, Decoder)
    steps = greedy(model, [[3, 4]], decoding_of(eos_token_ids=()))
    assert (model.encoder.runs, model.decoder.rows) == (0, [])
    next(steps)
    assert (model.encoder.runs, model.decoder.rows) == (1, [1])
    assert len(list(steps)) == 4
    assert (model.encoder.runs, model.decoder.rows) == (1, [1] * 5)


# Rules.


def test_a_first_and_a_last_token_are_forced() -> None:
    model = made(1)
    decoding = decoding_of(
        eos_token_ids=(END, 6), forced_bos_token_id=5, forced_eos_token_id=6, max_new_tokens=4
    )
    for tokens in (*answers_of(model, [[3], [4, 4]], decoding), *both_of(model, decoding)):
        assert tokens[0] == 5
        assert tokens[-1] == 6 or END in tokens
    shortest = decoding_of(eos_token_ids=(6,), forced_eos_token_id=6, max_new_tokens=1)
    assert answers_of(model, [[3]], shortest) == [[6]]


def both_of(model: EncoderDecoder, decoding: Decoding) -> list[tuple[int, ...]]:
    found = beam_search(model, [[3], [4, 4]], Decoding(**{**vars(decoding), "num_beams": 3}))
    return [each.tokens for row in found for each in row]


def test_several_tokens_can_end_an_answer() -> None:
    found = both_of(made(3), decoding_of(eos_token_ids=(2, 3, 4, 5), max_new_tokens=9))
    assert len({tokens[-1] for tokens in found}) > 1
    assert all(tokens[-1] in (2, 3, 4, 5) for tokens in found)


def test_with_no_token_that_ends_it_an_answer_is_as_long_as_it_may_be() -> None:
    assert {len(tokens) for tokens in both_of(made(3), decoding_of(eos_token_ids=()))} == {5}


# Failures.

Search = Callable[[EncoderDecoder, Sequence[Sequence[int]], Decoding], object]


@pytest.fixture(params=["greedy", "beams"])
def search(request: pytest.FixtureRequest) -> Search:
    """Both ways, to their end."""
    if request.param == "beams":
        return beam_search
    return lambda model, texts, decoding: list(greedy(model, texts, decoding))


@pytest.mark.parametrize(
    ("texts", "changes", "message"),
    [
        ([], {}, "there is no text to answer"),
        ([[3], []], {}, "text 1 of 2 has no tokens"),
        ([[3], [3] * 9], {}, "the text has 9 tokens, more than the model's 8"),
        ([[3]], {"max_new_tokens": 9}, "max_new_tokens is 9, more than the model's 8"),
        ([[3]], {"forced_bos_token_id": 7}, "forced_bos_token_id has the token 7; .* 0 to 6"),
        ([[3]], {"bad_words_ids": ((3, -1),)}, "bad_words_ids has the token -1"),
    ],
)
def test_what_cannot_be_answered_is_refused_before_anything_runs(
    search: Search, texts: list[list[int]], changes: dict[str, Any], message: str
) -> None:
    encoder = Encoder()
    model = EncoderDecoder(encoder, Decoder(), max_length=8)
    with pytest.raises(InputError, match=message):
        search(model, texts, decoding_of(**changes))
    with pytest.raises(InputError, match=message):
        greedy(model, texts, decoding_of(**changes))
    assert encoder.runs == 0


def test_logits_that_are_not_numbers_are_an_error(search: Search) -> None:
    model = made(spread=math.nan)
    with pytest.raises(InferenceError, match="not numbers"):
        search(model, [[3]], decoding_of())


def test_rules_that_forbid_every_token_are_an_error(search: Search) -> None:
    decoding = decoding_of(suppress_tokens=tuple(range(VOCABULARY)))
    with pytest.raises(InferenceError, match="every token is forbidden by bad_words_ids"):
        search(made(), [[3]], decoding)


def test_other_sessions_are_refused() -> None:
    with pytest.raises(InferenceError, match=r"not an encoder with a decoder.*input_ids, att"):
        EncoderDecoder(Encoder(), Encoder())
    with pytest.raises(InferenceError, match="not an encoder with a decoder"):
        EncoderDecoder(Decoder(), Decoder())


def test_an_encoder_and_a_decoder_may_differ_in_their_type_of_numbers() -> None:
    model = EncoderDecoder(Encoder("float16"), Decoder(4))
    assert answers_of(model, [[3, 4]], decoding_of()) == answers_of(
        made(4), [[3, 4]], decoding_of()
    )
    half = EncoderDecoder(Encoder(), Decoder(4, cross="float16"))
    assert answers_of(half, [[3, 4]], decoding_of()) == answers_of(made(4), [[3, 4]], decoding_of())
