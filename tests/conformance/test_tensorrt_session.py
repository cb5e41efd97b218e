"""Sessions over engines, on a GPU that is faked byte by byte."""

from __future__ import annotations

import gc
import inspect
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

pytest.importorskip("lepton_edge_tensorrt", reason="the TensorRT backend is not installed")

from lepton_edge_tensorrt import backend, cuda
from lepton_edge_tensorrt.engine import open_engine
from lepton_edge_tensorrt.library import flavour as real_flavour
from lepton_edge_tensorrt.plan import ENGINE, PLAN, BuildPlan
from lepton_edge_tensorrt.session import TensorRTSession
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from lepton_edge.backend import Compiled, TensorSpec
from lepton_edge.errors import BackendError, InferenceError
from tests.conformance import fake_gpu, fake_trt
from tests.conformance.fake_gpu import FakeGpu

LENGTH = 48  # the longest text of the engine
ROWS = 8  # its largest batch
TABLE = np.random.default_rng(0).standard_normal((50, 6)).astype(np.float32)
WEIGHTS = np.random.default_rng(1).standard_normal((6, 3)).astype(np.float32)
SPECS = (
    TensorSpec("input_ids", "int64", ("batch", "length")),
    TensorSpec("attention_mask", "int64", ("batch", "length")),
)
COMPILED = Compiled(
    "fp32",
    SPECS,
    (
        TensorSpec("logits", "float32", ("batch", 3)),
        TensorSpec("tokens", "float32", ("batch", "length", 6)),
    ),
    "tensorrt 10.3.0",
    {"compute": "fp16", "flavour": "tensorrt"},
)
Feeds = dict[str, NDArray[Any]]


def graph(dtype: int = TensorProto.FLOAT) -> bytes:
    """Each token's vector, and the mean of those that are not masked, times a matrix."""
    numpy = np.float32 if dtype == TensorProto.FLOAT else np.float16
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["vectors"]),
        helper.make_node("Cast", ["attention_mask"], ["kept"], to=dtype),
        helper.make_node("Unsqueeze", ["kept", "last"], ["weights"]),
        helper.make_node("Mul", ["vectors", "weights"], ["tokens"]),
        helper.make_node("ReduceSum", ["tokens", "first"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["weights", "first"], ["number"], keepdims=0),
        helper.make_node("Div", ["sum", "number"], ["mean"]),
        helper.make_node("MatMul", ["mean", "matrix"], ["logits"]),
    ]
    whole = ["batch", "length"]
    made = helper.make_graph(
        nodes,
        "mean",
        [
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, whole),
            helper.make_tensor_value_info("attention_mask", TensorProto.INT64, whole),
        ],
        [
            helper.make_tensor_value_info("logits", dtype, ["batch", 3]),
            helper.make_tensor_value_info("tokens", dtype, [*whole, 6]),
        ],
        [
            numpy_helper.from_array(TABLE.astype(numpy), "table"),
            numpy_helper.from_array(WEIGHTS.astype(numpy), "matrix"),
            numpy_helper.from_array(np.array([2]), "last"),
            numpy_helper.from_array(np.array([1]), "first"),
        ],
    )
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(made, opset_imports=opset, ir_version=8)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def ranges(
    rows: tuple[int, int, int], lengths: tuple[int, int, int]
) -> dict[str, tuple[tuple[int, int], tuple[int, int], tuple[int, int]]]:
    shapes = tuple(zip(rows, lengths, strict=True))
    return {spec.name: shapes for spec in SPECS}  # type: ignore[misc]


# As a build makes them: one for a single text, one for batches.
PROFILES = (ranges((1, 1, 1), (1, 8, LENGTH)), ranges((1, 4, ROWS), (1, 16, LENGTH)))


def feeds(rows: int, length: int, seed: int = 0) -> Feeds:
    random = np.random.default_rng((rows, length, seed))
    mask = (np.arange(length) < random.integers(1, length + 1, (rows, 1))).astype(np.int64)
    return {"input_ids": random.integers(0, 50, (rows, length)), "attention_mask": mask}


def reference(given: Feeds) -> Feeds:
    weights = given["attention_mask"][..., None].astype(np.float32)
    tokens = TABLE[given["input_ids"]] * weights
    return {"logits": tokens.sum(1) / weights.sum(1) @ WEIGHTS, "tokens": tokens}


def check(session: TensorRTSession, given: Feeds) -> None:
    found = session.infer(given)
    expected = reference(given)
    assert list(found) == ["logits", "tokens"]
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-5)
        assert found[name].dtype == np.float32


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


def assert_all_released(gpu: FakeGpu) -> None:
    gc.collect()
    assert gpu.live() == {}
    assert cuda.live() == cuda.Live(0, 0)


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


def test_sessions_of_one_file_share_an_engine(gpu: FakeGpu, engine: Path) -> None:
    flavour = fake_trt.flavour(gpu)
    first = TensorRTSession(open_engine(engine, flavour), COMPILED)
    link = engine.with_name("link")
    link.symlink_to(engine)
    second = TensorRTSession(open_engine(link, flavour), COMPILED)
    assert gpu.calls["deserialize_cuda_engine"] == 1
    with ThreadPoolExecutor(2) as threads:
        for _ in threads.map(
            lambda session: [check(session, feeds(2, n % 5 + 1, n)) for n in range(30)],
            (first, second),
        ):
            pass
    first.close()
    check(second, feeds(2, 3))
    second.close()
    assert_all_released(gpu)
    TensorRTSession(open_engine(engine, flavour), COMPILED).close()
    assert gpu.calls["deserialize_cuda_engine"] == 2
    assert_all_released(gpu)


def test_a_file_that_was_replaced_is_opened_again(gpu: FakeGpu, engine: Path) -> None:
    flavour = fake_trt.flavour(gpu)
    with TensorRTSession(open_engine(engine, flavour), COMPILED) as first:
        new = engine.with_name("new")
        new.write_bytes(engine.read_bytes())
        new.replace(engine)
        with TensorRTSession(open_engine(engine, flavour), COMPILED) as second:
            check(first, feeds(2, 3))
            check(second, feeds(2, 3))
    assert gpu.calls["deserialize_cuda_engine"] == 2
    assert_all_released(gpu)


def test_an_engine_is_opened_from_bytes(gpu: FakeGpu, engine: Path) -> None:
    flavour = fake_trt.flavour(gpu)
    with TensorRTSession(open_engine(engine.read_bytes(), flavour), COMPILED) as session:
        check(session, feeds(2, 3))
    assert_all_released(gpu)


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


def test_half_outputs_are_given_where_the_manifest_says_so(gpu: FakeGpu, tmp_path: Path) -> None:
    path = tmp_path / "half.engine"
    path.write_bytes(fake_trt.engine_bytes(graph(TensorProto.FLOAT16), PROFILES))
    outputs = tuple(TensorSpec(s.name, "float16", s.shape) for s in COMPILED.outputs)
    flavour = fake_trt.flavour(gpu)
    compiled = Compiled("fp16", SPECS, outputs, "tensorrt 10.3.0")
    with TensorRTSession(open_engine(path, flavour), compiled) as session:
        given = feeds(2, 5)
        found = session.infer(given)["logits"]
        assert found.dtype == np.float16
        np.testing.assert_allclose(found, reference(given)["logits"], atol=2e-2)
    with pytest.raises(BackendError, match=r"gives logits \(float16\).*says logits \(float32\)"):
        TensorRTSession(open_engine(path, flavour), COMPILED)
    assert_all_released(gpu)


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


def test_an_engine_that_is_damaged_empty_or_gone_is_refused(gpu: FakeGpu, engine: Path) -> None:
    flavour, data = fake_trt.flavour(gpu), engine.read_bytes()
    for damaged, said in ((data[: len(data) // 3], "readHeader"), (b"", "is empty")):
        engine.write_bytes(damaged)
        with pytest.raises(BackendError, match=said) as caught:
            open_engine(engine, flavour)
        assert str(engine) in str(caught.value)
    engine.unlink()
    with pytest.raises(BackendError, match="No such file"):
        open_engine(engine, flavour)
    del caught
    assert_all_released(gpu)


def test_an_engine_that_is_refused_names_the_likely_causes(gpu: FakeGpu, engine: Path) -> None:
    engine.write_bytes(fake_trt.engine_bytes(graph(), PROFILES, version="2"))
    with pytest.raises(BackendError) as caught:
        open_engine(engine, fake_trt.flavour(gpu))
    assert "not compatible: version" in caught.value.message
    assert "Fake GPU 0 (compute capability 8.7" in caught.value.message
    assert "bytes of its memory are free" in caught.value.message
    for word in ("version", "compute capability", "driver", "lepton-edge finalize"):
        assert word in str(caught.value.hint)


def test_the_first_of_tensorrts_messages_is_the_cause(gpu: FakeGpu, engine: Path) -> None:
    gpu.fail["deserialize_cuda_engine"] = 1
    with pytest.raises(BackendError, match="no room") as caught:
        open_engine(engine, fake_trt.flavour(gpu))
    assert "consequence" not in caught.value.message


@pytest.mark.parametrize(
    ("method", "given", "said"),
    [
        ("get_tensor_dtype", SimpleNamespace(name="FP8"), "type FP8, which numpy lacks"),
        ("get_tensor_location", fake_trt.TensorLocation.HOST, "input_ids is not on the GPU"),
    ],
)
def test_a_tensor_that_cannot_be_given_is_refused_at_once(
    gpu: FakeGpu, engine: Path, monkeypatch: pytest.MonkeyPatch, method: str, given: Any, said: str
) -> None:
    monkeypatch.setattr(fake_trt.FakeEngine, method, lambda self, name: given)
    with pytest.raises(BackendError, match=said):
        open_engine(engine, fake_trt.flavour(gpu))
    assert_all_released(gpu)


def test_a_gpu_that_is_not_there_is_refused(gpu: FakeGpu, engine: Path) -> None:
    with pytest.raises(BackendError, match="no GPU 3: CUDA finds 1"):
        open_engine(engine, fake_trt.flavour(gpu), 3)


@pytest.mark.parametrize(
    ("driver", "error", "said", "hint"),
    [
        (0, 35, "no NVIDIA driver", "nvidia-smi"),
        (12060, 35, "driver is for CUDA 12.6, and cuda-bindings is for CUDA 13", "bindings<13"),
        (11040, 35, "driver is for CUDA 11.4", "driver for CUDA 12 or later"),
        (13000, 100, "finds no GPU", "CUDA_VISIBLE_DEVICES"),
        (13000, 0, "finds no GPU", "CUDA_VISIBLE_DEVICES"),
        (13000, 46, "cudaErrorDevicesUnavailable", "nvidia-smi"),
    ],
)
def test_why_there_is_no_gpu(gpu: FakeGpu, driver: int, error: int, said: str, hint: str) -> None:
    gpu.driver, gpu.count_error, gpu.count = driver, error, 0
    with pytest.raises(BackendError, match=said) as caught:
        cuda.gpus()
    assert hint in str(caught.value.hint)


def test_gpus_are_named(gpu: FakeGpu) -> None:
    assert [each.label for each in cuda.gpus()] == ["GPU"]
    gpu.count = 2
    assert [each.label for each in cuda.gpus()] == ["GPU.0", "GPU.1"]
    assert cuda.first_gpu() == cuda.Gpu(0, "GPU.0", "Fake GPU 0", "8.7", gpu.memory.total)


def test_the_backend_opens_an_artifact_on_the_gpu_that_is_named(
    gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu.count = 2
    monkeypatch.setattr(backend, "flavour", lambda name: fake_trt.flavour(gpu))
    plan = BuildPlan(
        graph="0", precision="fp32", profiles=(), workspace=1, capabilities=("8.7",), memory=1
    )
    (tmp_path / PLAN).write_bytes(plan.encoded())
    (tmp_path / ENGINE).write_bytes(fake_trt.engine_bytes(graph(), PROFILES))
    made = backend.TensorRTBackend()
    for device, label in ((None, "GPU.0"), ("GPU", "GPU.0"), ("GPU.1", "GPU.1")):
        with made.load(tmp_path, COMPILED, device) as session:
            assert session.device == label
            check(session, feeds(2, 3))
    with pytest.raises(BackendError, match=r"no device 'GPU\.2'") as caught:
        made.load(tmp_path, COMPILED, "GPU.2")
    assert "GPU.0, GPU.1" in str(caught.value.hint)
    assert_all_released(gpu)


def test_this_machine_says_whether_it_has_a_gpu() -> None:
    """Through the real runtime: a GPU, or why there is none and what to do."""
    pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    hint = None
    try:
        found = cuda.gpus()
    except BackendError as error:
        found, hint = (), error.hint
    assert found or hint


def test_the_fake_has_cudas_own_functions() -> None:
    """Their names, and how many arguments they take."""
    real = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    fakes = [
        (name, member)
        for name, member in vars(fake_gpu._Runtime).items()
        if name.startswith("cuda") and inspect.isfunction(member)
    ]
    assert len(fakes) > 20
    for name, member in fakes:
        signature = re.match(rf"{name}\((.*)\)", str(getattr(real, name).__doc__).strip())
        assert signature is not None, name
        taken = [each for each in signature[1].split(",") if each.strip()]
        assert len(taken) == len(inspect.signature(member).parameters) - 1, name


def test_the_fake_has_tensorrts_own_methods() -> None:
    """Their names, in the flavour that is installed."""
    try:
        trt = real_flavour("tensorrt_rtx").trt
    except BackendError as error:
        pytest.skip(f"TensorRT for RTX cannot be used here: {error.message}")
    pairs: list[tuple[type, Callable[..., Any]]] = [
        (fake_trt.FakeEngine, trt.ICudaEngine),
        (fake_trt.FakeContext, trt.IExecutionContext),
        (fake_trt.RuntimeConfig, trt.IRuntimeConfig),
    ]
    for fake, real in pairs:
        methods = [name for name in vars(fake) if not name.startswith("_")]
        assert len(methods) > 2
        assert [name for name in methods if not hasattr(real, name)] == []
