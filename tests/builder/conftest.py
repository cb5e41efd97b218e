"""What makes many small builds fast."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.tiny import save_tiny


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Models of this size lose more to torch's threads waiting for each other than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The classifier of all tests, with one layer: the time of an export is in the layers."""
    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    return save_tiny("bert", folder, num_hidden_layers=1)
