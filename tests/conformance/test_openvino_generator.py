"""OpenVINO's generator: many requests at a time, ends of every kind, guesses and adapters."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lepton_edge.backend import Generation, Generator
from lepton_edge.errors import BackendError, InferenceError, InputError
from lepton_edge.generation.request import Grammar, Request, TokenStream
from lepton_edge.generation.sampling import Sampling
from tests.conformance.test_openvino_decoder import (
    NOWHERE,
    TOKENS,
    Built,
    build,
    by_torch,
    graph_of,
    prompt,
    tokens_of,
)
from tests.decoders import tiny_decoder
from tests.lora import save_adapter

pytest.importorskip("openvino_genai")
from lepton_edge_openvino import OpenVINOBackend
from lepton_edge_openvino.generator import OpenVINOGenerator

LENGTH = 96
FOREVER = Request(prompt(4), 80)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Built:
    model = tiny_decoder("llama")
    graph, directory = graph_of(model), tmp_path_factory.mktemp("llama")
    return Built(model, graph, directory, build(graph, directory))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Built:
    model = tiny_decoder("llama", hidden_size=16, intermediate_size=24)
    graph, directory = graph_of(model), tmp_path_factory.mktemp("other")
    return Built(model, graph, directory, build(graph, directory))


def opened(built: Built, **changes: Any) -> Generator:
    generation = Generation(**{"max_length": LENGTH, "tokenizer": NOWHERE, **changes})
    return OpenVINOBackend().load_generator(built.directory, built.compiled, generation)


@pytest.fixture(scope="module")
def generator(llama: Built) -> Iterator[Generator]:
    with_end = opened(llama)
    yield with_end
    with_end.close()


def answers(generator: Generator, *requests: Request) -> list[list[int]]:
    return [tokens_of(stream) for stream in generator.submit(requests)]


def text(tokens: list[int]) -> str:
    return b"".join(TOKENS[token] for token in tokens).decode()


def test_a_batch_of_different_lengths_answers_as_each_alone(
    generator: Generator, llama: Built
) -> None:
    prompts = [prompt(length) for length in (1, 40, 7, 33)]
    found = answers(generator, *(Request(each, 12) for each in prompts))
    assert found == [by_torch(llama.model, each, 12) for each in prompts]


def test_many_threads_submit_at_once(generator: Generator, llama: Built) -> None:
    found: dict[int, list[int]] = {}

    def ask(length: int) -> None:
        (found[length],) = answers(generator, Request(prompt(length), 10))

    threads = [threading.Thread(target=ask, args=(length,)) for length in range(2, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {each: by_torch(llama.model, prompt(each), 10) for each in range(2, 10)}


def test_the_log_probabilities_are_the_models_own(generator: Generator, llama: Built) -> None:
    sampling = Sampling(temperature=0.7, top_k=20, seed=4)
    (stream,) = generator.submit([Request(prompt(5), 8, sampling=sampling, logprobs=True)])
    chunks = list(stream)
    tokens = [token for chunk in chunks for token in chunk.tokens]
    found = [value for chunk in chunks for value in chunk.logprobs]
    with torch.no_grad():
        logits = llama.model(torch.tensor([[*prompt(5), *tokens]])).logits[0, 4:-1]
    expected = logits.log_softmax(dim=-1)[range(8), tokens].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_an_answer_ends_with_a_stop_token_or_its_length(generator: Generator, llama: Built) -> None:
    whole = by_torch(llama.model, prompt(6), 12)
    stop = whole[7]
    (stream,) = generator.submit([Request(prompt(6), 12, frozenset({stop}))])
    chunks = list(stream)
    assert [t for chunk in chunks for t in chunk.tokens] == whole[: whole.index(stop) + 1]
    assert chunks[-1].finish_reason == "stop"
    (stream,) = generator.submit([Request(prompt(6), 3)])
    assert list(stream)[-1].finish_reason == "length"


def test_a_seed_gives_the_same_whatever_else_runs(generator: Generator) -> None:
    request = Request(prompt(6), 20, sampling=Sampling(temperature=1.0, seed=7))
    others = [
        Request(prompt(length), 20, sampling=Sampling(temperature=1.0, seed=length))
        for length in (3, 9)
    ]
    (alone,) = answers(generator, request)
    assert answers(generator, others[0], request, others[1])[1] == alone
    assert answers(generator, others[0])[0] != alone


def test_penalties_change_what_comes(generator: Generator) -> None:
    (plain,) = answers(generator, Request(prompt(6), 30))
    sampling = Sampling(frequency_penalty=2.0)
    (varied,) = answers(generator, Request(prompt(6), 30, sampling=sampling))
    assert len(set(varied)) > len(set(plain))


def test_cancelling_frees_the_place_at_once(llama: Built) -> None:
    # The cache holds one text of full length: another begins only where the first is gone.
    generator = opened(llama, cache_tokens=LENGTH)
    try:
        for _ in range(5):
            (stream,) = generator.submit([FOREVER])
            next(stream)
            stream.cancel()
            assert len(list(stream)) < 80
        (found,) = answers(generator, FOREVER)
        assert found == by_torch(llama.model, FOREVER.prompt, 80)
    finally:
        generator.close()


def test_more_than_the_cache_holds_is_answered_in_turn(llama: Built) -> None:
    generator = opened(llama, cache_tokens=LENGTH)
    try:
        requests = [Request(prompt(length), 60) for length in (20, 21, 22)]
        found = answers(generator, *requests)
    finally:
        generator.close()
    assert found == [by_torch(llama.model, each.prompt, 60) for each in requests]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(prompt(90), 7), "90 tokens, and with 7 more it is longer than the model's 96"),
        (Request(prompt(4), 5, sampling=Sampling(logit_bias={5: 1.0})), "logit_bias is not for"),
        (Request(prompt(4), 5, grammar=Grammar("json_schema", "{")), "schema"),
        (Request(prompt(4), 5, grammar=Grammar("regex", "(a")), ""),
        (Request(prompt(4), 5, adapters=(("fr", 1.0),)), "no adapter 'fr'; opened: none"),
    ],
)
def test_what_can_never_be_answered_is_refused_before_anything_begins(
    generator: Generator, request_: Request, message: str
) -> None:
    with pytest.raises(InputError) as refused:
        generator.submit([Request(prompt(4), 5), request_])
    assert message in str(refused.value)


def test_an_answer_is_held_to_a_grammar(generator: Generator) -> None:
    sampling = Sampling(temperature=1.0, seed=3)
    grammar = Grammar("regex", "[0-9]{3}-[0-9]{2}")
    held, free = answers(
        generator,
        Request(prompt(4), 30, frozenset({2}), sampling, grammar=grammar),
        Request(prompt(4), 30, frozenset({2}), sampling),
    )
    assert len(text(held)) == 6
    assert text(held)[3] == "-"
    assert text(held).replace("-", "").isdigit()
    assert not text(free).replace("-", "").isdigit()


def test_a_request_that_the_library_refuses_harms_no_other(
    generator: Generator, llama: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lepton_edge.generation.grammar.to_ebnf", lambda grammar: "root ::= (")
    bad = Request(prompt(5), 10, grammar=Grammar("regex", "a"))
    good = Request(prompt(6), 60)
    (begun,) = generator.submit([good])
    first = list(next(begun).tokens)
    before, refused, after = generator.submit([good, bad, good])
    with pytest.raises(InferenceError, match="openvino-genai could not answer this"):
        list(refused)
    expected = by_torch(llama.model, prompt(6), 60)
    assert first + tokens_of(begun) == expected
    assert [tokens_of(before), tokens_of(after)] == [expected, expected]
    assert answers(generator, good) == [expected]


def test_closing_ends_what_runs_and_what_waits(llama: Built) -> None:
    generator = opened(llama, cache_tokens=LENGTH)
    streams = generator.submit([FOREVER] * 3)
    next(streams[0])
    generator.close()
    generator.close()
    # The cache holds one of them: the last has not begun.
    with pytest.raises(InferenceError, match="the generator is closed"):
        list(streams[2])
    assert all(stream.ended for stream in streams)
    with pytest.raises(InferenceError, match="the generator is closed"):
        generator.submit([FOREVER])


def test_a_cache_that_does_not_fit_is_refused_with_both_numbers(llama: Built) -> None:
    with pytest.raises(BackendError, match=r"takes [\d,]+ MiB, and [\d,]+ MiB of memory are free"):
        opened(llama, cache_tokens=10**12)
    with pytest.raises(BackendError, match=r"takes a cache of [\d,]+ MiB, and half of the free"):
        opened(llama, max_length=10**12)


@pytest.mark.parametrize("way", ["prompt_lookup", "draft", "itself"])
def test_guesses_change_nothing(llama: Built, other: Built, way: str) -> None:
    draft = {"draft": other.directory, "itself": llama.directory}.get(way)
    generator = opened(llama, prompt_lookup=draft is None, draft=draft)
    prompts = [prompt(length) for length in (5, 30)]
    whole = [by_torch(llama.model, each, 40) for each in prompts]
    stop = whole[0][20]
    try:
        assert answers(generator, *(Request(each, 40) for each in prompts)) == whole
        (found,) = answers(generator, Request(prompts[0], 40, frozenset({stop})))
        assert found == whole[0][: whole[0].index(stop) + 1]
        drawn = Request(prompts[0], 10, sampling=Sampling(temperature=1.0, seed=2))
        if draft is None:
            assert answers(generator, drawn) == answers(generator, drawn)
        else:
            with pytest.raises(InputError, match="with a draft, openvino-genai gives only"):
                generator.submit([drawn])
    finally:
        generator.close()


class CancelledInBetween:
    """openvino-genai's handle, whose stream is cancelled when it says that there is a token."""

    def __init__(self, handle: Any, stream: TokenStream) -> None:
        self._handle = handle
        self._cancel = threading.Thread(target=stream.cancel)

    def can_read(self) -> bool:
        found = bool(self._handle.can_read())
        if found and self._cancel.ident is None:
            self._cancel.start()
            self._cancel.join(0.5)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handle, name)


def test_a_stream_that_is_cancelled_as_its_tokens_come_stops_nobody_else(llama: Built) -> None:
    generator = opened(llama)
    assert isinstance(generator, OpenVINOGenerator)
    try:
        with generator._work:  # its thread waits
            (stream,) = generator.submit([FOREVER])
            generator._let_in()
            running = generator._running[stream]
            running.handle = CancelledInBetween(running.handle, stream)
        list(stream)
        assert stream.ended
        short = Request(prompt(5), 4)
        assert answers(generator, short) == [by_torch(llama.model, prompt(5), 4)]
    finally:
        generator.close()


def test_a_failure_while_tokens_are_handed_out_is_everybodys_error(llama: Built) -> None:
    generator = opened(llama)
    assert isinstance(generator, OpenVINOGenerator)

    class Broken:
        def can_read(self) -> bool:
            raise RuntimeError("it fell over")

        def cancel(self) -> None:
            pass

    try:
        with generator._work:
            one, other = generator.submit([FOREVER, FOREVER])
            generator._let_in()
            real = generator._running[one].handle
            generator._running[one].handle = Broken()
        for stream in (one, other):
            with pytest.raises(InferenceError, match="it fell over"):
                list(stream)
        with pytest.raises(InferenceError, match="the generator is closed"):
            generator.submit([FOREVER])
        real.cancel()
    finally:
        generator.close()


def test_each_request_has_its_own_adapters(llama: Built, tmp_path: Path) -> None:
    models = {
        "none": llama.model,
        "one": save_adapter(llama.model, tmp_path / "one", 1, 4, 8.0),
        "two": save_adapter(llama.model, tmp_path / "two", 2, 2, 1.0),
    }
    files = {name: tmp_path / name / "adapter_model.safetensors" for name in ("one", "two")}
    # Longer than a page of the cache: what another adapter left there is not taken for its own.
    ids = prompt(40)
    expected = {name: by_torch(model, ids, 12) for name, model in models.items()}
    assert len({tuple(each) for each in expected.values()}) == 3
    generator = opened(llama, adapters=files)
    try:
        order = ["none", "one", "two", "one", "none"]
        requests = [
            Request(ids, 12, adapters=() if name == "none" else ((name, 1.0),)) for name in order
        ]
        assert answers(generator, *requests) == [expected[name] for name in order]
        # With no strength it is the model alone.
        silent = Request(ids, 12, adapters=(("one", 0.0),))
        assert answers(generator, silent) == [expected["none"]]
    finally:
        generator.close()


def test_an_adapter_of_another_model_is_refused(llama: Built, other: Built, tmp_path: Path) -> None:
    save_adapter(other.model, tmp_path / "other", 1, 2, 2.0)
    file = tmp_path / "other" / "adapter_model.safetensors"
    with pytest.raises(InputError, match="the adapter 'x' is not for this model") as refused:
        opened(llama, adapters={"x": file})
    assert "the layer takes and gives [32, 32]" in str(refused.value)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"nothing")
    with pytest.raises(InputError, match="'y' is not a safetensors file"):
        opened(llama, adapters={"y": broken})
    with pytest.raises(BackendError, match="does not guess tokens for a model with adapters"):
        opened(llama, adapters={"x": file}, prompt_lookup=True)
