"""For tests: a decoder that needs no vendor's library, and the checks that every generator passes.

A backend's own tests make a `GeneratorCase` of a decoder that it can compile and run every check in
`GENERATOR_CONFORMANCE` on it, as with those of `lepton_edge.testing`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_edge.backend import Aside, Backend, Generation, Generator, Graph
from lepton_edge.errors import InferenceError, InputError
from lepton_edge.generation.request import Request, TokenStream
from lepton_edge.generation.sampling import Sampling, log_probability
from lepton_edge.generation.stepping import Limits, StepGenerator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from lepton_edge.backend import Compiled
    from lepton_edge.target import Target

STOP = 3
"""The token that ends an answer of `FakeStepper`."""
_FIRST = 4  # of the words that it says
_WORDS = 100
_SPECIAL = ("[PAD]", "[UNK]", "[BOS]", "[EOS]")
_ROWS = 8
_PATIENCE = 60  # seconds that a check waits for what should come at once


def fake_answer(prompt: Sequence[int], count: int, seed: int = 0) -> list[int]:
    """The greedy answer of `FakeStepper` to a prompt: up to ``count`` tokens, `STOP` the last of
    them where it ends by itself."""
    text = list(prompt)
    while len(text) < len(prompt) + count and (len(text) == len(prompt) or text[-1] != STOP):
        text.append(_next(text, seed))
    return text[len(prompt) :]


def _next(text: Sequence[int], seed: int) -> int:
    number = (sum(text) + len(text) + seed) % (_WORDS + 1)
    return STOP if number == _WORDS else _FIRST + number


class FakeStepper:
    """A `lepton_edge.generation.loop.Stepper` whose most likely token is the sum of a text's tokens
    and their number; the others are as likely as it happens, the same each time.

    It sees a text as a decoder does, through its cache, the mask and the positions. ``shapes`` has
    those of each step's input; ``fail_with``, where set, is raised by the next step, once.
    """

    def __init__(self, seed: int, vocabulary: int, max_length: int) -> None:
        self.details = {"compute": "fp32"}
        self.max_length = max_length
        self.shapes: list[tuple[int, ...]] = []
        self.fail_with: Exception | None = None
        self.has_cache = self.is_closed = False
        self._seed = seed
        self._vocabulary = vocabulary
        self._tokens = np.zeros((0, 0), np.int64)

    def start(self, batch: int) -> None:
        if self.is_closed:
            raise InferenceError("the fake decoder is closed")
        self.has_cache = True
        self._tokens = np.zeros((batch, 0), np.int64)

    def step(
        self,
        input_ids: NDArray[np.int64],
        attention_mask: NDArray[np.int64],
        position_ids: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        if not self.has_cache:
            raise InferenceError("the fake decoder has no text: it was not started, or was freed")
        error, self.fail_with = self.fail_with, None
        if error is not None:
            raise error
        self.shapes.append(input_ids.shape)
        self._tokens = np.concatenate([self._tokens, input_ids], axis=1)
        if attention_mask.shape != self._tokens.shape or position_ids.shape != input_ids.shape:
            raise InferenceError("the mask or the positions are not of the text's shape")
        rows = zip(self._tokens, attention_mask == 1, position_ids, strict=True)
        return np.stack([self._logits(*row) for row in rows])

    def free(self) -> None:
        self.has_cache = False

    def close(self) -> None:
        self.free()
        self.is_closed = True

    def _logits(
        self, tokens: NDArray[Any], real: NDArray[np.bool_], positions: NDArray[Any]
    ) -> NDArray[np.float32]:
        text = tokens[real].tolist()
        if real[-1] and positions[-1] != len(text) - 1:
            raise InferenceError(f"the last token is at {positions[-1]}, not at {len(text) - 1}")
        number = sum(text) + len(text) + self._seed
        logits = (np.arange(self._vocabulary) * 7919 + number * 31) % 997 / np.float32(997)
        logits[_next(text, self._seed)] = 5
        found: NDArray[np.float32] = logits.astype(np.float32)
        return found


class FakeGenerator(StepGenerator):
    """Over a `FakeStepper`, which is at hand as ``stepper``."""

    def __init__(self, stepper: FakeStepper, generation: Generation, vocabulary: int) -> None:
        self.stepper = stepper
        length = min(generation.max_length, stepper.max_length)
        tokens = generation.cache_tokens or _ROWS * length
        limits = Limits(_ROWS, length, tokens, vocabulary)
        super().__init__(stepper, limits, generation.tokenizer, "FAKE")


def generative_tokenizer() -> str:
    """A byte-level tokenizer.json that knows a few words as well, w0 to w99, which are the tokens
    that `FakeStepper` says; a text begins with [BOS]."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    space = "\u0120"  # a blank, as byte-level tokenizers write it
    words = [f"{space}w{number}" for number in range(_WORDS)]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*_SPECIAL, *words, *letters, f"{space}w"]
    merges = [(space, "w")]
    merges += [(word[:-1], word[-1]) for word in sorted(words, key=len)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer: Any = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(piece, special=True) for piece in _SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[BOS] $A", special_tokens=[("[BOS]", vocabulary["[BOS]"])]
    )
    written: str = tokenizer.to_str()
    return written


def vocabulary_size() -> int:
    """Of `generative_tokenizer`."""
    return len(json.loads(generative_tokenizer())["model"]["vocab"])


@dataclass(frozen=True)
class GeneratorCase:
    """What a backend's generator is checked with: a decoder's graph, in the backend's own form and
    with its vocabulary, and what the decoder says.

    ``greedy`` gives the original's most likely answer to a prompt, of so many tokens;
    ``log_probabilities`` those of the token after it [vocabulary], within ``tolerance``. A text has
    up to ``max_length`` tokens, and those of prompts are in ``words``; ``tokenizer`` is a
    tokenizer.json.
    """

    backend: Backend
    graph: Graph
    target: Target
    tokenizer: Path
    words: range
    max_length: int
    greedy: Callable[[Sequence[int], int], list[int]]
    log_probabilities: Callable[[Sequence[int]], NDArray[Any]]
    directory: Path
    tolerance: float = 1e-3

    @contextmanager
    def opened(self) -> Iterator[Generator]:
        """The generator, built once for all checks with one ``directory``."""
        generator = self._open(*self._build())
        try:
            yield generator
        finally:
            generator.close()

    def prompts(self, count: int) -> list[list[int]]:
        """Of different lengths, the same each time."""
        random = np.random.default_rng(0)
        words = [self.words.start, self.words.stop]
        return [random.integers(*words, 1 + 3 * row % 8).tolist() for row in range(count)]

    def _build(self) -> tuple[Path, Compiled, Aside]:
        folder, aside = self.directory / "artifact", Aside(self.directory / "aside")
        kept = self.directory / "compiled.json"
        import msgspec

        from lepton_edge.backend import Compiled

        if kept.exists():
            return folder, msgspec.json.decode(kept.read_bytes(), type=Compiled), aside
        for each in (folder, self.directory / "aside"):
            each.mkdir()
        options = self.backend.Options()
        compiled = self.backend.build(self.graph, self.target, "fp32", options, folder, aside=aside)
        kept.write_bytes(msgspec.json.encode(compiled))
        return folder, compiled, aside

    def _open(self, folder: Path, compiled: Compiled, aside: Aside) -> Generator:
        """Where this machine has no device for it: the core's generator over what a build is proven
        with."""
        if self.backend.probe().devices:
            generation = Generation(self.max_length, self.tokenizer)
            return self.backend.load_generator(folder, compiled, generation)
        stepper = self.backend.prove_steps(folder, compiled, aside)
        limits = Limits(_ROWS, self.max_length, _ROWS * self.max_length)
        return StepGenerator(stepper, limits, self.tokenizer, "PROOF")


def tokens_of(stream: TokenStream) -> list[int]:
    """All of an answer's."""
    return [token for chunk in stream for token in chunk.tokens]


def answers(generator: Generator, requests: Sequence[Request]) -> list[list[int]]:
    """Those to requests that were given together."""
    return [tokens_of(stream) for stream in generator.submit(requests)]


def check_greedy(case: GeneratorCase) -> None:
    """Without a temperature it says what the original says, each time."""
    with case.opened() as generator:
        for prompt in case.prompts(3):
            expected = case.greedy(prompt, 12)
            for _ in range(2):
                assert answers(generator, [Request(prompt, 12)]) == [expected]


def check_batch(case: GeneratorCase) -> None:
    """Texts that are answered together, each of its own length, are answered as alone."""
    prompts = case.prompts(11)
    with case.opened() as generator:
        requests = [Request(prompt, 3 + row) for row, prompt in enumerate(prompts)]
        expected = [case.greedy(each.prompt, each.max_tokens) for each in requests]
        assert answers(generator, requests) == expected
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(lambda each: answers(generator, [each])[0], requests))
        assert found == expected


def check_ends(case: GeneratorCase) -> None:
    """An answer ends with a stop token, which is part of it, or has as many tokens as asked; the
    last chunk says which."""
    prompt = case.prompts(2)[1]
    expected = case.greedy(prompt, 10)
    stop = expected[6]
    place = expected.index(stop) + 1
    with case.opened() as generator:
        for request, length, reason in (
            (Request(prompt, 10), 10, "length"),
            (Request(prompt, 1), 1, "length"),
            (Request(prompt, 10, frozenset({stop, case.words.stop - 1})), None, "stop"),
        ):
            (stream,) = generator.submit([request])
            chunks = list(stream)
            found = [token for chunk in chunks for token in chunk.tokens]
            assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
            assert chunks[-1].finish_reason == reason
            assert found == expected[: len(found)]
            assert length == len(found) or (length is None and len(found) <= place)
            assert length is not None or found[-1] in request.stop_tokens
            times = [chunk.time for chunk in chunks]
            assert times == sorted(times)
            assert times[0] > 0


def check_logprobs(case: GeneratorCase) -> None:
    """Where they are asked for, each token comes with the log-probability that the model itself
    gives it."""
    prompt = case.prompts(3)[2]
    with case.opened() as generator:
        plain, wanted = (
            list(generator.submit([Request(prompt, 5, logprobs=asked)])[0])
            for asked in (False, True)
        )
    assert not any(chunk.logprobs for chunk in plain)
    text = list(prompt)
    for chunk in wanted:
        assert len(chunk.logprobs) == len(chunk.tokens)
        for token, logprob in zip(chunk.tokens, chunk.logprobs, strict=True):
            expected = log_probability(case.log_probabilities(text), token)
            assert abs(logprob - expected) < case.tolerance
            text.append(token)


def check_seeds(case: GeneratorCase) -> None:
    """A seed gives the same answer again, whatever is answered beside it; another one another."""
    prompt = case.prompts(3)[2]

    def request(seed: int | None) -> Request:
        return Request(prompt, 16, sampling=Sampling(temperature=20.0, seed=seed))

    others = [Request(each, 9) for each in case.prompts(4)]
    with case.opened() as generator:
        (alone,) = answers(generator, [request(7)])
        beside = answers(generator, [*others, request(7), request(8)])
        assert beside[-2] == alone
        assert beside[-1] != alone
        assert len({tuple(each) for each in answers(generator, [request(None)] * 3)}) == 3


def check_cancel(case: GeneratorCase) -> None:
    """An answer that is cancelled ends at once, and others go on as if it had not been."""
    first, second = case.prompts(2)
    expected = case.greedy(second, 12)
    long = case.max_length - len(first)
    with case.opened() as generator:
        for _ in range(3):
            cancelled, kept = generator.submit([Request(first, long), Request(second, 12)])
            next(cancelled)
            cancelled.cancel()
            assert len(tokens_of(cancelled)) < long
            assert tokens_of(kept) == expected
        streams = generator.submit([Request(first, long)] * 20)
        for stream in streams:
            stream.cancel()
        assert answers(generator, [Request(second, 12)]) == [expected]


def check_refusals(case: GeneratorCase) -> None:
    """What can never be answered is refused, with both numbers, before what came with it begins."""
    prompt = case.prompts(3)[2]
    good = Request(prompt, 4)
    with case.opened() as generator:
        longest = generator.max_length
        for bad in (
            Request(prompt, longest - len(prompt) + 1),
            Request([prompt[0]] * longest, 1),
            replace(good, adapters=(("no-such-adapter", 1.0),)),
        ):
            error = _assert_raises(InputError, partial(generator.submit, [good, bad]))
            if not bad.adapters:
                assert f"{longest:,}" in str(error)
                assert f"{len(bad.prompt):,}" in str(error)
        assert answers(generator, [good]) == [case.greedy(prompt, 4)]


def check_generator_close(case: GeneratorCase) -> None:
    """Closing ends what is running, with an error for who waits, and is harmless twice; a closed
    generator refuses requests."""
    prompt = case.prompts(3)[2]
    with case.opened() as generator:
        streams = generator.submit([Request(prompt, case.max_length - len(prompt))] * 12)
        next(streams[0])
        threads = [threading.Thread(target=generator.close) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(_PATIENCE)
            assert not thread.is_alive()
        ended = [_error_of(stream) for stream in streams]
        assert all(error is None or isinstance(error, InferenceError) for error in ended)
        assert ended[-1] is not None
        _assert_raises(InferenceError, lambda: generator.submit([Request(prompt, 1)]))


def _error_of(stream: TokenStream) -> Exception | None:
    try:
        tokens_of(stream)
    except InferenceError as error:
        return error
    return None


def _assert_raises(kind: type[Exception], call: Callable[[], object]) -> Exception:
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was not raised")


GENERATOR_CONFORMANCE: tuple[Callable[[GeneratorCase], None], ...] = (
    check_greedy,
    check_batch,
    check_ends,
    check_logprobs,
    check_seeds,
    check_cancel,
    check_refusals,
    check_generator_close,
)
