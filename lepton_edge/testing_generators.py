"""For tests: the checks that every generator passes.

A backend's own tests make a `GeneratorCase` of a decoder that it can compile and run every check in
`GENERATOR_CONFORMANCE` on it, as with those of `lepton_edge.testing`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from lepton_edge.backend import Aside, Backend, Compiled, Generation, Generator, Graph
from lepton_edge.errors import InferenceError, InputError
from lepton_edge.generation.request import Request, TokenStream
from lepton_edge.generation.sampling import Sampling, log_probability
from lepton_edge.generation.stepping import Limits, StepGenerator
from lepton_edge.testing_decoder import (
    WORDS,
    FakeStepper,
    fake_answer,
    generative_graph,
    generative_tokenizer,
    vocabulary_size,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from lepton_edge.target import Target

_ROWS = 8
_PATIENCE = 60  # seconds that a check waits for what should come at once


@dataclass(frozen=True)
class GeneratorCase:
    """What a backend's generator is checked with: a decoder's graph, in the backend's own form and
    with its vocabulary, and what the decoder says.

    ``greedy`` gives the original's most likely answer to a prompt, of so many tokens; ``logits``
    those of the token after a text [vocabulary], by which log-probabilities are within
    ``tolerance``. A text has up to ``max_length`` tokens, and those of prompts are in ``words``;
    ``tokenizer`` is a tokenizer.json.
    """

    backend: Backend
    graph: Graph
    target: Target
    tokenizer: Path
    words: range
    max_length: int
    greedy: Callable[[Sequence[int], int], list[int]]
    logits: Callable[[Sequence[int]], NDArray[Any]]
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
        lengths = [1 + 3 * row % 8 for row in range(count)]
        low, high = self.words.start, self.words.stop
        return [random.integers(low, high, length).tolist() for length in lengths]

    def _build(self) -> tuple[Path, Compiled, Aside]:
        folder, aside = self.directory / "artifact", Aside(self.directory / "aside")
        kept = self.directory / "compiled.json"
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


def fake_generator_case(backend: Backend, target: Target, directory: Path) -> GeneratorCase:
    """The case of `lepton_edge.testing.FakeBackend`."""
    tokenizer = directory / "tokenizer.json"
    tokenizer.write_text(generative_tokenizer(), encoding="utf-8")

    def greedy(prompt: Sequence[int], count: int) -> list[int]:
        return fake_answer(prompt, count, stops=False)

    def logits(text: Sequence[int]) -> NDArray[Any]:
        stepper = FakeStepper(0, vocabulary_size(), len(text))
        stepper.start(1)
        ids = np.array([text])
        found: NDArray[Any] = stepper.step(ids, np.ones_like(ids), np.arange(len(text))[None])[0]
        return found

    graph = generative_graph()
    return GeneratorCase(backend, graph, target, tokenizer, WORDS, 96, greedy, logits, directory)


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
            expected = log_probability(case.logits(text), token)
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
        streams = generator.submit([Request(prompt, case.max_length - len(prompt))] * 40)
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
