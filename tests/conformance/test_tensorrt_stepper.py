"""A decoder's step, with its cache on a GPU that is faked byte by byte."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("lepton_edge_tensorrt", reason="the TensorRT backend is not installed")

from lepton_edge_tensorrt.engine import open_engine
from lepton_edge_tensorrt.stepper import TensorRTStepper
from numpy.typing import NDArray

from lepton_edge.backend import Compiled, Graph
from lepton_edge.errors import BackendError, InferenceError, LeptonError
from lepton_edge.generation.loop import generate
from lepton_edge.generation.sampling import Sampling
from tests.conformance import fake_gpu, fake_trt
from tests.conformance.fake_gpu import FakeGpu
from tests.conformance.tensorrt_parts import COMPILED, PROFILES, assert_all_released, graph, llama
from tests.decoders import VOCABULARY

NEW = 24  # the most new tokens of a step
TOTAL = 120
ROWS = 4
Ints = NDArray[np.int64]


@pytest.fixture(scope="module")
def decoder() -> tuple[Any, Compiled, bytes]:
    """A torch model, and an engine of it."""
    model, graph, onnx = llama()
    compiled = Compiled("fp32", graph.inputs, graph.outputs, "tensorrt 10.3.0")
    return model, compiled, fake_trt.engine_bytes(onnx, [profile(graph, n) for n in (1, ROWS)])


def profile(graph: Graph, rows: int) -> dict[str, fake_trt.Range]:
    def shape(spec: Any, **sizes: int) -> tuple[int, ...]:
        return tuple(size if isinstance(size, int) else sizes[size] for size in spec.shape)

    return {
        spec.name: (
            shape(spec, batch=1, length=1, past=0, total=1),
            shape(spec, batch=rows, length=1, past=30, total=31),
            shape(spec, batch=rows, length=NEW, past=TOTAL - 1, total=TOTAL - 1 + NEW),
        )
        for spec in graph.inputs
    }


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    return fake_gpu.install(monkeypatch)


@pytest.fixture
def stepper(gpu: FakeGpu, decoder: tuple[Any, Compiled, bytes]) -> Iterator[TensorRTStepper]:
    _, compiled, data = decoder
    made = TensorRTStepper(open_engine(data, fake_trt.flavour(gpu)), compiled)
    yield made
    made.close()
    assert_all_released(gpu)


def texts(rows: int, length: int, seed: int = 0, prompt: int = 3) -> tuple[Ints, Ints]:
    """Token ids and their mask, rows but the first padded on the left inside of the prompt."""
    random = np.random.default_rng(seed)
    ids = random.integers(3, VOCABULARY, (rows, length))
    mask = np.ones_like(ids)
    for row in range(1, rows):
        mask[row, : int(random.integers(0, prompt))] = 0
    return ids * mask, mask


def positions_of(mask: Ints) -> Ints:
    return np.maximum(mask.cumsum(axis=1) - 1, 0)


def stateless(model: Any, ids: Ints, mask: Ints) -> NDArray[np.float32]:
    """The logits after each of the tokens, by torch, from nothing."""
    import torch

    with torch.no_grad():
        logits = model(
            input_ids=torch.from_numpy(ids),
            attention_mask=torch.from_numpy(mask),
            position_ids=torch.from_numpy(positions_of(mask)),
        ).logits
    found: NDArray[np.float32] = logits.numpy()
    return found


def follow(
    stepper: TensorRTStepper, model: Any, rows: int, prompt: int, steps: int, seed: int = 0
) -> None:
    """Each step's logits are those of a run of the whole text."""
    ids, mask = texts(rows, prompt + steps, seed, prompt)
    positions = positions_of(mask)
    stepper.start(rows)
    expected = stateless(model, ids, mask)
    start = 0
    for end in range(prompt, prompt + steps + 1):
        logits = stepper.step(ids[:, start:end], mask[:, :end], positions[:, start:end])
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, expected[:, end - 1], rtol=1e-4, atol=1e-4)
        start = end


@pytest.mark.parametrize(("rows", "prompt"), [(1, 1), (1, 9), (3, 9), (ROWS, NEW)])
def test_steps_equal_a_run_of_the_whole_text(
    stepper: TensorRTStepper, decoder: tuple[Any, Compiled, bytes], rows: int, prompt: int
) -> None:
    follow(stepper, decoder[0], rows, prompt, 20)


def test_a_cache_that_grows_keeps_its_tokens(
    gpu: FakeGpu, stepper: TensorRTStepper, decoder: tuple[Any, Compiled, bytes]
) -> None:
    """Beyond the room for 64 that it has at first."""
    follow(stepper, decoder[0], 2, NEW, TOTAL - NEW)
    held = gpu.memory.total - gpu.memory.free
    follow(stepper, decoder[0], 2, NEW, 3, seed=1)
    assert gpu.memory.total - gpu.memory.free == held


def test_texts_one_after_another_do_not_see_each_other(
    stepper: TensorRTStepper, decoder: tuple[Any, Compiled, bytes]
) -> None:
    for seed, rows in enumerate((1, 4, 2, 3, 1)):
        follow(stepper, decoder[0], rows, 5, 3, seed)


def test_a_prompt_longer_than_a_step_is_taken_in_turns(
    stepper: TensorRTStepper, decoder: tuple[Any, Compiled, bytes]
) -> None:
    for rows, prompt in ((1, NEW + 1), (3, 3 * NEW + 5)):
        follow(stepper, decoder[0], rows, prompt, 3)


def test_the_cache_is_swapped_and_not_copied(
    gpu: FakeGpu, stepper: TensorRTStepper, decoder: tuple[Any, Compiled, bytes]
) -> None:
    ids, mask = texts(2, 12)
    positions = positions_of(mask)
    stepper.start(2)
    stepper.step(ids[:, :10], mask[:, :10], positions[:, :10])
    copies, allocated = gpu.calls["cudaMemcpyAsync"], gpu.calls["cudaMalloc"]
    for end in (11, 12):
        stepper.step(ids[:, end - 1 : end], mask[:, :end], positions[:, end - 1 : end])
    assert gpu.calls["cudaMemcpyAsync"] - copies == 2 * 4  # ids, mask, positions; logits
    assert gpu.calls["cudaMalloc"] == allocated


def test_generating_is_torchs_greedy(
    gpu: FakeGpu, stepper: TensorRTStepper, decoder: tuple[Any, Compiled, bytes]
) -> None:
    import torch

    model = decoder[0]
    prompts = [[5, 9, 11, 20, 33], [7, 8], [40]]
    for given in (prompts, prompts[:1]):
        found = [list(prompt) for prompt in given]
        for step in generate(stepper, given, Sampling(temperature=0), 30, (), 0):
            for text, token in zip(found, step.tokens, strict=True):
                assert token is not None
                text.append(token)
        for prompt, text in zip(given, found, strict=True):
            expected = model.generate(
                torch.tensor([prompt]), max_new_tokens=30, do_sample=False, eos_token_id=None
            )
            assert text == expected[0].tolist()
    assert stepper.max_length == TOTAL


def test_tensorrt_for_rtx_compiles_nothing_for_one_length(
    gpu: FakeGpu, decoder: tuple[Any, Compiled, bytes]
) -> None:
    model, compiled, data = decoder
    engine = open_engine(data, fake_trt.flavour(gpu, rtx=True))
    stepper = TensorRTStepper(engine, compiled)
    follow(stepper, model, 2, 5, 3)
    (config,) = engine._engine.configs
    assert config.dynamic_shapes_kernel_specialization_strategy == "NONE"
    assert config.cuda_graph_strategy == "DISABLED"
    stepper.close()
    del engine, config
    assert_all_released(gpu)


def test_what_does_not_fit_is_refused_with_both_numbers(
    stepper: TensorRTStepper, decoder: tuple[Any, Compiled, bytes]
) -> None:
    for rows in (0, ROWS + 1):
        with pytest.raises(InferenceError, match=f"generate {rows} texts .* takes 1 to {ROWS}"):
            stepper.start(rows)
    ids, mask = texts(2, TOTAL + 1)
    positions = positions_of(mask)
    stepper.start(2)
    with pytest.raises(InferenceError, match=f"{TOTAL + 1} tokens, .* up to {TOTAL}"):
        stepper.step(ids, mask, positions)
    for wrong in ((ids[:1, :5], mask[:, :5]), (ids[:, :5], mask[:, :6]), (ids[:, :0], mask[:, :0])):
        with pytest.raises(InferenceError, match=r"a step of . takes ids, mask and positions"):
            stepper.step(*wrong, positions[:, : wrong[0].shape[1]])
    follow(stepper, decoder[0], 2, 5, 2)


def test_a_decoder_without_a_text_refuses_a_step(stepper: TensorRTStepper) -> None:
    ids, mask = texts(1, 3)
    with pytest.raises(InferenceError, match="not started"):
        stepper.step(ids, mask, positions_of(mask))
    stepper.start(1)
    stepper.step(ids, mask, positions_of(mask))
    stepper.free()
    with pytest.raises(InferenceError, match="not started"):
        stepper.step(ids, mask, positions_of(mask))


def test_closing_frees_the_cache_and_a_start_makes_a_new_one(
    gpu: FakeGpu, stepper: TensorRTStepper, decoder: tuple[Any, Compiled, bytes]
) -> None:
    follow(stepper, decoder[0], 2, 5, 2)
    before = len(gpu.memory.device)
    stepper.free()
    stepper.free()
    assert before - len(gpu.memory.device) == 2 * 4  # two sets, of keys and values of two layers
    follow(stepper, decoder[0], 3, 5, 2)


def test_a_released_decoder_refuses_and_again_is_harmless(
    gpu: FakeGpu, decoder: tuple[Any, Compiled, bytes]
) -> None:
    model, compiled, data = decoder
    stepper = TensorRTStepper(open_engine(data, fake_trt.flavour(gpu)), compiled)
    follow(stepper, model, 1, 3, 1)
    stepper.close()
    assert_all_released(gpu)
    stepper.close()
    stepper.free()
    with pytest.raises(InferenceError, match="closed"):
        stepper.start(1)
    assert_all_released(gpu)


def test_decoders_and_their_engine_are_shared(
    gpu: FakeGpu, decoder: tuple[Any, Compiled, bytes], tmp_path: Path
) -> None:
    model, compiled, data = decoder
    path = tmp_path / "model.engine"
    path.write_bytes(data)
    flavour = fake_trt.flavour(gpu)
    first, second = (TensorRTStepper(open_engine(path, flavour), compiled) for _ in range(2))
    assert gpu.calls["deserialize_cuda_engine"] == 1
    follow(first, model, 2, 5, 3)
    follow(second, model, 2, 6, 3)
    first.close()
    follow(second, model, 1, 6, 3)
    second.close()
    assert_all_released(gpu)


def test_a_failed_step_ends_the_text_and_another_can_start(
    gpu: FakeGpu, stepper: TensorRTStepper, decoder: tuple[Any, Compiled, bytes]
) -> None:
    ids, mask = texts(2, 9)
    positions = positions_of(mask)
    for name in ("execute_async_v3", "cudaMemcpyAsync", "cudaStreamSynchronize"):
        stepper.start(2)
        stepper.step(ids[:, :8], mask[:, :8], positions[:, :8])
        gpu.fail[name] = gpu.calls[name] + 1
        with pytest.raises(InferenceError):
            stepper.step(ids[:, 8:], mask, positions[:, 8:])
        with pytest.raises(InferenceError, match="not started"):
            stepper.step(ids[:, 8:], mask, positions[:, 8:])
        follow(stepper, decoder[0], 2, NEW, 2)


def test_each_call_that_fails_is_an_error_of_ours_and_leaves_nothing_behind(
    decoder: tuple[Any, Compiled, bytes],
) -> None:
    _, compiled, data = decoder
    ids, mask = texts(2, 8)
    positions = positions_of(mask)

    def scenario(gpu: FakeGpu) -> None:
        stepper = TensorRTStepper(open_engine(data, fake_trt.flavour(gpu)), compiled)
        try:
            stepper.start(2)
            stepper.step(ids[:, :7], mask[:, :7], positions[:, :7])
            stepper.step(ids[:, 7:], mask, positions[:, 7:])
            stepper.free()
        finally:
            stepper.close()

    def run(**failing: int) -> tuple[FakeGpu, bool]:
        with pytest.MonkeyPatch.context() as patch:
            gpu = fake_gpu.install(patch)
            gpu.fail.update(failing)
            try:
                scenario(gpu)
            except LeptonError:
                return gpu, True
            return gpu, False

    calls = run()[0].calls
    assert sum(calls.values()) > 80
    raised = set()
    for name, count in calls.items():
        # Of many alike, such as the addresses of each layer, some.
        for number in {*range(1, min(count, 4) + 1), count // 2, count} - {0}:
            gpu, failed = run(**{name: number})
            assert_all_released(gpu)
            raised |= {name} if failed else set()
    assert raised >= {"cudaMalloc", "cudaMallocHost", "cudaMemcpyAsync", "cudaStreamSynchronize"}
    assert raised >= {"execute_async_v3", "set_tensor_address", "set_input_shape"}
    assert not raised & {"cudaFree", "cudaFreeHost", "cudaStreamDestroy"}


def test_out_of_memory_names_what_was_asked_and_what_was_free(
    monkeypatch: pytest.MonkeyPatch, decoder: tuple[Any, Compiled, bytes]
) -> None:
    model, compiled, data = decoder
    engine_size = len(data)
    gpu = fake_gpu.install(monkeypatch, total=engine_size + 260_000)
    stepper = TensorRTStepper(open_engine(data, fake_trt.flavour(gpu)), compiled)
    follow(stepper, model, 1, 5, 1)
    with pytest.raises(InferenceError, match=r"bytes of Fake GPU 0's memory were asked for, and"):
        follow(stepper, model, ROWS, NEW, TOTAL - NEW)
    follow(stepper, model, 1, 5, 1)
    stepper.close()
    assert_all_released(gpu)


def test_an_engine_that_is_no_decoders_is_refused(
    gpu: FakeGpu, decoder: tuple[Any, Compiled, bytes]
) -> None:
    engine = fake_trt.engine_bytes(graph(), PROFILES)
    with pytest.raises(BackendError, match="not a decoder with a cache: its inputs are input_ids"):
        TensorRTStepper(open_engine(engine, fake_trt.flavour(gpu)), COMPILED)
    assert_all_released(gpu)
