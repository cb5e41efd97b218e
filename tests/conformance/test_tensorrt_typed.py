"""Precision written into ONNX: the answers stay the model's, and what must not be is not halved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

pytest.importorskip("lepton_edge_tensorrt", reason="needs the TensorRT backend")

import ml_dtypes
import onnx
import onnx_ir as ir
from lepton_edge_tensorrt.onnx_export import onnx_from_graph, save
from lepton_edge_tensorrt.proof import ProofSession, computable
from lepton_edge_tensorrt.typed import Half, product_types, write_precision
from onnx import TensorProto, helper, numpy_helper

from lepton_edge.backend import Compiled, Graph
from lepton_edge.builder.huggingface import load_folder
from lepton_edge.builder.torch_model import TorchOriginal
from lepton_edge.recipe import Recipe
from lepton_edge.tasks import task_class
from lepton_edge.tasks.text_classification import TextClassificationConfig
from tests.tiny import FAMILIES, WORDS, save_tiny

# torch and transformers announce what they will change; nothing of it is ours to act on.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

Feeds = dict[str, NDArray[Any]]
Array = NDArray[np.float32]

HALVES: tuple[Half, ...] = ("fp16", "bf16")
TYPES = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
# Of the largest output. A number in fp16 is off by up to 2**-11 and one in bf16 by 2**-8 of itself;
# the worst of these families was off by 0.0035 and 0.024.
TOLERANCE = {"fp16": 6e-3, "bf16": 5e-2}


# In a family's own words: two that follow each other in bert, one of each kind in modernbert; one
# in the others.
LAYERS: dict[str, dict[str, Any]] = {
    "bert": {"num_hidden_layers": 2},
    "distilbert": {"n_layers": 1},
    "modernbert": {"num_hidden_layers": 2},
}


def typed(base: Path, half: Half, **options: Any) -> ir.Model:
    model = ir.load(str(base))
    write_precision(model, half, **options)
    return model


def session_of(model: ir.Model, graph: Graph, file: Path) -> ProofSession:
    """The graph, on this machine's processor."""
    save(computable(model), file)
    return ProofSession(file, Compiled("", graph.inputs, graph.outputs, ""))


def nodes(model: ir.Model, *operators: str) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type in operators]


def types_of(model: ir.Model, *operators: str) -> set[str]:
    """The types of what these operators give."""
    return {dtype.name for node in nodes(model, *operators) if (dtype := node.outputs[0].dtype)}


# Every family.


@dataclass(frozen=True)
class Family:
    """A tiny encoder: its graph, its ONNX in fp32, and torch's own answers."""

    name: str
    graph: Graph
    base: Path
    pad_id: int

    def feeds(self, lengths: list[int], width: int) -> Feeds:
        random = np.random.default_rng(width)
        mask = (np.arange(width) < np.array(lengths)[:, None]).astype(np.int64)
        ids = random.integers(4, 4 + len(WORDS), mask.shape)
        feeds = {
            "input_ids": np.where(mask == 1, ids, self.pad_id),
            "attention_mask": mask,
            "token_type_ids": np.zeros_like(mask),
        }
        return {spec.name: feeds[spec.name] for spec in self.graph.inputs}

    def expected(self, feeds: Feeds) -> Array:
        assert self.graph.program is not None
        with torch.no_grad():
            (logits,) = self.graph.program.module()(*map(torch.from_numpy, feeds.values()))
        answer: Array = logits.numpy()
        return answer


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    work = tmp_path_factory.mktemp(request.param)
    changes = LAYERS.get(request.param, {"num_hidden_layers": 1})
    recipe = Recipe(name="tiny")
    loaded = load_folder(save_tiny(request.param, work / "model", **changes), recipe)
    task = task_class(loaded.task)
    config = task.configure(recipe.options_of_task(loaded.task), loaded.facts)
    graph = loaded.original.graph(loaded.task, config, work)
    save(onnx_from_graph(graph), work / "fp32.onnx")
    return Family(request.param, graph, work / "fp32.onnx", loaded.pad_id)


@pytest.mark.parametrize("half", HALVES)
def test_the_answers_stay_the_models_on_other_shapes_and_beside_padding(
    family: Family, half: Half, tmp_path: Path
) -> None:
    model = typed(family.base, half)
    with session_of(model, family.graph, tmp_path / "model.onnx") as session:
        for lengths, width in (([1], 1), ([5, 5, 5], 5), ([17, 9], 17), ([1, 3, 9, 30, 41], 48)):
            feeds = family.feeds(lengths, width)
            expected = family.expected(feeds)
            found = session.infer(feeds)["logits"]
            assert found.dtype == np.float32
            assert np.abs(found - expected).max() < TOLERANCE[half] * np.abs(expected).max()
        assert (found != expected).any()  # else nothing was rounded


@pytest.mark.parametrize("half", HALVES)
def test_what_is_halved_are_products_and_not_normalization_softmax_or_positions(
    family: Family, half: Half
) -> None:
    model = typed(family.base, half)
    small = TYPES[half].name
    assert types_of(model, "MatMul", "Gemm", "Gelu", "Erf", "Tanh") == {small}
    assert product_types(model.graph) == {small}
    assert types_of(model, "LayerNormalization", "Softmax") == {"FLOAT"}
    assert types_of(model, "Sin", "Cos", "Log", "Pow", "Ceil") <= {"FLOAT"}
    for node in nodes(model, "Softmax"):
        # The sum of scores and mask, and what makes a mask of zeros and ones.
        (scores,) = node.inputs
        assert scores is not None
        assert scores.dtype == ir.DataType.FLOAT
        producer = scores.producer()
        assert producer is not None
        assert producer.op_type in ("Add", "Where")
    for node in nodes(model, "LayerNormalization"):
        assert {value.dtype for value in node.inputs if value} == {ir.DataType.FLOAT}
    large = [w for w in model.graph.initializers.values() if w.dtype and len(w.shape or ()) == 2]
    floats = {w.dtype for w in large if w.dtype and w.dtype.is_floating_point()}
    assert floats == {TYPES[half]}
    check(model)


def test_inputs_and_outputs_keep_their_names_types_and_shapes(family: Family) -> None:
    before, after = ir.load(str(family.base)).graph, typed(family.base, "fp16").graph
    for old, new in ((before.inputs, after.inputs), (before.outputs, after.outputs)):
        assert [(v.name, v.dtype, v.shape) for v in old] == [
            (v.name, v.dtype, v.shape) for v in new
        ]
    assert after.outputs[0].dtype == ir.DataType.FLOAT


@pytest.mark.parametrize("half", HALVES)
def test_the_same_graph_gives_the_same_bytes(family: Family, half: Half) -> None:
    first, second = (_encoded(typed(family.base, half)) for _ in range(2))
    assert first == second


# Values that half cannot hold. The modules take ids and a mask, and give three logits.


class Loud(torch.nn.Module):
    """Sums of 80,000 and more before a normalization, of parts that half can hold."""

    def __init__(self, normalize: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = torch.nn.Embedding(50, 16)
        self.embedding.weight.data.sign_().mul_(40_000).add_(torch.randn(50, 16))
        self.first = torch.nn.Linear(16, 16)
        self.first.weight.data = torch.eye(16) + torch.randn(16, 16) * 1e-3
        self.second = torch.nn.Linear(16, 3)
        self.normalize = normalize

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden = self.embedding(input_ids)
        hidden = hidden + self.first(hidden)
        # A second layer's sum, on the same stream.
        hidden = hidden + self.first(self.normalize(hidden))
        normal = self.normalize(hidden) * attention_mask.unsqueeze(-1).to(hidden.dtype)
        logits: torch.Tensor = self.second(normal.sum(1) / 4)
        return logits


def rms_norm(hidden: torch.Tensor) -> torch.Tensor:
    return hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + 1e-6)


def rms_norm_by_root(hidden: torch.Tensor) -> torch.Tensor:
    return hidden / torch.sqrt((hidden * hidden).mean(-1, keepdim=True) + 1e-6)


def layer_norm_written_out(hidden: torch.Tensor) -> torch.Tensor:
    apart = hidden - hidden.mean(-1, keepdim=True)
    return apart / torch.sqrt(apart.pow(2).mean(-1, keepdim=True) + 1e-6)


NORMALIZATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "layer_norm": partial(torch.nn.functional.layer_norm, normalized_shape=(16,)),
    "rms_norm": rms_norm,
    "rms_norm_by_root": rms_norm_by_root,
    "layer_norm_written_out": layer_norm_written_out,
    "l2": torch.nn.functional.normalize,
}


def exported(module: torch.nn.Module, folder: Path) -> tuple[TorchOriginal, Graph, Path]:
    original = TorchOriginal(module.eval(), ("input_ids", "attention_mask"))
    config = TextClassificationConfig(("a", "b", "c"), False, 0.5)
    graph = original.graph("text-classification", config, folder)
    save(onnx_from_graph(graph), folder / "fp32.onnx")
    return original, graph, folder / "fp32.onnx"


def feeds_of(lengths: list[int], width: int) -> Feeds:
    mask = (np.arange(width) < np.array(lengths)[:, None]).astype(np.int64)
    return {
        "input_ids": np.random.default_rng(width).integers(0, 50, mask.shape),
        "attention_mask": mask,
    }


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_sums_beyond_half_are_normalized_rightly(name: str, tmp_path: Path) -> None:
    module = Loud(NORMALIZATIONS[name])
    original, graph, base = exported(module, tmp_path)
    feeds = feeds_of([4, 2], 4)
    expected = original.run(feeds)["logits"]
    with session_of(typed(base, "fp16"), graph, tmp_path / "half.onnx") as session:
        found = session.infer(feeds)["logits"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-3 * np.abs(expected).max())
    with torch.no_grad():  # all of it in half: what the pass is there for
        halved = module.half()(*map(torch.from_numpy, feeds.values())).float().numpy()
    assert not np.allclose(halved, expected, rtol=0, atol=0.1 * np.abs(expected).max())


class Attention(torch.nn.Module):
    """Attention with the smallest float as mask, as many models have it, and the largest token."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = torch.nn.Embedding(50, 16)
        self.linear = torch.nn.Linear(16, 3)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden = self.embedding(input_ids)
        mask = (1.0 - attention_mask[:, None, :].float()) * torch.finfo(torch.float32).min
        scores = hidden @ hidden.transpose(1, 2) / 4 + mask
        hidden = hidden + scores.softmax(-1) @ hidden
        largest = hidden.masked_fill(attention_mask[..., None] == 0, -torch.inf).amax(1)
        logits: torch.Tensor = self.linear(torch.tanh(largest))
        return logits


@pytest.mark.parametrize("half", HALVES)
def test_the_infinity_of_a_mask_does_not_become_nan(half: Half, tmp_path: Path) -> None:
    """A row of padding alone too: its scores are all the same number, not all minus infinity."""
    original, graph, base = exported(Attention(), tmp_path)
    model = typed(base, half)
    for value in model.graph.initializers.values():
        if value.dtype == TYPES[half]:
            assert value.const_value is not None
            assert np.isfinite(value.const_value.numpy().astype(np.float32)).all()
    assert types_of(model, "Softmax") == {"FLOAT"}
    feeds = feeds_of([6, 3, 0], 6)
    expected = original.run(feeds)["logits"]
    assert np.isfinite(expected).all()
    with session_of(model, graph, tmp_path / "half.onnx") as session:
        found = session.infer(feeds)["logits"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE[half])


@pytest.mark.parametrize("smallest", [float(np.finfo(np.float32).min), -np.inf])
@pytest.mark.parametrize("half", HALVES)
def test_a_mask_that_half_cannot_hold_becomes_its_smallest_number(
    tmp_path: Path, half: Half, smallest: float
) -> None:
    """Times zero, minus infinity would be no number."""
    base = made(
        tmp_path / "base.onnx",
        [
            helper.make_node("Cast", ["mask"], ["kept"], to=TensorProto.BOOL),
            helper.make_node("Where", ["kept", "one", "smallest"], ["filler"]),
            helper.make_node("MatMul", ["x", "w"], ["product"]),
            helper.make_node("Relu", ["product"], ["above"]),
            helper.make_node("Mul", ["above", "filler"], ["y"]),
        ],
        {"x": FLOATS, "mask": (TensorProto.INT64, [1, 4])},
        {"y": FLOATS},
        {
            "w": np.eye(4, dtype=np.float32),
            "one": np.array(1, np.float32),
            "smallest": np.array(smallest, np.float32),
        },
    )
    feeds = {"x": np.array([[3, 2, -1, -5]], np.float32), "mask": np.array([[1, 1, 0, 1]])}
    (found,) = run(typed(base, half), feeds)
    np.testing.assert_array_equal(found, np.array([[3, 2, 0, 0]], np.float32))


class Rotary(torch.nn.Module):
    """Angles of positions that fp16 and bf16 have not each of."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = torch.nn.Embedding(50, 16)
        self.linear = torch.nn.Linear(16, 3)
        self.register_buffer("frequencies", 1.0 / 100 ** (torch.arange(8) / 8))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        positions = (attention_mask.cumsum(1) + 4000).float()
        frequencies: Any = self.frequencies
        angles = positions[..., None] @ frequencies[None, None, :]
        turned = torch.cat((angles.cos(), angles.sin()), -1) * self.embedding(input_ids)
        logits: torch.Tensor = self.linear(turned.mean(1))
        return logits


@pytest.mark.parametrize("half", HALVES)
def test_angles_of_far_positions_are_exact(half: Half, tmp_path: Path) -> None:
    original, graph, base = exported(Rotary(), tmp_path)
    model = typed(base, half)
    assert types_of(model, "Cos", "Sin", "CumSum") == {"FLOAT", "INT64"}
    assert product_types(model.graph) == {TYPES[half].name}  # the angles are no product any more
    feeds = feeds_of([30, 7], 30)
    expected = original.run(feeds)["logits"]
    with session_of(model, graph, tmp_path / "half.onnx") as session:
        found = session.infer(feeds)["logits"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE[half])


# Graphs made by hand.


def made(
    file: Path,
    body: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, list[Any]]],
    outputs: dict[str, tuple[int, list[Any]]],
    weights: dict[str, NDArray[Any]],
) -> Path:
    def ports(of: dict[str, tuple[int, list[Any]]]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, *each) for name, each in of.items()]

    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(body, "made", ports(inputs), ports(outputs), initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, file)
    return file


def run(model: ir.Model | Path, feeds: Feeds) -> list[NDArray[Any]]:
    """What a file's graph gives, or a typed one's with each result rounded."""
    import onnxruntime

    if isinstance(model, ir.Model):
        check(model)
        model = computable(model)
        check(model)
    data = model.read_bytes() if isinstance(model, Path) else _encoded(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    found: list[NDArray[Any]] = session.run(None, feeds)
    return found


def check(model: ir.Model) -> None:
    """As ONNX knows types and shapes too, beside onnx_ir."""
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def _encoded(model: ir.Model) -> bytes:
    data: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    return data


def weight(*shape: int, seed: int = 0, scale: float = 1.0) -> Array:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


FLOATS = (TensorProto.FLOAT, ["batch", 4])


@pytest.mark.parametrize(("half", "dtype"), [("fp16", np.float16), ("bf16", ml_dtypes.bfloat16)])
def test_each_result_is_rounded(tmp_path: Path, half: Half, dtype: Any) -> None:
    """Left to itself ONNX Runtime computes fp16 in fp32, and rounds where it likes."""
    base = made(
        tmp_path / "base.onnx",
        [
            helper.make_node("MatMul", ["x", "w"], ["product"]),
            helper.make_node("Add", ["product", "b"], ["sum"]),
            helper.make_node("Tanh", ["sum"], ["y"]),
        ],
        {"x": FLOATS},
        {"y": FLOATS},
        {"w": weight(4, 4), "b": weight(4, seed=1)},
    )

    def rounded(array: NDArray[Any]) -> Array:
        nearest: Array = array.astype(dtype).astype(np.float32)
        return nearest

    x = weight(3, 4, seed=2)
    product = rounded(rounded(x) @ rounded(weight(4, 4)))
    expected = rounded(np.tanh(rounded(product + rounded(weight(4, seed=1)))))
    (found,) = run(typed(base, half), {"x": x})
    np.testing.assert_array_equal(found, expected)
    (full,) = run(base, {"x": x})
    assert not np.array_equal(found, full)


def test_fp16_overflows_where_nothing_guards_it(tmp_path: Path) -> None:
    """Else the tests above would prove nothing."""
    base = made(
        tmp_path / "base.onnx",
        [
            helper.make_node("MatMul", ["x", "w"], ["product"]),
            helper.make_node("Add", ["product", "product"], ["y"]),
        ],
        {"x": FLOATS},
        {"y": FLOATS},
        {"w": np.eye(4, dtype=np.float32) * 40_000},
    )
    x = np.ones((1, 4), np.float32)
    (found,) = run(typed(base, "fp16"), {"x": x})
    assert np.isinf(found).all()


def test_a_scalar_stays_a_scalar(tmp_path: Path) -> None:
    base = made(
        tmp_path / "base.onnx",
        [
            helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
            helper.make_node("Mul", ["largest", "two"], ["y"]),
        ],
        {"x": FLOATS},
        {"y": (TensorProto.FLOAT, [])},
        {"two": np.array(2, np.float32)},
    )
    x = weight(2, 4)
    (found,) = run(typed(base, "fp16"), {"x": x})
    assert found.shape == ()
    assert found == pytest.approx(2 * x.max(), rel=1e-3)


@pytest.mark.parametrize("shape", [(1,), (1, 5), (2, 1, 5)])
def test_a_product_over_one_element_is_a_multiplication_of_the_same_shape(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    w = weight(*shape)
    x = weight(2, 3, 1, seed=1)
    base = made(
        tmp_path / "base.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"x": (TensorProto.FLOAT, ["batch", 3, 1])},
        {"y": (TensorProto.FLOAT, ["batch", 3, *shape[-1:]][: 2 if shape == (1,) else 3])},
        {"w": w},
    )
    model = typed(base, "fp16")
    assert len(nodes(model, "Mul")) == (shape != (1,))
    (found,) = run(model, {"x": x})
    assert found.shape == (x @ w).shape
    np.testing.assert_allclose(found, x @ w, rtol=0, atol=5e-3)


def test_ports_are_halved_where_told_and_only_those(tmp_path: Path) -> None:
    base = made(
        tmp_path / "base.onnx",
        [
            helper.make_node("Concat", ["past", "x"], ["present"], axis=0),
            helper.make_node("MatMul", ["present", "w"], ["product"]),
            helper.make_node("Softmax", ["product"], ["y"]),
        ],
        {"x": FLOATS, "past": (TensorProto.FLOAT, ["past", 4])},
        {"y": (TensorProto.FLOAT, ["total", 4]), "present": (TensorProto.FLOAT, ["total", 4])},
        {"w": weight(4, 4)},
    )
    model = typed(base, "fp16", half_ports=("past", "present"))
    half, full = ir.DataType.FLOAT16, ir.DataType.FLOAT
    assert [(v.name, v.dtype) for v in model.graph.inputs] == [("x", full), ("past", half)]
    assert [(v.name, v.dtype) for v in model.graph.outputs] == [("y", full), ("present", half)]
    x, past = weight(2, 4, seed=1), weight(3, 4, seed=2).astype(np.float16)
    y, present = run(model, {"x": x, "past": past})
    assert y.dtype == np.float32
    assert present.dtype == np.float16
    np.testing.assert_array_equal(present, np.concatenate([past, x.astype(np.float16)]))
    plain, _ = run(base, {"x": x, "past": past.astype(np.float32)})
    np.testing.assert_allclose(y, plain, rtol=0, atol=3e-3)


def test_an_output_that_others_read_keeps_its_name(tmp_path: Path) -> None:
    base = made(
        tmp_path / "base.onnx",
        [
            helper.make_node("MatMul", ["x", "w"], ["hidden"]),
            helper.make_node("Softmax", ["hidden"], ["y"]),
            helper.make_node("MatMul", ["hidden", "w"], ["z"]),
        ],
        {"x": FLOATS},
        {"hidden": FLOATS, "y": FLOATS, "z": FLOATS},
        {"w": weight(4, 4)},
    )
    model = typed(base, "fp16")
    assert [(v.name, v.dtype) for v in model.graph.outputs] == [
        (name, ir.DataType.FLOAT) for name in ("hidden", "y", "z")
    ]
    x = weight(2, 4, seed=1)
    for found, plain in zip(run(model, {"x": x}), run(base, {"x": x}), strict=True):
        np.testing.assert_allclose(found, plain, rtol=0, atol=2e-2)


def test_a_scale_that_half_cannot_hold_stays(tmp_path: Path) -> None:
    """A scale of 1e-5 has 7 bits in fp16: a whole channel would be off by up to a hundredth."""
    numbers = np.array([[-127, 3], [50, 127], [1, -9], [77, 60]], np.int8)
    scales = np.array([1e-5, 3e-6], np.float32)
    base = made(
        tmp_path / "base.onnx",
        [
            helper.make_node("MatMul", ["x", "one"], ["product"]),
            helper.make_node("QuantizeLinear", ["product", "tiny"], ["small"]),
            helper.make_node("DequantizeLinear", ["small", "tiny"], ["rounded"]),
            helper.make_node("DequantizeLinear", ["numbers", "scales"], ["w"], axis=1),
            helper.make_node("Mul", ["w", "large"], ["v"]),
            helper.make_node("Mul", ["rounded", "large"], ["u"]),
            helper.make_node("MatMul", ["u", "v"], ["y"]),
        ],
        {"x": FLOATS},
        {"y": (TensorProto.FLOAT, ["batch", 2])},
        {
            "numbers": numbers,
            "scales": scales,
            "one": np.eye(4, dtype=np.float32),
            "tiny": np.array(1e-7, np.float32),
            "large": np.array(1000, np.float32),
        },
    )
    x = np.array([[2.0**-17, 2.0**-20, -(2.0**-18), 2.0**-17]], np.float32)  # fp16 has them
    model = typed(base, "fp16")
    assert types_of(model, "DequantizeLinear") == {"FLOAT"}
    assert types_of(model, "MatMul") == {"FLOAT16"}
    (found,) = run(model, {"x": x})
    (plain,) = run(base, {"x": x})
    # The products of the tiny numbers are fp16's own; with scales in fp16 it was a sixth.
    np.testing.assert_allclose(found, plain, rtol=0, atol=1e-2 * np.abs(plain).max())


# Loops and branches.


def inner(name: str, *body: onnx.NodeProto, inputs: tuple[Any, ...] = (), **outputs: Any) -> Any:
    ports = [helper.make_tensor_value_info(each, *port) for each, port in outputs.items()]
    return helper.make_graph(list(body), name, list(inputs), ports)


def branching(file: Path) -> Path:
    """Of what was multiplied outside: its product with a weight, or its exponential."""
    then = inner("then", helper.make_node("MatMul", ["hidden", "w"], ["then_y"]), then_y=FLOATS)
    other = inner("else", helper.make_node("Exp", ["hidden"], ["else_y"]), else_y=FLOATS)
    return made(
        file,
        [
            helper.make_node("MatMul", ["x", "w"], ["hidden"]),
            helper.make_node("If", ["condition"], ["chosen"], then_branch=then, else_branch=other),
            helper.make_node("MatMul", ["chosen", "w"], ["y"]),
        ],
        {"x": FLOATS, "condition": (TensorProto.BOOL, [])},
        {"y": FLOATS},
        {"w": weight(4, 4, scale=0.5)},
    )


def looping(file: Path) -> Path:
    """x multiplied by a weight a few times, with what was multiplied outside added."""
    body = inner(
        "body",
        helper.make_node("MatMul", ["state", "w"], ["product"]),
        helper.make_node("Add", ["product", "hidden"], ["next"]),
        helper.make_node("Identity", ["go_on"], ["still"]),
        inputs=(
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", *FLOATS),
        ),
        still=(TensorProto.BOOL, []),
        next=FLOATS,
    )
    return made(
        file,
        [
            helper.make_node("MatMul", ["x", "w"], ["hidden"]),
            helper.make_node("Tanh", ["hidden"], ["start"]),
            helper.make_node("Loop", ["count", "condition", "start"], ["last"], body=body),
            helper.make_node("MatMul", ["last", "w"], ["y"]),
        ],
        {"x": FLOATS, "condition": (TensorProto.BOOL, [])},
        {"y": FLOATS},
        {"w": weight(4, 4, scale=0.3), "count": np.array(3, np.int64)},
    )


@pytest.mark.parametrize("write", [branching, looping])
@pytest.mark.parametrize("half", HALVES)
def test_loops_and_branches_compute_in_fp32_and_are_fed_that(
    tmp_path: Path, write: Callable[[Path], Path], half: Half
) -> None:
    base = write(tmp_path / "base.onnx")
    model = typed(base, half)
    assert product_types(model.graph) == {TYPES[half].name, "FLOAT"}
    (control,) = nodes(model, "If", "Loop")
    for graph in control.attributes.values():
        for node in graph.value:
            for value in (*node.inputs, *node.outputs):
                assert value is None or value.dtype != TYPES[half]
    assert control.outputs[0].dtype == ir.DataType.FLOAT
    for condition in (True, False):
        feeds = {"x": weight(3, 4, seed=1), "condition": np.array(condition)}
        (found,) = run(typed(base, half), feeds)
        (plain,) = run(base, feeds)
        np.testing.assert_allclose(
            found, plain, rtol=0, atol=TOLERANCE[half] * max(1, np.abs(plain).max())
        )


# Any graph of these operators. None of them makes an error larger than its inputs' by much.

STEPS = (
    "MatMul", "Add", "Sub", "Mul", "Div", "Where", "Max", "Concat", "Tanh", "Relu", "Sigmoid",
    "Neg", "Softmax", "LayerNormalization", "rms", "Exp", "ReduceMean", "Transpose", "Reshape",
    "mask", "Identity", "Cast",
)  # fmt: skip


class Drawn:
    """Builds a graph of values of [4, 4], step by step; each reads one or two earlier values."""

    def __init__(self) -> None:
        self.body: list[onnx.NodeProto] = []
        self.values = ["x"]
        self.weights: dict[str, NDArray[Any]] = {
            "shape": np.array([4, 4], np.int64),
            "low": np.array(-np.inf, np.float32),
            "one": np.array(1, np.float32),
            "axis": np.array([-1], np.int64),
            "zero": np.array([0], np.int64),
            "four": np.array([4], np.int64),
        }

    def add(self, step: str, a: str, b: str) -> None:
        index = len(self.values)
        name = f"{step}_{index}"
        write = getattr(self, f"_{step.lower()}", None)
        if write:
            write(name, a, b)
        else:
            inputs = [a, b] if step in ("Add", "Sub", "Max") else [a]
            self._node(step, inputs, name)
        self.values.append(name)

    def _node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.body.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def _matmul(self, name: str, a: str, b: str) -> None:
        matrix, _ = np.linalg.qr(weight(4, 4, seed=len(self.values)))
        self.weights[f"{name}.w"] = matrix.astype(np.float32)
        self._node("MatMul", [a, f"{name}.w"], name)

    def _mul(self, name: str, a: str, b: str) -> None:
        bounded = self._node("Tanh", [b], f"{name}.bounded")
        self._node("Mul", [self._node("Tanh", [a], f"{name}.other"), bounded], name)

    def _div(self, name: str, a: str, b: str) -> None:
        bounded = self._node("Sigmoid", [b], f"{name}.bounded")
        self._node("Div", [a, self._node("Add", [bounded, "one"], f"{name}.above")], name)

    def _where(self, name: str, a: str, b: str) -> None:
        condition = self._node("Greater", ["x", "one"], f"{name}.condition")
        self._node("Where", [condition, a, b], name)

    def _mask(self, name: str, a: str, b: str) -> None:
        """A maximum with minus infinity where a mask is 0."""
        kept = self._node("Cast", ["mask"], f"{name}.kept", to=TensorProto.BOOL)
        filler = self._node("Where", [kept, "one", "low"], f"{name}.filler")
        self._node("Max", [a, filler], name)

    def _concat(self, name: str, a: str, b: str) -> None:
        both = self._node("Concat", [a, b], f"{name}.both", axis=0)
        self._node("Slice", [both, "zero", "four", "zero"], name)

    def _exp(self, name: str, a: str, b: str) -> None:
        self._node("Exp", [self._node("Tanh", [a], f"{name}.bounded")], name)

    def _softmax(self, name: str, a: str, b: str) -> None:
        self._node("Softmax", [a], name, axis=-1)

    def _layernormalization(self, name: str, a: str, b: str) -> None:
        self.weights[f"{name}.g"] = np.ones(4, np.float32)
        self._node("LayerNormalization", [a, f"{name}.g"], name, epsilon=1.0)

    def _rms(self, name: str, a: str, b: str) -> None:
        squares = self._node("Mul", [a, a], f"{name}.squares")
        mean = self._node("ReduceMean", [squares, "axis"], f"{name}.mean")
        above = self._node("Add", [mean, "one"], f"{name}.above")
        self._node("Div", [a, self._node("Sqrt", [above], f"{name}.root")], name)

    def _reducemean(self, name: str, a: str, b: str) -> None:
        mean = self._node("ReduceMean", [a, "axis"], f"{name}.mean", keepdims=1)
        self._node("Add", [mean, b], name)

    def _transpose(self, name: str, a: str, b: str) -> None:
        self._node("Transpose", [a], name, perm=[1, 0])

    def _reshape(self, name: str, a: str, b: str) -> None:
        self._node("Reshape", [a, "shape"], name)

    def _cast(self, name: str, a: str, b: str) -> None:
        """Of a whole number that the mask gives, as positions are."""
        sums = self._node("CumSum", ["mask", "zero"], f"{name}.sums")
        number = self._node("Cast", [sums], f"{name}.number", to=TensorProto.FLOAT)
        self._node("Add", [a, self._node("Sin", [number], f"{name}.sine")], name)


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(STEPS), st.integers(0, 20), st.integers(0, 20)),
        min_size=1,
        max_size=10,
    ),
    half=st.sampled_from(HALVES),
)
def test_any_graph_answers_as_in_fp32(
    tmp_path: Path, steps: list[tuple[str, int, int]], half: Half
) -> None:
    drawn = Drawn()
    for step, a, b in steps:
        values = drawn.values
        drawn.add(step, values[-1 - a % len(values)], values[-1 - b % len(values)])
    last = drawn.values[-1]
    base = made(
        tmp_path / "base.onnx",
        drawn.body,
        {"x": (TensorProto.FLOAT, [4, 4]), "mask": (TensorProto.INT64, [1, 4])},
        {last: (TensorProto.FLOAT, [4, 4])},
        drawn.weights,
    )
    model = typed(base, half)
    assert _encoded(model) == _encoded(typed(base, half))
    assert types_of(model, "Softmax", "LayerNormalization", "Sqrt", "ReduceMean", "Exp") <= {
        "FLOAT"
    }
    feeds = {"x": weight(4, 4, seed=3), "mask": np.array([[1, 1, 0, 1]])}
    (found,) = run(model, feeds)
    (plain,) = run(base, feeds)
    size = max(1.0, float(np.abs(plain).max()))
    np.testing.assert_allclose(found, plain, rtol=0, atol=4 * TOLERANCE[half] * size)
