"""Fixtures for all tiers: no network, a cache of one's own, fake and tiny models."""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from lepton_edge import registry
from lepton_edge.bundle import Bundle
from lepton_edge.testing import write_fake_bundle, write_fake_distribution

# Beside other workers each has one thread for torch's products: with threads that wait for each
# other on processors that others use, int8 of the real models took more than twice as long. Before
# torch is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# In CI the same examples each time: a new one is found, and mended, by hand.
settings.register_profile("ci", derandomize=True, deadline=None)
if os.environ.get("CI"):
    settings.load_profile("ci")

SHARED = Path(__file__).parents[2] / "shared"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--families", help="write docs/families.md there from the results")


def pytest_configure(config: pytest.Config) -> None:
    # Workers of pytest-xdist have the option too, and no results but their own.
    if (file := config.getoption("--families")) and not hasattr(config, "workerinput"):
        from tests.families_page import FamilyResults

        config.pluginmanager.register(FamilyResults(Path(file)))


@pytest.fixture(scope="module", autouse=True)
def _old_objects_are_left_alone() -> None:
    """What the modules before left, torch and transformers most of all, is not walked through at
    each garbage collection: what measures calls for one each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here may reach out; loopback is for servers that a test starts itself."""
    real = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] != "127.0.0.1":
            raise OSError(f"a test tried to connect to {address}")
        real(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    path = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(path))
    return path


@pytest.fixture
def fake_backend(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """The folder on the path whose package metadata names `FakeBackend` as ``fake``."""
    folder = tmp_path_factory.mktemp("plugins")
    write_fake_distribution(folder)
    monkeypatch.syspath_prepend(str(folder))
    registry._load.cache_clear()
    yield folder
    registry._load.cache_clear()


@pytest.fixture
def without_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where that backend, of which there are targets, is not installed."""
    entries = registry.entries
    monkeypatch.setattr(
        registry, "entries", lambda: tuple(each for each in entries() if each.name != "tensorrt")
    )


@pytest.fixture
def fake_bundle(tmp_path: Path, fake_backend: Path) -> Callable[..., Bundle]:
    """Makes a bundle for the fake backend; see `lepton_edge.testing.write_fake_bundle`."""

    def make(name: str = "bundle", **options: Any) -> Bundle:
        return write_fake_bundle(tmp_path / name, **options)

    return make


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random BERT classifier with three labels, as a Hugging Face folder."""
    from tests.tiny import save_tiny

    return save_tiny("bert", tmp_path_factory.mktemp("models") / "tiny-bert")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real models and data; the test is skipped where they are not there."""
    if not SHARED.is_dir():
        pytest.skip(f"needs real models and data in {SHARED}, which is not there")
    return SHARED
