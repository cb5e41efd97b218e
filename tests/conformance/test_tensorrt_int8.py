"""Eight bits on TensorRT: what is quantized, how, and how little is given up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray

pytest.importorskip("lepton_edge_tensorrt", reason="the TensorRT backend is not installed")

from lepton_edge_tensorrt.backend import TensorRTBackend
from lepton_edge_tensorrt.library import flavour
from lepton_edge_tensorrt.onnx_export import onnx_from_graph
from lepton_edge_tensorrt.plan import ONNX

from lepton_edge.backend import Aside, Compiled, Graph, Precision, Quantization, Session
from lepton_edge.builder.torch_model import TorchOriginal
from lepton_edge.errors import BackendError
from lepton_edge.target import TARGETS
from lepton_edge.tasks.text_classification import TextClassificationConfig

BACKEND = TensorRTBackend()
CONFIG = TextClassificationConfig(("a", "b", "c"), False, 0.5)
Feeds = dict[str, NDArray[Any]]


class Attentive(torch.nn.Module):
    """One layer of attention, a product after a ReLU, and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = torch.nn.Embedding(50, 32)
        self.query, self.key, self.value = (torch.nn.Linear(32, 32) for _ in range(3))
        self.norm = torch.nn.LayerNorm(32)
        self.inner, self.outer = torch.nn.Linear(32, 64), torch.nn.Linear(64, 32)
        self.head = torch.nn.Linear(32, 3)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        x = self.embedding(input_ids)
        scores = self.query(x) @ self.key(x).transpose(1, 2) / 32**0.5
        scores = scores.masked_fill(attention_mask[:, None, :] == 0, float("-inf"))
        x = self.norm(x + scores.softmax(-1) @ self.value(x))
        x = x + self.outer(torch.relu(self.inner(x)))
        kept = attention_mask.unsqueeze(-1).float()
        logits: torch.Tensor = self.head((x * kept).sum(1) / kept.sum(1))
        return logits


@pytest.fixture(scope="module", autouse=True)
def _rtx() -> None:
    try:
        flavour("tensorrt_rtx")
    except BackendError as error:
        pytest.skip(f"needs TensorRT for RTX: {error.message}")


@pytest.fixture(scope="module")
def original() -> TorchOriginal:
    return TorchOriginal(Attentive(), ("input_ids", "attention_mask"))


@pytest.fixture(scope="module")
def graph(original: TorchOriginal, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return original.graph("text-classification", CONFIG, tmp_path_factory.mktemp("graph"))


def feeds(seed: int) -> Feeds:
    random = np.random.default_rng(seed)
    ids = random.integers(0, 50, (1, 4 + seed % 20))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


FEEDS = [feeds(seed) for seed in range(40)]


def build(
    graph: Graph,
    directory: Path,
    precision: Precision = "int8",
    say: Callable[[str], None] = lambda step: None,
    **changes: Any,
) -> tuple[Path, Compiled, Aside]:
    """For a Jetson, whose artifact is the typed graph."""
    aside = Aside(directory / "aside", say)
    for each in (directory, directory / "aside", directory / "artifact"):
        each.mkdir()
    quantization = Quantization(FEEDS, **changes)
    options, target = BACKEND.Options(), TARGETS["jetson-orin"]
    compiled = BACKEND.build(
        graph, target, precision, options, directory / "artifact", quantization, aside
    )
    return directory / "artifact", compiled, aside


def agreement(original: TorchOriginal, session: Session) -> float:
    """Higher is better: minus the mean error on inputs that were not calibrated on."""
    given = [feeds(seed) for seed in range(100, 120)]
    errors = [np.abs(session.infer(x)["logits"] - original.run(x)["logits"]).mean() for x in given]
    return -float(np.mean(errors))


def quantizers(folder: Path) -> Iterator[tuple[str, NDArray[Any], NDArray[Any]]]:
    """Each rounding's kind, scale and zero point."""
    model = ir.load(folder / ONNX)
    for node in model.graph:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scale, zero = node.inputs[1], node.inputs[2]
            assert scale is not None
            assert zero is not None
            assert scale.const_value is not None
            assert zero.const_value is not None
            yield node.op_type, scale.const_value.numpy(), zero.const_value.numpy()


def test_quantization_is_symmetric_and_signed(graph: Graph, tmp_path: Path) -> None:
    folder, compiled, _ = build(graph, tmp_path / "a")
    found = list(quantizers(folder))
    assert {kind for kind, _, _ in found} == {"QuantizeLinear", "DequantizeLinear"}
    for _, scale, zero in found:
        assert zero.dtype == np.int8  # after the ReLU too
        assert not zero.any()
        assert (scale > 0).all()
    assert any(scale.size > 1 for _, scale, _ in found)  # a scale for each channel of a weight
    assert compiled.precision == "int8"
    assert compiled.settings["compute"] == "fp16"


def test_attention_is_computed_in_16_bits(graph: Graph, tmp_path: Path) -> None:
    folder, _, _ = build(graph, tmp_path / "a")
    model = ir.load(folder / ONNX)
    products = [node for node in model.graph if node.op_type in ("MatMul", "Gemm")]
    quantized = [
        node
        for node in products
        if any(
            value is not None
            and (producer := value.producer()) is not None
            and producer.op_type == "DequantizeLinear"
            for value in node.inputs
        )
    ]
    assert len(products) == 8
    assert len(quantized) == 6  # all but queries with keys, and weights with values


def test_the_rest_is_in_16_bits_and_answers_nearly_the_same(
    original: TorchOriginal, graph: Graph, tmp_path: Path
) -> None:
    artifact = build(graph, tmp_path / "a")
    kinds = {each.data_type for each in onnx.load(artifact[0] / ONNX).graph.initializer}
    assert {onnx.TensorProto.INT8, onnx.TensorProto.FLOAT16} <= kinds
    with BACKEND.prove(*artifact) as session:
        assert -agreement(original, session) < 0.05


def test_operations_are_left_in_higher_precision_until_the_score_is_reached(
    original: TorchOriginal, graph: Graph, tmp_path: Path
) -> None:
    plain = build(graph, tmp_path / "plain")
    with BACKEND.prove(*plain) as session:
        before = agreement(original, session)
    steps: list[str] = []
    controlled = build(
        graph,
        tmp_path / "controlled",
        score=lambda session, count: agreement(original, session),
        at_least=before / 2,
        say=steps.append,
    )
    with BACKEND.prove(*controlled) as session:
        after = agreement(original, session)
    assert plain[1].kept == ()
    assert 0 < len(controlled[1].kept) <= 6
    assert after > before
    assert any("ranking" in step for step in steps)
    assert any("in higher precision" in step for step in steps)
    sizes = [(each[0] / ONNX).stat().st_size for each in (plain, controlled)]
    assert sizes[1] < 1.2 * sizes[0]  # weights stay in 8 bits


def test_a_score_out_of_reach_leaves_small_weights_alone(graph: Graph, tmp_path: Path) -> None:
    folder, compiled, _ = build(
        graph, tmp_path / "a", score=lambda session, count: 0.0, at_least=1.0
    )
    assert {kind for kind, _, _ in quantizers(folder)} == {"DequantizeLinear"}
    assert len(compiled.kept) >= 5


def test_recurrent_models_are_sent_to_small_weights(tmp_path: Path) -> None:
    class Recurrent(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = torch.nn.Embedding(50, 8)
            self.lstm = torch.nn.LSTM(8, 8, batch_first=True)
            self.linear = torch.nn.Linear(8, 3)

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            outputs, _ = self.lstm(self.embedding(input_ids))
            logits: torch.Tensor = self.linear(outputs[:, -1])
            return logits

    recurrent = TorchOriginal(Recurrent(), ("input_ids",))
    made = recurrent.graph("text-classification", CONFIG, tmp_path)
    with pytest.raises(BackendError, match="not for models with LSTM or GRU") as caught:
        build(made, tmp_path / "int8")
    assert caught.value.hint == "build with precision: int8-weights"


def test_int8_without_inputs_to_calibrate_on_is_refused(graph: Graph, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="int8 needs inputs to calibrate on"):
        BACKEND.build(graph, TARGETS["rtx"], "int8", BACKEND.Options(), tmp_path)


def test_an_older_onnx_file_is_raised_to_an_opset_with_16_bit_scales(
    original: TorchOriginal, graph: Graph, tmp_path: Path
) -> None:
    file = tmp_path / "old.onnx"
    ir.save(onnx_from_graph(graph, 18), file)
    artifact = build(Graph(graph.inputs, graph.outputs, onnx=file), tmp_path / "a")
    assert onnx.load(artifact[0] / ONNX).opset_import[0].version >= 19
    with BACKEND.prove(*artifact) as session:
        assert -agreement(original, session) < 0.05
