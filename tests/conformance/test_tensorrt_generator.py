"""Generating with TensorRT from an artifact on, on a GPU that is faked byte by byte."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("lepton_edge_tensorrt", reason="the TensorRT backend is not installed")

from lepton_edge_tensorrt import backend as backends
from lepton_edge_tensorrt.plan import ENGINE, PLAN, BuildPlan, Range
from lepton_edge_tensorrt.stepper import TensorRTStepper
from numpy.typing import NDArray

from lepton_edge.backend import Aside, Compiled, Generation, Generator, Graph
from lepton_edge.errors import BackendError, DeferredError, InferenceError, InputError
from lepton_edge.generation.request import Grammar, Request
from lepton_edge.generation.sampling import Sampling
from lepton_edge.target import MIB, TARGETS
from lepton_edge.testing_generators import (
    GENERATOR_CONFORMANCE,
    GeneratorCase,
    answers,
    tokens_of,
)
from tests import grammars
from tests.conformance import fake_gpu, fake_trt
from tests.conformance.fake_gpu import FakeGpu
from tests.conformance.tensorrt_parts import assert_all_released, llama
from tests.decoders import VOCABULARY

BACKEND = backends.TensorRTBackend()
NEW, LENGTH, ROWS = 24, 120, 4  # of the engine: new tokens of a step, tokens of a text, texts
LAYERS, HEADS, SIZE = 2, 2, 8
EACH = 2 * LAYERS * 2 * HEADS * SIZE * 4  # two sets of keys and values in fp32
# Buffers on the GPU: the engine, a context, its scratch memory, and what goes in and comes out.
WITHOUT_CACHE = 1 + 1 + 1 + 4
STEP = 10_000  # bytes of the tensors of a step, beside the cache
SETTINGS = {"flavour": "tensorrt", "compute": "fp32"}


@dataclass(frozen=True)
class Decoder:
    """A torch model, and the files of an artifact of it."""

    model: Any
    graph: Graph
    compiled: Compiled
    folder: Path


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    folder = tmp_path_factory.mktemp("decoder")
    model, graph, onnx = llama()
    profile = _profile(graph)
    shapes = {name: (each.smallest, each.best, each.largest) for name, each in profile.items()}
    (folder / ENGINE).write_bytes(fake_trt.engine_bytes(onnx, [shapes]))
    plan = BuildPlan(
        graph="0",
        precision="fp32",
        profiles=(profile,),
        workspace=1,
        capabilities=("8.7",),
        memory=1,
    )
    (folder / PLAN).write_bytes(plan.encoded())
    compiled = Compiled("fp32", graph.inputs, graph.outputs, "tensorrt 10.3.0", {**SETTINGS})
    return Decoder(model, graph, compiled, folder)


def _profile(graph: Graph) -> dict[str, Range]:
    def shape(spec: Any, **sizes: int) -> tuple[int, ...]:
        return tuple(size if isinstance(size, int) else sizes[size] for size in spec.shape)

    return {
        spec.name: Range(
            shape(spec, batch=1, length=1, past=0, total=1),
            shape(spec, batch=1, length=1, past=30, total=31),
            shape(spec, batch=ROWS, length=NEW, past=LENGTH - 1, total=LENGTH - 1 + NEW),
        )
        for spec in graph.inputs
    }


def installed(monkeypatch: pytest.MonkeyPatch, **options: Any) -> FakeGpu:
    gpu = fake_gpu.install(monkeypatch, **options)
    monkeypatch.setattr(backends, "flavour", lambda name: fake_trt.flavour(gpu))
    return gpu


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    made = installed(monkeypatch)
    yield made
    assert_all_released(made)


@contextmanager
def generating(decoder: Decoder, device: str | None = None, **options: Any) -> Iterator[Generator]:
    options = {"max_length": LENGTH, "tokenizer": decoder.folder / "tokenizer.json", **options}
    generation = Generation(**options)
    generator = BACKEND.load_generator(decoder.folder, decoder.compiled, generation, device)
    try:
        yield generator
    finally:
        generator.close()


def greedy(decoder: Decoder, prompt: Sequence[int], count: int) -> list[int]:
    """The original's, whatever would end it."""
    import torch

    text = torch.tensor([list(prompt)])
    found = decoder.model.generate(
        text, max_new_tokens=count, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    tokens: list[int] = found[0, len(prompt) :].tolist()
    return tokens


PROMPTS = [[5, 9, 11, 20, 33], [7, 8], [40], [*range(3, 3 + NEW + 9)]]


# What it answers.


@pytest.mark.parametrize("check", GENERATOR_CONFORMANCE, ids=lambda check: check.__name__)
def test_a_generator_on_a_gpu_conforms(
    check: Callable[[GeneratorCase], None], gpu: FakeGpu, decoder: Decoder, tmp_path: Path
) -> None:
    class OnTheGpu(GeneratorCase):
        @contextmanager
        def opened(self) -> Iterator[Generator]:
            with generating(decoder) as generator:
                yield generator

    def logits(text: Sequence[int]) -> NDArray[Any]:
        import torch

        with torch.no_grad():
            found = decoder.model(torch.tensor([list(text)])).logits[0, -1].numpy()
        return np.asarray(found)

    check(
        OnTheGpu(
            backend=BACKEND,
            graph=decoder.graph,
            target=TARGETS["jetson-orin"],
            tokenizer=tmp_path / "tokenizer.json",
            words=range(3, VOCABULARY),
            max_length=LENGTH,
            greedy=lambda prompt, count: greedy(decoder, prompt, count),
            logits=logits,
            directory=tmp_path,
        )
    )


def test_prompts_of_any_length_are_answered_as_torch_does(gpu: FakeGpu, decoder: Decoder) -> None:
    """One of them has more tokens than a step takes."""
    requests = [Request(prompt, 20) for prompt in PROMPTS]
    expected = [greedy(decoder, prompt, 20) for prompt in PROMPTS]
    with generating(decoder) as generator:
        assert answers(generator, requests) == expected
        assert [answers(generator, [each])[0] for each in requests] == expected


def test_more_texts_than_the_engine_takes_are_several_batches(
    gpu: FakeGpu, decoder: Decoder
) -> None:
    prompts = [[3 + number] for number in range(2 * ROWS + 1)]
    with generating(decoder) as generator:
        before = gpu.runs
        found = answers(generator, [Request(prompt, 3) for prompt in prompts])
        assert gpu.runs - before == 3 * 3
    assert found == [greedy(decoder, prompt, 3) for prompt in prompts]


def test_an_answer_is_held_to_a_grammar(gpu: FakeGpu, decoder: Decoder, tmp_path: Path) -> None:
    tokenizer = grammars.write_tokenizer(tmp_path / "tokenizer.json")
    # The model's tokens are the bytes up to 63: blanks, digits and signs.
    held = Request([5], 20, grammar=Grammar("regex", "[0-9]{2}:[0-9]{2}"))
    with generating(decoder, tokenizer=tokenizer) as generator:
        text, plain = answers(generator, [held, Request([5], 6)])
    hours, minutes = bytes(text).decode().split(":")
    assert len(hours) == len(minutes) == 2
    assert (hours + minutes).isdigit()
    assert plain == greedy(decoder, [5], 6)


def test_it_says_what_it_runs_on(gpu: FakeGpu, decoder: Decoder) -> None:
    gpu.count = 2
    with generating(decoder, device="GPU.1") as generator:
        assert generator.device == "GPU.1"
        assert generator.max_length == LENGTH
        assert generator.details["compute"] == "fp32"
        assert generator.details["gpu"] == "Fake GPU 1"
        assert generator.details["batch"] == ROWS
        assert "10.3.0" in str(generator.details["flavour"])
        assert answers(generator, [Request([7], 3)]) == [greedy(decoder, [7], 3)]


def test_a_bundles_shorter_texts_are_its_limit(gpu: FakeGpu, decoder: Decoder) -> None:
    with generating(decoder, max_length=50) as generator:
        assert generator.max_length == 50
        assert answers(generator, [Request([7], 49)]) == [greedy(decoder, [7], 49)]
        with pytest.raises(InputError, match=r"1 tokens, and with 50 more .* 50"):
            generator.submit([Request([7], 50)])
    with generating(decoder, max_length=9999) as generator:
        assert generator.max_length == LENGTH


def test_a_bias_of_a_token_that_the_model_lacks_is_refused(gpu: FakeGpu, decoder: Decoder) -> None:
    biased = Request([7], 3, sampling=Sampling(logit_bias={VOCABULARY: 1}))
    with generating(decoder) as generator, pytest.raises(InputError, match=r"0 to 63"):
        generator.submit([biased])


# What it holds.


def test_the_cache_is_given_back_after_each_batch(gpu: FakeGpu, decoder: Decoder) -> None:
    with generating(decoder) as generator:
        for prompts in (PROMPTS[:1], PROMPTS):
            answers(generator, [Request(prompt, 30) for prompt in prompts])
            _wait_until(lambda: len(gpu.memory.device) == WITHOUT_CACHE)


def test_what_is_cancelled_gives_its_cache_back(gpu: FakeGpu, decoder: Decoder) -> None:
    with generating(decoder) as generator:
        streams = generator.submit([Request([5], LENGTH - 1)] * ROWS)
        next(streams[0])
        for stream in streams:
            stream.cancel()
        _wait_until(lambda: len(gpu.memory.device) == WITHOUT_CACHE)
        assert answers(generator, [Request([7], 3)]) == [greedy(decoder, [7], 3)]


def _wait_until(condition: Callable[[], bool]) -> None:
    """The generator's thread frees a cache just after the last token was given."""
    done = threading.Event()
    for _ in range(2000):
        if condition():
            return
        done.wait(0.005)
    raise AssertionError("it did not come to that")


def test_closing_while_it_runs_gives_everything_back(gpu: FakeGpu, decoder: Decoder) -> None:
    with generating(decoder) as generator:
        streams = generator.submit([Request([5], LENGTH - 1)] * (ROWS + 1))
        next(streams[0])
        generator.close()
        with pytest.raises(InferenceError, match="closed"):
            tokens_of(streams[-1])
        assert_all_released(gpu)


def test_a_launch_that_fails_ends_its_batch_and_the_next_one_works(
    gpu: FakeGpu, decoder: Decoder
) -> None:
    with generating(decoder) as generator:
        for name in ("execute_async_v3", "cudaMemcpyAsync", "cudaStreamSynchronize", "cudaMalloc"):
            gpu.fail[name] = gpu.calls[name] + 3
            for stream in generator.submit([Request([5], 40), Request([7], 40)]):
                with pytest.raises(InferenceError, match="cannot generate"):
                    tokens_of(stream)
            assert answers(generator, [Request([7], 3)]) == [greedy(decoder, [7], 3)]


# The cache and the GPU's memory.


def gpu_with_room(
    monkeypatch: pytest.MonkeyPatch, decoder: Decoder, tokens: int, spare: int = 0
) -> FakeGpu:
    """One that has room for a cache of so many tokens, and for not one more, beside the engine and
    what its steps need: that takes a share of the memory, and more where all of it is so small."""
    gpu = installed(monkeypatch)
    stepper = BACKEND.prove_steps(decoder.folder, decoder.compiled, Aside())
    assert isinstance(stepper, TensorRTStepper)
    used = gpu.memory.total - stepper.free_memory()
    stepper.close()
    return installed(monkeypatch, total=used + -(-tokens * EACH * 10 // 9) + spare)


def test_a_cache_that_does_not_fit_is_refused_with_both_numbers_and_what_would(
    monkeypatch: pytest.MonkeyPatch, decoder: Decoder
) -> None:
    gpu = gpu_with_room(monkeypatch, decoder, 300)
    with pytest.raises(BackendError, match="cache of 50,000 tokens takes 24") as error:
        BACKEND.load_generator(
            decoder.folder,
            decoder.compiled,
            Generation(LENGTH, decoder.folder / "tokenizer.json", cache_tokens=50_000),
        )
    assert f"takes {50_000 * EACH / MIB:.1f} MiB, and" in error.value.message
    assert_all_released(gpu)
    hint = str(error.value.hint)
    fitting = int(hint.partition("cache_tokens=")[2].partition(",")[0])
    assert fitting == 300
    with generating(decoder, cache_tokens=fitting) as generator:
        assert generator.details["cache_tokens"] == fitting
    assert_all_released(gpu)


@pytest.mark.parametrize("cached", [65, 100, 130, 260, 300, 479])
def test_a_cache_that_was_granted_is_there_when_it_is_full(
    monkeypatch: pytest.MonkeyPatch, decoder: Decoder, cached: int
) -> None:
    """On a GPU with room for no more: whatever batches are made of it."""
    gpu = gpu_with_room(monkeypatch, decoder, cached, STEP)
    lengths = [1, 9, 40, 65, 90]
    with generating(decoder, cache_tokens=cached) as generator:
        for rows in range(1, ROWS + 1):
            for length in lengths:
                if length + 1 > generator.max_length:
                    continue
                requests = [Request([5 + row], length) for row in range(rows)]
                found = answers(generator, requests)
                assert [len(each) for each in found] == [length] * rows
    assert_all_released(gpu)


def test_without_a_wish_the_cache_takes_what_is_free_and_no_more_than_the_engine_can(
    monkeypatch: pytest.MonkeyPatch, decoder: Decoder
) -> None:
    gpu = installed(monkeypatch)
    with generating(decoder) as generator:
        assert generator.details["cache_tokens"] == ROWS * LENGTH
    gpu = gpu_with_room(monkeypatch, decoder, 400)
    with generating(decoder) as generator:
        tokens = generator.details["cache_tokens"]
        assert isinstance(tokens, int)
        assert LENGTH <= tokens < ROWS * LENGTH
        requests = [Request([5 + row], LENGTH - 1) for row in range(ROWS)]
        found = answers(generator, requests)
    assert [len(each) for each in found] == [LENGTH - 1] * ROWS
    assert_all_released(gpu)


def test_a_gpu_without_room_for_one_text_is_an_error_at_once(
    monkeypatch: pytest.MonkeyPatch, decoder: Decoder
) -> None:
    gpu = gpu_with_room(monkeypatch, decoder, LENGTH - 1)
    with (
        pytest.raises(BackendError, match=rf"cache of {LENGTH} tokens takes .* free for it"),
        generating(decoder),
    ):
        pass
    assert_all_released(gpu)


# What it has not.


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"adapters": {"poet": Path("poet.safetensors")}}, "LoRA adapters"),
        ({"draft": Path("draft")}, "with a draft"),
        ({"prompt_lookup": True}, "prompt look-up"),
    ],
)
def test_what_only_other_backends_have_is_refused_before_the_engine_is_read(
    gpu: FakeGpu, decoder: Decoder, options: dict[str, Any], says: str
) -> None:
    with (
        pytest.raises(BackendError, match=f"TensorRT backend has no .*{says}") as caught,
        generating(decoder, **options),
    ):
        pass
    assert caught.value.hint
    assert gpu.calls["deserialize_cuda_engine"] == 0


def test_an_artifact_that_was_not_compiled_here_yet_says_how_it_is(
    gpu: FakeGpu, decoder: Decoder, tmp_path: Path
) -> None:
    later = replace(decoder, compiled=decoder.compiled.with_settings({}))
    deferred = Compiled(
        "fp32", decoder.graph.inputs, decoder.graph.outputs, "tensorrt 10.3.0", {**SETTINGS},
        deferred=True,
    )  # fmt: skip
    with (
        pytest.raises(DeferredError, match="not compiled for Fake GPU 0") as caught,
        generating(replace(later, compiled=deferred)),
    ):
        pass
    assert "finalize" in str(caught.value.hint)


def test_without_a_gpu_there_is_no_generator(gpu: FakeGpu, decoder: Decoder) -> None:
    gpu.count = 0
    with pytest.raises(BackendError, match="finds no GPU"), generating(decoder):
        pass


# What a build is proven with.


def test_a_build_is_proven_on_a_gpu_that_it_is_for(
    gpu: FakeGpu, decoder: Decoder, tmp_path: Path
) -> None:
    stepper = BACKEND.prove_steps(decoder.folder, decoder.compiled, Aside(tmp_path))
    try:
        assert stepper.details["gpu"] == "Fake GPU 0"
        assert "through" not in stepper.details
        assert stepper.max_length == LENGTH
        stepper.start(1)
        logits = stepper.step(np.array([[5]]), np.array([[1]]), np.array([[0]]))
        assert logits[0].argmax() == greedy(decoder, [5], 1)[0]
    finally:
        stepper.close()
        stepper.close()
    assert_all_released(gpu)
