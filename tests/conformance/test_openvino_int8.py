"""What is OpenVINO's own about eight bits: accuracy under control, and NNCF kept quiet."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

pytest.importorskip("lepton_edge_openvino", reason="the OpenVINO backend is not installed")
pytest.importorskip("nncf", reason="needs the extra build")

from lepton_edge_openvino.backend import OpenVINOBackend
from lepton_edge_openvino.options import OpenVINOOptions

from lepton_edge.backend import Aside, Compiled, Graph, Precision, Quantization, Session
from lepton_edge.builder.torch_model import TorchOriginal
from lepton_edge.errors import BackendError
from lepton_edge.quantization.control import _fewest
from lepton_edge.target import TARGETS
from lepton_edge.tasks.text_classification import TextClassificationConfig

BACKEND = OpenVINOBackend()
INPUTS = ("input_ids", "attention_mask")
CONFIG = TextClassificationConfig(("a", "b", "c"), False, 0.5)


class Deep(torch.nn.Module):
    """Several matrix products, one of them with a number so large that 8 bits lose the rest."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = torch.nn.Embedding(50, 32)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(32, 32) for _ in range(4))
        self.linear = torch.nn.Linear(32, 3)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden = self.embedding(input_ids)
        for place, layer in enumerate(self.layers):
            hidden = torch.tanh(layer(hidden))
            if place == 1:  # most tokens are near zero beside those of one kind
                hidden = hidden * torch.where(input_ids == 7, 900.0, 1.0).unsqueeze(-1)
        kept = attention_mask.unsqueeze(-1).float()
        logits: torch.Tensor = self.linear((hidden * kept).sum(1) / kept.sum(1))
        return logits


@pytest.fixture(scope="module")
def original() -> TorchOriginal:
    return TorchOriginal(Deep(), INPUTS)


@pytest.fixture(scope="module")
def graph(original: TorchOriginal, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return original.graph("text-classification", CONFIG, tmp_path_factory.mktemp("graph"))


def feeds(seed: int) -> dict[str, NDArray[Any]]:
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
) -> Compiled:
    directory.mkdir()
    quantization, aside = Quantization(FEEDS, **changes), Aside(None, say)
    return BACKEND.build(
        graph, TARGETS["intel-cpu"], precision, OpenVINOOptions(), directory, quantization, aside
    )


def agreement(original: TorchOriginal, session: Session) -> float:
    """Higher is better: minus the mean error on inputs that were not calibrated on."""
    given = [feeds(seed) for seed in range(100, 140)]
    errors = [np.abs(session.infer(x)["logits"] - original.run(x)["logits"]).mean() for x in given]
    return -float(np.mean(errors))


def test_operations_are_left_in_higher_precision_until_the_score_is_reached(
    original: TorchOriginal, graph: Graph, tmp_path: Path
) -> None:
    plain = build(graph, tmp_path / "plain")
    with BACKEND.load(tmp_path / "plain", plain) as session:
        before = agreement(original, session)
    steps: list[str] = []
    controlled = build(
        graph,
        tmp_path / "controlled",
        score=lambda session, count: agreement(original, session),
        at_least=before / 2,
        say=steps.append,
    )
    with BACKEND.load(tmp_path / "controlled", controlled) as session:
        after = agreement(original, session)
    assert plain.kept == ()
    assert 0 < len(controlled.kept) < 5
    assert all("MatMul" in name or "linear" in name for name in controlled.kept)
    assert after > before
    assert any("ranking" in step for step in steps)
    assert any("in higher precision" in step for step in steps)
    size = [(tmp_path / name / "model.bin").stat().st_size for name in ("plain", "controlled")]
    assert size[1] < 1.2 * size[0]  # weights stay in 8 bits


def test_a_score_out_of_reach_ends_with_small_weights_alone(
    original: TorchOriginal, graph: Graph, tmp_path: Path
) -> None:
    found = build(graph, tmp_path / "controlled", score=lambda session, count: 0.0, at_least=1.0)
    weights = build(graph, tmp_path / "weights", "int8-weights")
    with (
        BACKEND.load(tmp_path / "controlled", found) as one,
        BACKEND.load(tmp_path / "weights", weights) as other,
    ):
        for given in FEEDS[:5]:
            np.testing.assert_array_equal(one.infer(given)["logits"], other.infer(given)["logits"])
    assert found.kept


@pytest.mark.parametrize("most", [1, 2, 3, 7, 26])
def test_the_fewest_that_reach_the_score_are_found(most: int) -> None:
    for needed in range(1, most + 2):
        asked: list[int] = []

        def reached(count: int, needed: int = needed, asked: list[int] = asked) -> bool:
            asked.append(count)
            return count >= needed

        assert _fewest(reached, most) == min(needed, most)
        assert max(asked) <= most
        assert len(asked) == len(set(asked))


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
    graph = recurrent.graph("text-classification", CONFIG, tmp_path)
    with pytest.raises(BackendError, match="not for models with LSTM or GRU") as caught:
        build(graph, tmp_path / "int8")
    assert caught.value.hint == "build with precision: int8-weights"
    assert build(graph, tmp_path / "weights", "int8-weights").precision == "int8"


def test_int8_without_inputs_to_calibrate_on_is_refused(graph: Graph, tmp_path: Path) -> None:
    target = TARGETS["intel-cpu"]
    with pytest.raises(BackendError, match="int8 needs inputs to calibrate on"):
        BACKEND.build(graph, target, "int8", OpenVINOOptions(), tmp_path)


def test_nncf_prints_nothing_and_leaves_logging_as_it_was(
    graph: Graph, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    loggers = logging.getLoggerClass()
    build(graph, tmp_path / "int8")
    assert logging.getLoggerClass() is loggers
    printed = capfd.readouterr()
    assert printed.out == ""


def test_nncf_is_imported_without_its_telemetry() -> None:
    """In a process of its own, that must not make a socket."""
    code = """
import sys
def refuse(event, arguments):
    if event.startswith("socket."):
        raise AssertionError(f"{event} {arguments}")
sys.addaudithook(refuse)
from lepton_edge_openvino.library import nncf
with nncf() as library:
    assert library.quantize
from nncf.telemetry.wrapper import telemetry
print(type(telemetry).__name__ == "NNCFTelemetry", "openvino_telemetry" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
