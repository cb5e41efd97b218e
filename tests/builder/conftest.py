"""What makes many small builds fast."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from lepton_edge import registry
from lepton_edge.target import GIB, TARGETS, Target
from lepton_edge.testing import write_fake_distribution
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


@pytest.fixture
def crooked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Installs a class of tests/builder/crooked.py as a backend, and gives a target for it."""

    def install(name: str) -> str:
        points_to = f"tests.builder.crooked:{name}"
        write_fake_distribution(tmp_path / "plugins", backend="crooked", points_to=points_to)
        monkeypatch.syspath_prepend(str(tmp_path / "plugins"))
        registry._load.cache_clear()
        target = Target("crooked", "crooked", "CPU", "none", GIB, "for tests")
        monkeypatch.setitem(TARGETS, "crooked", target)
        return "crooked"

    return install
