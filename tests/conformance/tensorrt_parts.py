"""A small graph, its engine and its answers, for the tests of what runs engines."""

from __future__ import annotations

import gc
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from lepton_edge_tensorrt import cuda
from lepton_edge_tensorrt.session import TensorRTSession
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from lepton_edge.backend import Compiled, TensorSpec
from tests.conformance.fake_gpu import FakeGpu

if TYPE_CHECKING:
    from lepton_edge.backend import Graph

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


def assert_all_released(gpu: FakeGpu) -> None:
    gc.collect()
    assert gpu.live() == {}
    assert cuda.live() == cuda.Live(0, 0)


@lru_cache
def llama() -> tuple[Any, Graph, bytes]:
    """A tiny decoder: torch's model, its graph, and that as ONNX."""
    from lepton_edge.builder.decoder import decoder_graph
    from tests.decoders import tiny_decoder, write_onnx

    model = tiny_decoder("llama")
    graph = decoder_graph(model)
    with tempfile.TemporaryDirectory() as folder:
        onnx = write_onnx(graph, Path(folder) / "model.onnx").read_bytes()
    gc.collect()
    gc.freeze()  # what the export left: `assert_all_released` collects each time
    return model, graph, onnx
