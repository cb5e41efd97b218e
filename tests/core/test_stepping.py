"""The generator over a decoder's steps, with a stepper of a few lines that a test can hold."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lepton_edge.errors import InferenceError, InputError
from lepton_edge.generation.request import Chunk, Grammar, Request, TokenStream
from lepton_edge.generation.sampling import Sampling
from lepton_edge.generation.stepping import Limits, StepGenerator
from tests import grammars

VOCABULARY = 24
PAD = 23
LONG = 20  # seconds that no test takes
SPREAD = 0.25  # between the logits of a token and of the next
Ints = NDArray[np.int64]


class Adding:
    """A stepper that says the sum of a row's real tokens plus how many there are, and the tokens
    after that one ever less. It asserts that mask and positions agree with what it was given."""

    def __init__(self, vocabulary: int = VOCABULARY) -> None:
        self.details: dict[str, Any] = {"compute": "fp32"}
        self.max_length, self.max_batch = 1000, 1000
        self.vocabulary = vocabulary
        self.batches: list[int] = []
        self.lengths: list[int] = []  # of each batch, in the end, with the padding
        self.masks: list[list[int]] = []
        self.steps = 0
        self.frees = 0
        self.closes = 0
        self.fail: Callable[[int], None] = lambda step: None
        self.spoiled: tuple[int, int] | None = None  # a step and a row whose logits are NaN
        self.permits: threading.Semaphore | None = None
        self.entered = threading.Semaphore(0)
        self._ids: Ints | None = None

    def start(self, batch: int) -> None:
        assert self._ids is None, "the cache of the batch before was not freed"
        self.fail(-1)
        self._ids = np.zeros((batch, 0), np.int64)
        self.batches.append(batch)
        self.lengths.append(0)

    def step(
        self, input_ids: Ints, attention_mask: Ints, position_ids: Ints
    ) -> NDArray[np.float32]:
        self.entered.release()
        if self.permits is not None:
            assert self.permits.acquire(timeout=LONG)
        self.fail(self.steps)
        self.steps += 1
        assert self._ids is not None
        self._ids = ids = np.concatenate([self._ids, input_ids], axis=1)
        assert attention_mask.shape == ids.shape
        self.lengths[-1] = ids.shape[1]
        self.masks.append(attention_mask[:, -1].tolist())
        logits = np.zeros((len(ids), self.vocabulary), np.float32)
        for row, real in enumerate(attention_mask == 1):
            counted = np.maximum(real.cumsum() - 1, 0)[-input_ids.shape[1] :]
            assert position_ids[row].tolist() == counted.tolist()
            first = (int(ids[row, real].sum()) + int(real.sum())) % self.vocabulary
            places = (np.arange(self.vocabulary) - first) % self.vocabulary
            logits[row] = -SPREAD * places
            if self.spoiled == (self.steps - 1, row):
                logits[row, -1] = np.nan
        return logits

    def free(self) -> None:
        self._ids = None
        self.frees += 1

    def close(self) -> None:
        self.free()
        self.closes += 1

    def hold(self) -> None:
        """From now on each step waits for a permit of `let`."""
        self.permits = threading.Semaphore(0)

    def let(self, steps: int = 10_000) -> None:
        assert self.permits is not None
        self.permits.release(steps)

    def wait_until_it_steps(self) -> None:
        assert self.entered.acquire(timeout=LONG)


def said(
    prompt: Sequence[int], max_tokens: int, stop: frozenset[int] = frozenset()
) -> tuple[int, ...]:
    """What `Adding` says greedily, worked out without it."""
    text = list(prompt)
    for _ in range(max_tokens):
        text.append((sum(text) + len(text)) % VOCABULARY)
        if text[-1] in stop:
            break
    return tuple(text[len(prompt) :])


def answer_to(request: Request) -> tuple[int, ...]:
    return said(request.prompt, request.max_tokens, request.stop_tokens)


@contextmanager
def generating(
    stepper: Adding,
    *,
    rows: int = 8,
    length: int = 200,
    cache_tokens: int = 1000,
    tokenizer: Path = Path("tokenizer.json"),
) -> Iterator[StepGenerator]:
    limits = Limits(rows, length, cache_tokens, stepper.vocabulary)
    generator = StepGenerator(stepper, limits, tokenizer, "HOST", PAD)
    try:
        yield generator
    finally:
        if stepper.permits is not None:
            stepper.let()
        generator.close()


def read(stream: TokenStream) -> list[Chunk]:
    """To its end; one that has none is cut off, and the test fails instead of hanging."""
    watchdog = threading.Timer(LONG, stream.cancel)
    watchdog.start()
    try:
        return list(stream)
    finally:
        watchdog.cancel()


def tokens_of(stream: TokenStream) -> tuple[int, ...]:
    return tuple(token for chunk in read(stream) for token in chunk.tokens)


def ask(generator: StepGenerator, *requests: Request) -> list[tuple[int, ...]]:
    return [tokens_of(stream) for stream in generator.submit(requests)]


# What is answered.


def test_an_answer_comes_token_by_token_and_says_why_it_ended() -> None:
    with generating(Adding()) as generator:
        (stream,) = generator.submit([Request([1, 2, 3], 6)])
        chunks = read(stream)
    assert [chunk.tokens for chunk in chunks] == [(token,) for token in said([1, 2, 3], 6)]
    assert [chunk.finish_reason for chunk in chunks] == [None] * 5 + ["length"]
    times = [chunk.time for chunk in chunks]
    assert times == sorted(times)
    assert times[0] > 0
    assert all(chunk.logprobs == () for chunk in chunks)
    assert stream.ended


def test_a_token_is_there_before_the_next_step() -> None:
    stepper = Adding()
    stepper.hold()
    with generating(stepper) as generator:
        (stream,) = generator.submit([Request([4], 3)])
        for token in said([4], 3):
            stepper.let(1)
            assert next(stream).tokens == (token,)
        assert read(stream) == []
        assert stepper.steps == 3


def test_a_stop_token_ends_an_answer_and_is_part_of_it() -> None:
    stop = frozenset({said([1, 2], 9)[4]})
    expected = said([1, 2], 9, stop)
    assert 1 < len(expected) < 9
    with generating(Adding()) as generator:
        (stream,) = generator.submit([Request([1, 2], 9, stop)])
        chunks = read(stream)
    assert tuple(chunk.tokens[0] for chunk in chunks) == expected
    assert [chunk.finish_reason for chunk in chunks] == [None] * (len(expected) - 1) + ["stop"]


requests = st.builds(
    Request,
    st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=12),
    st.integers(1, 12),
    st.frozensets(st.integers(0, VOCABULARY - 1), max_size=3),
)


@given(
    asked=st.lists(st.lists(requests, max_size=6), min_size=1, max_size=4),
    rows=st.integers(1, 5),
    length=st.integers(24, 40),
    cache_tokens=st.integers(24, 120),
)
@settings(deadline=None, max_examples=60)
def test_every_answer_is_that_of_its_request_alone_and_every_batch_fits(
    asked: list[list[Request]], rows: int, length: int, cache_tokens: int
) -> None:
    stepper = Adding()
    with generating(stepper, rows=rows, length=length, cache_tokens=cache_tokens) as generator:
        streams = [generator.submit(together) for together in asked]
        found = [[tokens_of(stream) for stream in together] for together in streams]
    assert found == [[answer_to(request) for request in together] for together in asked]
    assert sum(stepper.batches) == sum(map(len, asked))
    for batch, reached in zip(stepper.batches, stepper.lengths, strict=True):
        assert batch <= rows
        assert reached <= length
        assert batch * reached <= cache_tokens


def test_many_threads_each_get_their_own_answers() -> None:
    found: dict[int, list[tuple[int, ...]]] = {}
    asked = {number: [Request([number + 1, k], 5 + k) for k in range(1, 6)] for number in range(8)}
    with generating(Adding(), rows=3) as generator:

        def work(number: int) -> None:
            found[number] = [answer for each in asked[number] for answer in ask(generator, each)]

        threads = [threading.Thread(target=work, args=(number,)) for number in asked]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {number: [*map(answer_to, given)] for number, given in asked.items()}


def test_answers_come_to_tasks() -> None:
    asked = [Request([number, 2], 20) for number in (1, 5, 9)]

    async def one(stream: TokenStream) -> tuple[int, ...]:
        return tuple([chunk.tokens[0] async for chunk in stream])

    async def all_of_them(generator: StepGenerator) -> list[tuple[int, ...]]:
        return await asyncio.gather(*map(one, generator.submit(asked)))

    with generating(Adding()) as generator:
        assert asyncio.run(all_of_them(generator)) == [*map(answer_to, asked)]


def test_an_answer_that_nobody_reads_holds_up_no_other() -> None:
    with generating(Adding()) as generator:
        unread, other = generator.submit([Request([1], 50), Request([2], 60)])
        assert tokens_of(other) == said([2], 60)
        assert ask(generator, Request([3], 4)) == [said([3], 4)]
        assert tokens_of(unread) == said([1], 50)


# Batches.


def test_what_is_asked_together_is_one_batch_and_one_step_for_all() -> None:
    stepper = Adding()
    asked = [Request([1, 2, 3], 4), Request([5], 7), Request([6, 6], 2)]
    with generating(stepper) as generator:
        assert ask(generator, *asked) == [*map(answer_to, asked)]
    assert stepper.batches == [3]
    assert stepper.steps == 7
    assert stepper.masks == [[1, 1, 1]] * 2 + [[1, 1, 0]] * 2 + [[0, 1, 0]] * 3


def test_more_than_a_batch_takes_wait_for_the_next_one_in_order() -> None:
    stepper = Adding()
    asked = [Request([number], 1 + number % 3) for number in range(9)]
    with generating(stepper, rows=4) as generator:
        assert ask(generator, *asked) == [*map(answer_to, asked)]
    assert stepper.batches == [4, 4, 1]


def test_what_comes_while_a_batch_runs_is_the_next_one() -> None:
    stepper = Adding()
    stepper.hold()
    with generating(stepper) as generator:
        (first,) = generator.submit([Request([1], 3)])
        stepper.wait_until_it_steps()
        later = [generator.submit([Request([number], 2)])[0] for number in (2, 3, 4)]
        stepper.let()
        assert tokens_of(first) == said([1], 3)
        assert [*map(tokens_of, later)] == [said([number], 2) for number in (2, 3, 4)]
    assert stepper.batches == [1, 3]


def test_a_long_prompt_and_a_long_answer_that_fit_alone_are_not_one_batch() -> None:
    """Padded to the longest prompt, the long answer would have no room."""
    stepper = Adding()
    asked = [Request([1] * 90, 10), Request([2] * 10, 90), Request([3] * 80, 10)]
    with generating(stepper, length=100) as generator:
        assert ask(generator, *asked) == [*map(answer_to, asked)]
    assert stepper.batches == [2, 1], "the third goes with the first"


def test_a_batch_has_the_tokens_that_the_cache_holds() -> None:
    stepper = Adding()
    asked = [Request([1] * 10, 10)] * 5
    with generating(stepper, cache_tokens=40) as generator:
        assert ask(generator, *asked) == [*map(answer_to, asked)]
    assert stepper.batches == [2, 2, 1]


def test_one_that_others_overtook_is_the_first_of_the_next_batch() -> None:
    stepper = Adding()
    stepper.hold()
    small, large = Request([1], 1), Request([2] * 30, 10)
    with generating(stepper, cache_tokens=40) as generator:
        streams = generator.submit([small])
        stepper.wait_until_it_steps()
        streams += generator.submit([small, large, small, small])
        stepper.let(1)
        stepper.wait_until_it_steps()
        streams += generator.submit([small] * 5)
        stepper.let()
        assert [*map(tokens_of, streams)].count(answer_to(small)) == 9
        assert stepper.batches == [1, 3, 1, 5]
        assert stepper.lengths[2] == 39, "the last token of an answer is in no cache"
        assert tokens_of(streams[2]) == ()


# Each row's own.


def test_each_row_has_its_own_sampling() -> None:
    def sampled(seed: int) -> Request:
        return Request([1, 2], 30, sampling=Sampling(temperature=3.0, seed=seed))

    greedy = Request([1, 2], 30)
    with generating(Adding()) as generator:
        together = ask(generator, greedy, sampled(7), sampled(8), sampled(7))
        alone = [ask(generator, each)[0] for each in (greedy, sampled(7), sampled(8))]
    assert together[:3] == alone
    assert together[1] == together[3]
    assert together[0] == said([1, 2], 30)
    assert len({*alone}) == 3


def test_without_a_seed_answers_differ() -> None:
    free = Request([1, 2], 30, sampling=Sampling(temperature=3.0))
    with generating(Adding()) as generator:
        assert len({*ask(generator, free, free), *ask(generator, free)}) == 3


def test_a_bias_and_a_penalty_are_a_rows_own() -> None:
    """Of a token that is forced; and of one that was, and then is forbidden by its penalty."""
    forced = Request([1], 4, sampling=Sampling(logit_bias={5: 100}))
    once = Request([1], 4, sampling=Sampling(logit_bias={5: 6.5, 6: 6}, presence_penalty=2))
    plain = Request([1], 4)
    with generating(Adding()) as generator:
        found = ask(generator, forced, once, plain)
    assert found[0] == (5, 5, 5, 5)
    assert found[1].count(5) < 4
    assert found[1][0] == 5
    assert found[2] == said([1], 4)


def test_a_penalty_for_the_answers_tokens_leaves_the_prompts_alone() -> None:
    prompt = [1, 8, 13]
    assert said(prompt, 1)[0] in prompt
    positive = dict.fromkeys(range(VOCABULARY), 10.0)
    answers = Sampling(frequency_penalty=2, presence_penalty=2)
    both = Sampling(repetition_penalty=5, logit_bias=positive)
    with generating(Adding()) as generator:
        plain, same, other = ask(
            generator, *(Request(prompt, 1, sampling=each) for each in (Sampling(), answers, both))
        )
    assert plain == same == said(prompt, 1)
    assert other != plain


def test_log_probabilities_are_the_models_own_and_come_where_they_are_asked_for() -> None:
    """Whatever a token was chosen by."""
    logits = -SPREAD * np.arange(VOCABULARY, dtype=np.float64)
    total = math.log(np.exp(logits).sum())
    wild = Sampling(temperature=9.0, seed=3, top_k=5, logit_bias={2: 4})
    asked = [
        Request([1], 12, logprobs=True),
        Request([1], 12),
        Request([1], 12, sampling=wild, logprobs=True),
    ]
    with generating(Adding()) as generator:
        greedy, without, sampled = map(read, generator.submit(asked))
    assert [chunk.logprobs for chunk in without] == [()] * 12
    for chunk in greedy:
        assert chunk.logprobs == pytest.approx((-total,), abs=1e-6)
    text = [1]
    for chunk in sampled:
        (token,) = chunk.tokens
        place = (token - sum(text) - len(text)) % VOCABULARY
        assert chunk.logprobs == pytest.approx((logits[place] - total,), abs=1e-6)
        text.append(token)
    assert len({chunk.logprobs for chunk in sampled}) > 2


# Grammars.


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return grammars.write_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tokenizer.json")


def text_of(tokens: Sequence[int]) -> bytes:
    return b"".join(grammars.TOKENS[token] for token in tokens)


def test_a_grammar_holds_its_own_row_and_ends_it(tokenizer: Path) -> None:
    held = Request([1, 2], 30, grammar=Grammar("regex", "[0-9]{3}-[a-f]{2}"))
    plain = Request([1, 2], 9)
    with generating(Adding(len(grammars.TOKENS)), tokenizer=tokenizer) as generator:
        streams = generator.submit([held, plain, held])
        chunks = [*map(read, streams)]
        (alone,) = ask(generator, replace(plain))
    first, second = ([chunk.tokens[0] for chunk in row] for row in (chunks[0], chunks[2]))
    assert first == second
    digits, letters = text_of(first).decode().split("-")
    assert len(digits) == 3
    assert digits.isdigit()
    assert len(letters) == 2
    assert {*letters} <= {*"abcdef"}
    assert [row[-1].finish_reason for row in chunks] == ["stop", "length", "stop"]
    assert tuple(chunk.tokens[0] for chunk in chunks[1]) == alone


def test_a_stop_token_may_come_where_the_grammar_may_end(tokenizer: Path) -> None:
    """And not before; a stop token of the call's own that is text stays text to the grammar."""
    likely_end = Sampling(logit_bias={grammars.END: 100})
    asked = Request(
        [1], 30, frozenset({grammars.END}), likely_end, grammar=Grammar("regex", "x{4,}")
    )
    with generating(Adding(len(grammars.TOKENS)), tokenizer=tokenizer) as generator:
        (stream,) = generator.submit([asked])
        chunks = read(stream)
    assert [chunk.tokens[0] for chunk in chunks] == [*b"xxxx", grammars.END]
    assert chunks[-1].finish_reason == "stop"


def test_an_answer_cut_short_in_its_grammar_says_so(tokenizer: Path) -> None:
    asked = Request([1], 3, grammar=Grammar("regex", "[a-z]{5}"))
    with generating(Adding(len(grammars.TOKENS)), tokenizer=tokenizer) as generator:
        (stream,) = generator.submit([asked])
        assert [chunk.finish_reason for chunk in stream] == [None, None, "length"]


def test_a_grammar_that_allows_none_of_the_models_tokens_fails_its_row_alone(
    tokenizer: Path,
) -> None:
    held = Request([1], 5, grammar=Grammar("regex", "[a-z]+"))  # the model knows bytes up to 23
    with generating(Adding(), tokenizer=tokenizer) as generator:
        failing, other = generator.submit([held, Request([2], 5)])
        with pytest.raises(InferenceError, match="no token that the grammar allows"):
            read(failing)
        assert tokens_of(other) == said([2], 5)


# What is refused.


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (Request([1] * 150, 51), r"150 tokens, and with 51 more it is longer than .* 200"),
        (Request([], 5), "no tokens"),
        (Request([1], 0), "max_tokens is 0"),
        (Request([1], 5, adapters=(("poet", 1.0),)), "no adapter 'poet'"),
        (Request([1], 5, sampling=Sampling(logit_bias={24: 1})), "token 24; .* are 0 to 23"),
        (Request([1], 5, grammar=Grammar("regex", "(")), "regex|regular expression"),
        (Request([1], 5, grammar=Grammar("json_schema", "{")), "JSON"),
    ],
    ids=["too long", "empty", "no tokens", "adapter", "bias", "regex", "schema"],
)
def test_what_cannot_be_answered_is_refused_before_anything_begins(
    bad: Request, says: str, tokenizer: Path
) -> None:
    stepper = Adding()
    with generating(stepper, tokenizer=tokenizer) as generator:
        with pytest.raises(InputError, match=says):
            generator.submit([Request([1], 5), bad])
        assert ask(generator, Request([1], 5)) == [said([1], 5)]
    assert stepper.batches == [1]


def test_a_prompt_that_just_fits_is_answered_and_the_hint_says_how_much_does() -> None:
    with generating(Adding()) as generator:
        assert ask(generator, Request([1] * 150, 50)) == [said([1] * 150, 50)]
        with pytest.raises(InputError) as caught:
            generator.submit([Request([1] * 150, 51)])
        assert "at most 50 tokens" in str(caught.value.hint)


def test_the_longest_text_is_one_that_the_cache_holds() -> None:
    with generating(Adding(), length=200, cache_tokens=60) as generator:
        assert generator.max_length == 60
        assert ask(generator, Request([1] * 50, 10)) == [said([1] * 50, 10)]
        with pytest.raises(InputError, match=r"50 tokens, and with 11 more .* 60"):
            generator.submit([Request([1] * 50, 11)])


def test_a_tokenizer_that_cannot_be_read_is_an_input_error_only_with_a_grammar(
    tmp_path: Path,
) -> None:
    with generating(Adding(), tokenizer=tmp_path / "none.json") as generator:
        with pytest.raises(InputError, match=r"none\.json"):
            generator.submit([Request([1], 5, grammar=Grammar("regex", "a"))])
        assert ask(generator, Request([1], 5)) == [said([1], 5)]


# Cancelling.


def test_a_cancelled_row_is_left_out_and_the_others_go_on() -> None:
    stepper = Adding()
    stepper.hold()
    with generating(stepper) as generator:
        given_up, other = generator.submit([Request([1], 100), Request([2], 6)])
        stepper.let(2)
        assert [next(given_up).tokens[0] for _ in range(2)] == [*said([1], 2)]
        stepper.wait_until_it_steps()
        given_up.cancel()
        stepper.let()
        assert read(given_up) == []
        assert tokens_of(other) == said([2], 6)
    assert stepper.steps == 6
    assert stepper.masks[-1] == [0, 1]


def test_cancelling_all_of_a_batch_frees_its_cache_and_the_next_one_begins() -> None:
    stepper = Adding()
    stepper.hold()
    with generating(stepper) as generator:
        streams = generator.submit([Request([1], 100), Request([2], 100)])
        stepper.let(3)
        for _ in range(3):
            next(streams[0])
        for stream in streams:
            stream.cancel()
            stream.cancel()
        stepper.let()
        assert ask(generator, Request([3], 4)) == [said([3], 4)]
        assert stepper.batches == [2, 1]
        assert stepper.steps <= 3 + 1 + 4, "a step that had begun, and no other"
        assert stepper.frees >= 1


def test_what_is_cancelled_while_it_waits_never_begins() -> None:
    stepper = Adding()
    stepper.hold()
    with generating(stepper) as generator:
        (first,) = generator.submit([Request([1], 2)])
        stepper.wait_until_it_steps()
        waiting = generator.submit([Request([number], 50) for number in (2, 3, 4)])
        waiting[0].cancel()
        with waiting[2]:
            pass
        stepper.let()
        assert tokens_of(first) == said([1], 2)
        assert [*map(tokens_of, waiting)] == [(), said([3], 50), ()]
    assert stepper.batches == [1, 1]


def test_a_reader_that_leaves_early_cancels() -> None:
    stepper = Adding()
    with generating(stepper) as generator:
        for _ in range(20):
            (stream,) = generator.submit([Request([1], 190)])
            with stream:
                assert next(stream).tokens == said([1], 1)
        assert ask(generator, Request([3], 4)) == [said([3], 4)]


# Failing.


def test_logits_that_are_no_numbers_fail_their_row_alone() -> None:
    stepper = Adding()
    stepper.spoiled = (4, 1)
    asked = [Request([1], 9), Request([7, 2], 9), Request([6], 9)]
    with generating(stepper) as generator:
        good, bad, best = generator.submit(asked)
        assert tuple(next(bad).tokens[0] for _ in range(4)) == said([7, 2], 4)
        with pytest.raises(InferenceError, match="not numbers"):
            next(bad)
        assert tokens_of(good) == said([1], 9)
        assert tokens_of(best) == said([6], 9)
        assert bad.ended
    assert stepper.batches == [3]
    assert stepper.masks[4:6] == [[1, 1, 1], [1, 0, 1]]


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (InferenceError("the device is gone", hint="start again"), "the device is gone"),
        (RuntimeError("a library's own"), "RuntimeError: a library's own"),
        (MemoryError("no room"), "MemoryError: no room"),
        (AssertionError(), "AssertionError"),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("at", [-1, 0, 2], ids=["at the start", "at the prompt", "at a token"])
def test_a_step_that_fails_fails_its_batch_and_the_next_one_works(
    error: Exception, says: str, at: int
) -> None:
    stepper = Adding()
    failed = threading.Event()

    def fail(step: int) -> None:
        if step == at and not failed.is_set():
            failed.set()
            raise error

    stepper.fail = fail
    with generating(stepper, rows=2) as generator:
        first, second, third = generator.submit([Request([n], 5) for n in (1, 2, 3)])
        caught = []
        for stream in (first, second):
            with pytest.raises(InferenceError) as found:
                read(stream)
            caught.append(found.value)
        assert tokens_of(third) == said([3], 5)
        assert ask(generator, Request([4], 5)) == [said([4], 5)]
    for each in caught:
        assert says in each.message
        assert each.__cause__ is error or each is error
        assert each.hint == getattr(error, "hint", None)
    assert caught[0] is not caught[1], "each is raised in a thread of its own"
    assert stepper.frees >= len(stepper.batches)


# Closing.


def test_closing_ends_what_runs_and_what_waits_and_closes_the_stepper() -> None:
    stepper = Adding()
    stepper.hold()
    with generating(stepper, rows=1) as generator:
        running, waiting = generator.submit([Request([1], 100), Request([2], 5)])
        stepper.let(1)
        assert next(running).tokens == said([1], 1)
        stepper.wait_until_it_steps()
        closer = threading.Thread(target=generator.close)
        closer.start()
        stepper.let()
        closer.join(LONG)
        assert not closer.is_alive()
        for stream in (running, waiting):
            with pytest.raises(InferenceError, match="generator is closed"):
                read(stream)
        assert stepper.steps < 100
        assert stepper.batches == [1]
        assert stepper.closes >= 1
        with pytest.raises(InferenceError, match="closed") as caught:
            generator.submit([Request([1], 5)])
        assert caught.value.hint


def test_closing_wakes_who_waits_for_a_token() -> None:
    stepper = Adding()
    stepper.hold()
    raised: list[BaseException] = []

    def wait(stream: TokenStream) -> None:
        try:
            read(stream)
        except InferenceError as error:
            raised.append(error)

    with generating(stepper) as generator:
        streams = generator.submit([Request([1], 100), Request([2], 100)])
        readers = [threading.Thread(target=wait, args=(stream,)) for stream in streams]
        for reader in readers:
            reader.start()
        stepper.wait_until_it_steps()
        closer = threading.Thread(target=generator.close)
        closer.start()
        stepper.let(1)
        for thread in (*readers, closer):
            thread.join(LONG)
            assert not thread.is_alive()
    assert len(raised) == 2


def test_closing_an_idle_generator_ends_its_thread_and_again_is_harmless() -> None:
    def workers() -> set[threading.Thread]:
        return {each for each in threading.enumerate() if each.name == "lepton-edge-generator"}

    before = workers()
    stepper = Adding()
    with generating(stepper) as generator:
        assert ask(generator, Request([1], 3)) == [said([1], 3)]
        (worker,) = workers() - before
        assert worker.daemon, "a program that forgets to close ends all the same"
        threads = [threading.Thread(target=generator.close) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONG)
        generator.close()
        assert not worker.is_alive()
    assert stepper.steps == 3


def test_an_idle_generator_does_nothing() -> None:
    """Nor does the thread wake up: nobody notifies it."""
    stepper = Adding()
    with generating(stepper) as generator:
        assert ask(generator, Request([1], 3)) == [said([1], 3)]
        woken = threading.Event()
        condition: Any = generator._work
        wait = condition.wait

        def watched(*arguments: Any) -> Any:
            woken.set()
            return wait(*arguments)

        condition.wait = watched
        assert not woken.wait(0.1)
        assert stepper.steps == 3
        assert ask(generator, Request([2], 3)) == [said([2], 3)]


def test_the_cache_is_freed_after_each_batch() -> None:
    stepper = Adding()
    with generating(stepper, rows=2) as generator:
        ask(generator, *[Request([number], 3) for number in range(1, 6)])
        assert stepper.batches == [2, 2, 1]
    assert stepper.frees == 3 + stepper.closes
    assert stepper._ids is None
