"""Sessions over engines, on a GPU that is faked byte by byte."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("lepton_edge_tensorrt", reason="the TensorRT backend is not installed")

from lepton_edge_tensorrt import cuda
from lepton_edge_tensorrt.engine import open_engine
from lepton_edge_tensorrt.session import TensorRTSession

from lepton_edge.backend import Compiled, TensorSpec
from lepton_edge.errors import BackendError, InferenceError
from tests.conformance import fake_gpu, fake_trt
from tests.conformance.fake_gpu import FakeGpu
from tests.conformance.tensorrt_parts import (
    COMPILED,
    LENGTH,
    PROFILES,
    ROWS,
    SPECS,
    assert_all_released,
    check,
    feeds,
    graph,
    reference,
)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    return fake_gpu.install(monkeypatch)


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    path = tmp_path / "model.engine"
    path.write_bytes(fake_trt.engine_bytes(graph(), PROFILES))
    return path


@pytest.fixture
def opened(gpu: FakeGpu, engine: Path) -> Iterator[TensorRTSession]:
    session = TensorRTSession(open_engine(engine, fake_trt.flavour(gpu)), COMPILED)
    yield session
    session.close()
    assert_all_released(gpu)


@pytest.mark.parametrize("rtx", [False, True], ids=["tensorrt", "tensorrt_rtx"])
def test_answers_are_the_references_in_any_order_of_shapes(
    gpu: FakeGpu, engine: Path, rtx: bool
) -> None:
    random = np.random.default_rng(0)
    with TensorRTSession(open_engine(engine, fake_trt.flavour(gpu, rtx)), COMPILED) as session:
        for seed in range(80):
            check(session, feeds(int(random.integers(1, 5)), int(random.integers(1, 12)), seed))
        check(session, feeds(ROWS, LENGTH))
        check(session, feeds(1, 1))
    assert_all_released(gpu)


def test_batches_beyond_the_engine_are_split_and_joined(opened: TensorRTSession) -> None:
    for rows in (ROWS + 1, 2 * ROWS, 3 * ROWS + 5):
        check(opened, feeds(rows, 9))


def test_a_text_beyond_the_engine_is_refused_with_both_numbers(opened: TensorRTSession) -> None:
    for rows in (1, 3, ROWS + 1):
        with pytest.raises(InferenceError, match=r"input_ids has length 49.* takes 1 to 48"):
            opened.infer(feeds(rows, LENGTH + 1))
    with pytest.raises(InferenceError, match=r"input_ids has batch 0.* takes 1 to 8"):
        opened.infer({name: array[:0] for name, array in feeds(1, 4).items()})
    check(opened, feeds(3, 5))


def test_rows_that_outputs_do_not_have_first_are_not_split(gpu: FakeGpu, engine: Path) -> None:
    """Such as a sum over all of them."""
    other = TensorSpec("logits", "float32", ("texts", 3))
    compiled = Compiled("fp32", SPECS, (other, COMPILED.outputs[1]), "tensorrt 10.3.0")
    session = TensorRTSession(open_engine(engine, fake_trt.flavour(gpu)), compiled)
    with session, pytest.raises(InferenceError, match="input_ids has batch 9"):
        session.infer(feeds(ROWS + 1, 4))


@pytest.mark.parametrize("single", [0, 1])
def test_the_profile_with_the_nearest_best_shape_runs(
    gpu: FakeGpu, engine: Path, monkeypatch: pytest.MonkeyPatch, single: int
) -> None:
    engine.write_bytes(fake_trt.engine_bytes(graph(), PROFILES[:: -1 if single else 1]))
    chosen = []
    with TensorRTSession(open_engine(engine, fake_trt.flavour(gpu)), COMPILED) as session:
        prepare = session._prepare

        def spy(execution: Any, shapes: Any) -> Any:
            chosen.append(next(n for n, e in session._executions.items() if e is execution))
            return prepare(execution, shapes)

        monkeypatch.setattr(session, "_prepare", spy)
        for rows, length in ((1, 3), (1, LENGTH), (2, 3), (ROWS, LENGTH)):
            check(session, feeds(rows, length))
    assert chosen == [single, single, 1 - single, 1 - single]


def test_threads_get_their_own_answers(opened: TensorRTSession) -> None:
    given = [feeds(1 + n % 4, 1 + n % 7, n) for n in range(96)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda each: check(opened, each), given))


def test_a_shape_that_comes_again_is_one_launch(gpu: FakeGpu, opened: TensorRTSession) -> None:
    for seed in range(2):
        check(opened, feeds(2, 5, seed))
    assert gpu.calls["cudaGraphInstantiate"] == 1
    before = gpu.calls.copy()
    for seed in range(2, 6):
        check(opened, feeds(2, 5, seed))
    made = gpu.calls - before
    assert made["cudaGraphLaunch"] == 4
    assert not made["execute_async_v3"]
    assert not made["cudaMemcpyAsync"]
    assert opened.details["cuda_graphs"] == "on"


def test_graphs_are_captured_again_after_buffers_moved(
    gpu: FakeGpu, opened: TensorRTSession
) -> None:
    for round_ in range(3):
        for seed in range(3):
            check(opened, feeds(2, 5, 10 * round_ + seed))
        check(opened, feeds(2 + 3 * round_, 12 * (round_ + 1), round_))
    assert gpu.calls["cudaGraphInstantiate"] > 1
    assert gpu.calls["cudaGraphLaunch"] > 3


def test_many_shapes_in_turn_are_not_captured_again_and_again(
    gpu: FakeGpu, opened: TensorRTSession
) -> None:
    check(opened, feeds(ROWS, LENGTH))  # buffers never move after this
    for seed in range(12):
        for length in range(1, 21):
            check(opened, feeds(2, length, seed))
    assert len(gpu.executables) == 8
    assert gpu.calls["cudaGraphInstantiate"] <= 20
    # What comes most of all gets a place all the same.
    for seed in range(30):
        check(opened, feeds(3, 7, seed))
    before = gpu.calls["execute_async_v3"]
    check(opened, feeds(3, 7, 99))
    assert gpu.calls["execute_async_v3"] == before
    assert len(gpu.executables) == 8


@pytest.mark.parametrize(
    "function", ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate"]
)
def test_without_captures_answers_are_the_same_and_the_details_say_why(
    gpu: FakeGpu, opened: TensorRTSession, function: str
) -> None:
    gpu.fail[function] = 2
    for seed in range(4):
        for length in (3, 4):
            check(opened, feeds(2, length, seed))
    assert function in str(opened.details["cuda_graphs"])
    assert gpu.calls["cudaStreamBeginCapture"] == 2
    assert not gpu.executables


def test_a_model_that_cannot_be_captured_runs_without(
    gpu: FakeGpu, opened: TensorRTSession
) -> None:
    """Its third launch would be that of the capture."""
    gpu.fail["execute_async_v3"] = 3
    for seed in range(4):
        check(opened, feeds(2, 3, seed))
    assert "launch failed" in str(opened.details["cuda_graphs"])


def test_without_memory_for_more_contexts_there_are_no_graphs(
    gpu: FakeGpu, opened: TensorRTSession
) -> None:
    gpu.fail["create_execution_context"] = 2
    for seed in range(4):
        check(opened, feeds(2, 3, seed))
    assert "out of memory" in str(opened.details["cuda_graphs"])


def test_tensorrt_for_rtx_captures_itself(gpu: FakeGpu, engine: Path) -> None:
    opened = open_engine(engine, fake_trt.flavour(gpu, rtx=True))
    with TensorRTSession(opened, COMPILED) as session:
        for seed in range(3):
            check(session, feeds(2, 3, seed))
        (config,) = opened._engine.configs
        assert config.cuda_graph_strategy == "WHOLE_GRAPH_CAPTURE"
        assert config.cache is not None
    assert not gpu.calls["cudaStreamBeginCapture"]


def test_results_are_the_callers(opened: TensorRTSession) -> None:
    given = [feeds(2, 5, seed) for seed in range(5)]
    before = [{name: array.copy() for name, array in each.items()} for each in given]
    results = [opened.infer(each) for each in given]
    for each, kept, result in zip(given, before, results, strict=True):
        for name, array in reference(each).items():
            np.testing.assert_allclose(result[name], array, rtol=1e-5, atol=1e-5)
        for name, array in kept.items():
            np.testing.assert_array_equal(each[name], array)


def test_wrong_feeds_are_refused(opened: TensorRTSession) -> None:
    good = feeds(2, 5)
    for bad in (
        {},
        {**good, "more": good["input_ids"]},
        {**good, "input_ids": good["input_ids"].astype(np.int32)},
        {**good, "input_ids": good["input_ids"][0]},
    ):
        with pytest.raises(InferenceError):
            opened.infer(bad)
    check(opened, good)


def test_details_name_the_gpu(opened: TensorRTSession) -> None:
    assert opened.device == "GPU"
    assert opened.details["compute"] == "fp16"
    assert opened.details["flavour"] == "tensorrt 10.3.0"
    assert opened.details["gpu"] == "Fake GPU 0"


def test_closing_frees_everything_and_again_is_harmless(gpu: FakeGpu, engine: Path) -> None:
    session = TensorRTSession(open_engine(engine, fake_trt.flavour(gpu)), COMPILED)
    for seed in range(3):
        check(session, feeds(2, 5, seed))
    assert cuda.live().device > 0
    assert cuda.live().pinned > 0
    session.close()
    assert_all_released(gpu)
    session.close()
    with pytest.raises(InferenceError, match="closed"):
        session.infer(feeds(2, 5))
    assert_all_released(gpu)


def test_the_threads_own_gpu_is_left_as_it_was(gpu: FakeGpu, engine: Path) -> None:
    gpu.count = 2
    gpu.current = 1
    seen = []
    inner = gpu.runtime.cudaMalloc

    def malloc(size: int) -> Any:
        seen.append(gpu.current)
        return inner(size)

    gpu.runtime.cudaMalloc = malloc
    with TensorRTSession(open_engine(engine, fake_trt.flavour(gpu), 0), COMPILED) as session:
        assert session.device == "GPU.0"
        check(session, feeds(2, 5))
        assert gpu.current == 1
    assert gpu.current == 1
    assert set(seen) == {0}


def scenario(gpu: FakeGpu, data: bytes) -> None:
    """What a session's life has: several shapes, a graph, buffers that move, a split batch."""
    session = TensorRTSession(open_engine(data, fake_trt.flavour(gpu)), COMPILED)
    try:
        for rows, length in ((1, 3), (2, 5), (2, 5), (2, 5), (ROWS, LENGTH), (ROWS + 1, 4)):
            check(session, feeds(rows, length))
    finally:
        session.close()


def failing_calls() -> list[tuple[str, int]]:
    """Each call of the scenario: a function, and which of its calls."""
    with pytest.MonkeyPatch.context() as patch:
        gpu = fake_gpu.install(patch)
        scenario(gpu, fake_trt.engine_bytes(graph(), PROFILES))
        return [(name, n + 1) for name, count in sorted(gpu.calls.items()) for n in range(count)]


def test_each_call_that_fails_is_an_error_of_ours_and_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = failing_calls()
    assert len(calls) > 80
    data = fake_trt.engine_bytes(graph(), PROFILES)
    raised = set()
    for name, number in calls:
        with pytest.MonkeyPatch.context() as patch:
            gpu = fake_gpu.install(patch)
            gpu.fail[name] = number
            try:
                scenario(gpu, data)
            except (BackendError, InferenceError):
                raised.add(name)
            assert gpu.calls[name] >= number
            assert_all_released(gpu)
    # All but what makes a graph, for which there is another way, and what gives something back.
    assert raised >= {
        "cudaMalloc",
        "cudaMallocHost",
        "cudaMemcpyAsync",
        "cudaSetDevice",
        "cudaStreamCreateWithFlags",
        "cudaStreamSynchronize",
        "cudaGraphLaunch",
        "deserialize_cuda_engine",
        "create_execution_context",
        "set_input_shape",
        "set_optimization_profile_async",
        "set_tensor_address",
        "execute_async_v3",
    }
    assert not raised & {"cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaFree"}


def test_a_session_answers_again_after_a_failure(gpu: FakeGpu, opened: TensorRTSession) -> None:
    names = ("execute_async_v3", "cudaMemcpyAsync", "cudaStreamSynchronize", "cudaMalloc")
    for length, name in zip((5, 10, 20, 40), names, strict=True):
        gpu.fail[name] = gpu.calls[name] + 1
        with pytest.raises(InferenceError):
            opened.infer(feeds(ROWS, length))
        check(opened, feeds(ROWS, length + 3))  # buffers move: nothing may still use them


def test_a_failure_has_cudas_name_and_text(gpu: FakeGpu, opened: TensorRTSession) -> None:
    gpu.fail["cudaStreamSynchronize"] = gpu.calls["cudaStreamSynchronize"] + 2
    with pytest.raises(InferenceError) as caught:
        opened.infer(feeds(2, 5))
    assert "cudaStreamSynchronize failed with cudaErrorLaunchFailure" in caught.value.message
    assert "unspecified launch failure" in caught.value.message
    assert "start it again" in str(caught.value.hint)


def test_a_failure_has_what_tensorrt_said(gpu: FakeGpu, opened: TensorRTSession) -> None:
    gpu.fail["execute_async_v3"] = 1
    with pytest.raises(InferenceError, match=r"tensorrt 10\.3\.0 could not run the model: enqueue"):
        opened.infer(feeds(2, 5))
    gpu.fail["create_execution_context"] = 2
    with pytest.raises(InferenceError, match=r"make an execution context .*: IExecutionContext"):
        opened.infer(feeds(1, 5))


def test_out_of_memory_names_what_was_asked_and_what_was_free(
    monkeypatch: pytest.MonkeyPatch, engine: Path
) -> None:
    gpu = fake_gpu.install(monkeypatch, total=30_000)
    with TensorRTSession(open_engine(engine, fake_trt.flavour(gpu)), COMPILED) as session:
        check(session, feeds(1, 3))
        with pytest.raises(InferenceError) as caught:
            session.infer(feeds(ROWS, LENGTH))
        asked = re.search(r"([\d,]+) bytes of Fake GPU 0's memory", caught.value.message)
        free = re.search(r"([\d,]+) bytes of 30,000 bytes are free", caught.value.message)
        assert asked is not None
        assert free is not None
        assert int(asked[1].replace(",", "")) > int(free[1].replace(",", ""))
        assert "cudaErrorMemoryAllocation" in caught.value.message
        assert "max_batch" in str(caught.value.hint)
        check(session, feeds(1, 3))
    del caught
    assert_all_released(gpu)
