"""Every installed backend, on a small torch graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lepton_edge import registry
from lepton_edge.builder.torch_model import TorchOriginal
from lepton_edge.errors import BackendError
from lepton_edge.target import TARGETS
from lepton_edge.tasks.text_classification import TextClassificationConfig
from lepton_edge.testing import CONFORMANCE, NEED_A_DEVICE, Case

_TARGETS = {"tensorrt": "rtx"}  # the one that is compiled without a device
BACKENDS = [entry.name for entry in registry.entries()]


class Bag(torch.nn.Module):
    """Mean of the tokens' vectors, then a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = torch.nn.Embedding(50, 16)
        self.linear = torch.nn.Linear(16, 3)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        kept = attention_mask.unsqueeze(-1).float()
        mean = (self.embedding(input_ids) * kept).sum(1) / kept.sum(1).clamp(min=1)
        logits: torch.Tensor = self.linear(torch.tanh(mean))
        return logits


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("check", CONFORMANCE, ids=lambda check: check.__name__)
def test_backend_conforms(check: Callable[[Case], None], backend: str, tmp_path: Path) -> None:
    opened = registry.get(backend)
    try:
        probe = opened.probe()
    except BackendError as error:
        pytest.skip(f"the backend {backend} cannot be used here: {error.message}")
    if check in NEED_A_DEVICE and not probe.devices:
        pytest.skip(f"{backend} has no device here: {'; '.join(probe.remarks)}")
    original = TorchOriginal(Bag(), ("input_ids", "attention_mask"))
    config = TextClassificationConfig(("a", "b", "c"), False, 0.5)
    graph = original.graph("text-classification", config, tmp_path)

    def feeds(batch: int, length: int) -> dict[str, NDArray[Any]]:
        random = np.random.default_rng(batch * 100 + length)
        ids = random.integers(0, 50, (batch, length))
        mask = (np.arange(length) < random.integers(1, length + 1, (batch, 1))).astype(np.int64)
        return {"input_ids": ids, "attention_mask": mask}

    def reference(given: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return dict(original.run(given))

    target = TARGETS[_TARGETS.get(backend, "intel-cpu")]
    check(Case(opened, graph, target, feeds, reference, tmp_path))


def test_a_backend_is_installed() -> None:
    assert BACKENDS, "no backend is installed: pip install -e backends/openvino"
