"""Opening and sharing engines, and finding GPUs, with a GPU that is faked byte by byte."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("lepton_edge_tensorrt", reason="the TensorRT backend is not installed")

from lepton_edge_tensorrt import backend, cuda
from lepton_edge_tensorrt.engine import open_engine
from lepton_edge_tensorrt.library import flavour as real_flavour
from lepton_edge_tensorrt.plan import ENGINE, PLAN, BuildPlan
from lepton_edge_tensorrt.session import TensorRTSession
from onnx import TensorProto

from lepton_edge.backend import Compiled, TensorSpec
from lepton_edge.errors import BackendError
from tests.conformance import fake_gpu, fake_trt
from tests.conformance.fake_gpu import FakeGpu
from tests.conformance.tensorrt_parts import (
    COMPILED,
    PROFILES,
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
