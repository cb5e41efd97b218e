"""Weights in 8 and 4 bits: what becomes small, how far it is off, and that TensorRT keeps it so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from lepton_edge.backend import Graph
from lepton_edge.builder.decoder import decoder_graph
from lepton_edge.errors import BackendError
from tests.decoders import tiny_decoder

pytest.importorskip("lepton_edge_tensorrt", reason="needs lepton-edge-tensorrt")

from lepton_edge_tensorrt.compile import engine_from_onnx
from lepton_edge_tensorrt.library import Flavour, flavour
from lepton_edge_tensorrt.onnx_export import OPSET_OF_BLOCKS, onnx_from_graph
from lepton_edge_tensorrt.options import TensorRTOptions
from lepton_edge_tensorrt.plan import BuildPlan, profiles_of
from lepton_edge_tensorrt.typed import write_precision
from lepton_edge_tensorrt.weights import Bits, in_blocks, in_channels, with_small_weights

Array = NDArray[Any]

ROWS, COLUMNS = 64, 96  # 64 rows make one block of 64; 96 columns blocks of 32


# The numbers.


@given(
    seed=st.integers(0, 2**32 - 1),
    exponent=st.floats(-9, 4),
    spread=st.floats(0, 3),
    half=st.booleans(),
    summed=st.sampled_from([0, 1]),
    block=st.sampled_from([None, 16, 32]),
    zeros=st.booleans(),
)
@settings(deadline=None, max_examples=150)
def test_a_weight_is_within_half_a_step_of_what_it_was(
    seed: int,
    exponent: float,
    spread: float,
    half: bool,
    summed: int,
    block: int | None,
    zeros: bool,
) -> None:
    """Channels of very different sizes, all zeros, and numbers that fp16 has few bits for."""
    random = np.random.default_rng(seed)
    sizes = 10.0 ** (exponent + random.uniform(-spread, spread, (32, 1)))
    matrix = np.clip(random.standard_normal((32, 64)) * sizes, -6e4, 6e4)
    if zeros:
        matrix[3] = 0
    weights = np.ascontiguousarray(matrix if summed else matrix.T)
    weights = weights.astype(np.float16 if half else np.float32)
    if block is None:
        integers, scales = in_channels(weights, summed)
        steps = np.expand_dims(scales.astype(np.float64), summed)
        assert integers.dtype == np.int8
        assert scales.shape == (32 if summed else 64,)[:1] or scales.shape == (
            weights.shape[1 - summed],
        )
    else:
        integers, scales = in_blocks(weights, summed, block)
        steps = np.repeat(scales.astype(np.float64), block, axis=summed)
        assert integers.dtype.name == "int4"
        assert steps.shape == weights.shape
    assert scales.dtype == weights.dtype
    assert (scales > 0).all()
    assert np.isfinite(scales).all()
    assert integers.flags.c_contiguous
    off = np.abs(integers.astype(np.float64) * steps - weights.astype(np.float64))
    assert (off <= 0.501 * steps).all()
    assert np.abs(integers.astype(int)).max() <= (127 if block is None else 7)


# Which weights become small, each as one operation.


def matrix(rows: int = ROWS, columns: int = COLUMNS, name: str = "w") -> TensorProto:
    random = np.random.default_rng(rows)
    array = random.standard_normal((rows, columns)) * random.uniform(0.1, 3, (rows, 1))
    return numpy_helper.from_array(array.astype(np.float32), name)


def model_of(
    nodes: list[onnx.NodeProto],
    weights: list[TensorProto],
    outputs: Sequence[str] = ("out",),
    opset: int = 21,
) -> onnx.ModelProto:
    """Inputs x [batch, 64], y [batch, 96] and ids [batch, length], those that are read."""
    kinds: dict[str, tuple[int, list[Any]]] = {
        "x": (TensorProto.FLOAT, ["batch", ROWS]),
        "y": (TensorProto.FLOAT, ["batch", COLUMNS]),
        "ids": (TensorProto.INT64, ["batch", "length"]),
    }
    read = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(n, *kinds[n]) for n in kinds if n in read],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    model = onnx.shape_inference.infer_shapes(model)
    onnx.checker.check_model(model)
    return model


node = helper.make_node
MATMUL = node("MatMul", ["x", "w"], ["out"])
TURNED = node("Transpose", ["w"], ["wt"], perm=[1, 0])
LOOKUP = node("Gather", ["w", "ids"], ["rows"])

# By name: the nodes, the axis of w that a scale is for one index of, and the outputs.
SMALL: dict[str, tuple[list[onnx.NodeProto], int, tuple[str, ...]]] = {
    "matmul": ([MATMUL], 1, ("out",)),
    "transposed matmul": ([TURNED, node("MatMul", ["y", "wt"], ["out"])], 0, ("out",)),
    "matmul from the left": (
        [node("Transpose", ["y"], ["yt"]), node("MatMul", ["w", "yt"], ["out"])],
        0,
        ("out",),
    ),
    "gemm": ([node("Gemm", ["x", "w"], ["out"])], 1, ("out",)),
    "gemm transposed": ([node("Gemm", ["y", "w"], ["out"], transB=1)], 0, ("out",)),
    "gemm from the left": (
        [node("Transpose", ["x"], ["xt"]), node("Gemm", ["w", "xt"], ["out"], transA=1)],
        1,
        ("out",),
    ),
    "two products": ([MATMUL, node("Gemm", ["x", "w"], ["out2"])], 1, ("out", "out2")),
    "look-up": ([node("Gather", ["w", "ids"], ["out"])], 0, ("out",)),
    "look-up that makes the logits": (
        [LOOKUP, TURNED, node("MatMul", ["rows", "wt"], ["out"])],
        0,
        ("out", "rows"),
    ),
}


def feeds_of(model: onnx.ModelProto) -> dict[str, Array]:
    random = np.random.default_rng(1)
    feeds: dict[str, Array] = {
        "x": random.standard_normal((5, ROWS)).astype(np.float32),
        "y": random.standard_normal((5, COLUMNS)).astype(np.float32),
        "ids": random.integers(0, ROWS, (5, 7)),
    }
    return {each.name: feeds[each.name] for each in model.graph.input}


def opened(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """Without the rounding of activations to 8 bits that ONNX Runtime adds to such products."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def run(model: onnx.ModelProto) -> list[Array]:
    found: list[Array] = opened(model).run(None, feeds_of(model))
    return found


def small(model: onnx.ModelProto, bits: Bits) -> onnx.ModelProto:
    """Through bytes, as nothing may hold on to the model that was given."""
    found = ir.to_proto(with_small_weights(ir.from_proto(model), bits))
    onnx.checker.check_model(found, full_check=True)
    return found


def operators(model: onnx.ModelProto) -> list[str]:
    return [each.op_type for each in model.graph.node]


@pytest.mark.parametrize("name", SMALL)
def test_what_a_product_or_a_look_up_reads_becomes_small(name: str) -> None:
    """It computes with the nearest weights, and with nothing else that differs."""
    nodes, channels, outputs = SMALL[name]
    weights = matrix()
    model = model_of(nodes, [weights], outputs)
    found = small(model, 8)
    integers, scales = in_channels(numpy_helper.to_array(weights), 1 - channels)
    rounded = numpy_helper.from_array(integers * np.expand_dims(scales, 1 - channels), weights.name)
    assert operators(found).count("DequantizeLinear") == 1
    stored = {each.data_type for each in found.graph.initializer if len(each.dims) == 2}
    assert stored == {TensorProto.INT8}
    expected = run(model_of(nodes, [rounded], outputs))
    for array, other in zip(run(found), expected, strict=True):
        np.testing.assert_allclose(array, other, rtol=1e-5, atol=1e-4)
    assert [each.name for each in found.graph.output] == list(outputs)


def test_a_table_that_makes_the_logits_is_read_one_way() -> None:
    """Two ways would be two copies in an engine."""
    nodes, _, outputs = SMALL["look-up that makes the logits"]
    found = small(model_of(nodes, [matrix()], outputs), 8)
    dequantized = next(n.output[0] for n in found.graph.node if n.op_type == "DequantizeLinear")
    readers = [each.op_type for each in found.graph.node if dequantized in each.input]
    assert sorted(readers) == ["Gather", "MatMul"]


def test_no_two_values_share_a_type() -> None:
    """Writing one's precision would change the other's."""
    nodes, _, outputs = SMALL["look-up that makes the logits"]
    made = with_small_weights(ir.from_proto(model_of(nodes, [matrix()], outputs)), 8)
    values = [value for each in made.graph for value in each.outputs]
    assert len({id(value.type) for value in values}) == len(values)


def loop_reading(weight: str) -> onnx.NodeProto:
    """A branch whose body multiplies by the weight."""
    output = helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)
    body = helper.make_graph([node("MatMul", ["x", weight], ["inner"])], "body", [], [output])
    return node("If", ["yes"], ["out2"], then_branch=body, else_branch=body)


YES = numpy_helper.from_array(np.array(True), "yes")
THREE = numpy_helper.from_array(np.ones((2, ROWS, COLUMNS), np.float32), "w")
UNTOUCHED: dict[str, tuple[list[onnx.NodeProto], list[TensorProto]]] = {
    "something else": ([MATMUL, node("Neg", ["w"], ["out2"])], [matrix()]),
    "an operation behind a transposition": (
        [MATMUL, TURNED, node("Neg", ["wt"], ["out2"])],
        [matrix()],
    ),
    "both axes": (
        [MATMUL, TURNED, node("MatMul", ["y", "wt"], ["out2"])],
        [matrix()],
    ),
    "a look-up of columns": ([node("Gather", ["w", "ids"], ["out"], axis=1)], [matrix()]),
    "a branch": ([MATMUL, loop_reading("w")], [matrix(), YES]),
    "a stack of matrices": ([MATMUL], [THREE]),
    "a small matrix": ([MATMUL], [matrix(ROWS, 15)]),
}


@pytest.mark.parametrize("reader", UNTOUCHED)
@pytest.mark.parametrize("bits", [8, 4])
def test_what_another_operation_reads_stays_as_it_is(reader: str, bits: Bits) -> None:
    nodes, weights = UNTOUCHED[reader]
    names = {n for each in nodes for n in each.output} & {"out", "out2"}
    model = model_of(nodes, weights, sorted(names))
    found = small(model, bits)
    assert operators(found) == operators(model)
    for array, other in zip(run(found), run(model), strict=True):
        np.testing.assert_array_equal(array, other)


def test_the_last_product_and_look_ups_keep_eight_bits() -> None:
    hidden, head = matrix(ROWS, ROWS, "hidden"), matrix(ROWS, COLUMNS, "head")
    nodes = [
        LOOKUP,
        node("MatMul", ["rows", "hidden"], ["between"]),
        node("MatMul", ["between", "head"], ["out"]),
    ]
    found = small(model_of(nodes, [matrix(ROWS, ROWS), hidden, head]), 4)
    kinds = {each.name: each.data_type for each in found.graph.initializer}
    assert kinds["w.quantized"] == TensorProto.INT8
    assert kinds["hidden.quantized"] == TensorProto.INT4
    assert kinds["head.quantized"] == TensorProto.INT8


@pytest.mark.parametrize(("rows", "block"), [(256, 128), (192, 64), (96, 32), (48, 16), (40, None)])
def test_a_block_is_the_largest_power_of_two_that_divides(rows: int, block: int | None) -> None:
    hidden = matrix(rows, ROWS, "hidden")
    first = matrix(ROWS, rows, "first")
    nodes = [
        node("MatMul", ["x", "first"], ["a"]),
        node("MatMul", ["a", "hidden"], ["b"]),
        node("MatMul", ["b", "w"], ["out"]),
    ]
    found = small(model_of(nodes, [first, hidden, matrix()]), 4)
    (made,) = [n for n in found.graph.node if n.input[0] == "hidden.quantized"]
    options = {each.name: each.i for each in made.attribute}
    assert options == ({"axis": 0, "block_size": block} if block else {"axis": 1})
    kinds = {each.name: each for each in found.graph.initializer}
    if block:
        assert list(kinds["hidden.scale"].dims) == [rows // block, ROWS]
        assert len(kinds["hidden.quantized"].raw_data) == rows * ROWS // 2


def test_four_bits_need_an_opset_with_blocks() -> None:
    old = ir.from_proto(model_of([MATMUL], [matrix()], opset=20))
    with pytest.raises(BackendError, match="opset 21, and the graph has 20"):
        with_small_weights(old, 4)
    assert "DequantizeLinear" in operators(ir.to_proto(with_small_weights(old, 8)))


def test_a_graph_without_such_weights_is_left_alone() -> None:
    model = model_of([node("Neg", ["x"], ["out"])], [])
    assert operators(small(model, 4)) == ["Neg"]


# Whole models.

WIDE = {"hidden_size": 128, "intermediate_size": 256, "vocab_size": 12_000, "head_dim": 32}


@pytest.fixture(scope="module", params=["tied", "untied"])
def decoder(request: pytest.FixtureRequest) -> Graph:
    tied = request.param == "tied"
    return decoder_graph(tiny_decoder("llama", **WIDE, tie_word_embeddings=tied), max_length=64)


@pytest.fixture(scope="module")
def exported(decoder: Graph) -> bytes:
    found: bytes = ir.to_proto(onnx_from_graph(decoder, OPSET_OF_BLOCKS)).SerializeToString()
    return found


def variant(exported: bytes, bits: Bits | None, half: bool = False) -> ir.Model:
    model = ir.from_proto(onnx.load_from_string(exported))
    if bits:
        model = with_small_weights(model, bits)
    if half:
        write_precision(model, "fp16")
    return model


def logits(graph: Graph, model: ir.Model) -> Array:
    """For a prompt of 12 tokens in each of two rows."""
    ids = np.random.default_rng(2).integers(3, WIDE["vocab_size"], (2, 12))
    feeds: dict[str, Array] = {
        spec.name: np.zeros((2, int(spec.shape[1]), 0, int(spec.shape[3])), np.float32)
        for spec in graph.inputs[3:]
    }
    feeds |= {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    feeds["position_ids"] = np.arange(12)[None].repeat(2, axis=0)
    found: Array = opened(ir.to_proto(model)).run(["logits"], feeds)[0]
    return found


def cosine(a: Array, b: Array) -> float:
    """The smallest of the rows."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / norms).min())


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
@pytest.mark.parametrize(("bits", "least", "share"), [(8, 0.998, 0.30), (4, 0.85, 0.28)])
def test_a_decoder_answers_nearly_the_same_from_a_quarter_of_the_bytes(
    decoder: Graph, exported: bytes, bits: Bits, least: float, share: float, half: bool
) -> None:
    made = variant(exported, bits, half)
    assert cosine(logits(decoder, made), logits(decoder, variant(exported, None))) > least
    assert len(ir.to_proto(made).SerializeToString()) < share * len(exported)


def test_the_same_graph_gives_the_same_bytes(exported: bytes) -> None:
    first, second = (ir.to_proto(variant(exported, 4)).SerializeToString() for _ in range(2))
    assert first == second


@pytest.fixture(scope="module")
def rtx() -> Flavour:
    try:
        return flavour("tensorrt_rtx")
    except BackendError as error:
        pytest.skip(f"needs TensorRT for RTX: {error.message}")


def engine_bytes(rtx: Flavour, graph: Graph, model: ir.Model, folder: Path) -> int:
    options = TensorRTOptions(max_batch=1, best_batch=1)
    plan = BuildPlan(
        graph="",
        precision="",
        profiles=profiles_of(graph.inputs, graph.largest, options),
        workspace=2**28,
        memory=0,
    )
    ir.save(model, folder / "model.onnx")
    return len(engine_from_onnx(rtx, folder / "model.onnx", plan))


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
def test_tensorrt_compiles_it_and_keeps_it_small(
    rtx: Flavour, decoder: Graph, exported: bytes, tmp_path: Path, half: bool
) -> None:
    """An engine holds its weights as they are stored, once, beside kernels of a few MB."""
    sizes = []
    for bits in (None, 8, 4):
        model = variant(exported, bits, half)
        stored = len(ir.to_proto(model).SerializeToString())
        engine = engine_bytes(rtx, decoder, model, tmp_path)
        # A table kept twice would be 1.5 MB more, and one kept in 16 bits as well.
        assert 0 < engine - stored < 5_000_000
        sizes.append((stored, engine - stored))
    (full, kernels), *others = sizes
    for stored, beside in others:
        assert stored < (0.55 if half else 0.3) * full
        assert beside < kernels + 1_000_000
