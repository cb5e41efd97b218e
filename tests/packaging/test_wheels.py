"""The wheels built from this tree, installed without the extra `build` where nothing else is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import lepton_edge

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("wheels")
    for project in (ROOT, ROOT / "backends" / "openvino", ROOT / "backends" / "tensorrt"):
        _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", folder, project)
    return {path.name.split("-")[0]: path for path in folder.glob("*.whl")}


@pytest.fixture(scope="module")
def installed(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a clean environment with the two wheels in it."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    _run(sys.executable, "-m", "venv", folder)
    constraints = ROOT / "constraints.txt"
    pip = (folder / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install", "-q")
    _run(*pip, "-c", constraints, wheels["lepton_edge"], wheels["lepton_edge_openvino"])
    return folder / "bin"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = lepton_edge.build("demo-intents", output=tmp_path_factory.mktemp("bundles"))
    return built.path


def test_the_wheel_carries_recipes_and_the_demo_model(wheels: dict[str, Path]) -> None:
    with zipfile.ZipFile(wheels["lepton_edge"]) as wheel:
        names = set(wheel.namelist())
    assert {
        "lepton_edge/recipes/demo-intents.yaml",
        "lepton_edge/recipes/demo-intents/model.safetensors",
        "lepton_edge/recipes/demo-intents/README.md",
        "lepton_edge/py.typed",
    } <= names
    assert not [name for name in names if name.startswith(("tests/", "backends/", "docs/"))]


def test_the_wheel_declares_its_extras_and_no_torch(wheels: dict[str, Path]) -> None:
    with zipfile.ZipFile(wheels["lepton_edge"]) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith("METADATA"))
        metadata = Parser().parsestr(wheel.read(name).decode())
    assert set(metadata.get_all("Provides-Extra") or ()) == {
        "all",
        "build",
        "openvino",
        "search",
        "serve",
        "tensorrt",
    }
    required = [line for line in metadata.get_all("Requires-Dist") or () if "extra ==" not in line]
    assert not [line for line in required if line.startswith(("torch", "transformers", "openvino"))]
    assert metadata["Version"] == lepton_edge.__version__


def test_the_tensorrt_wheel_names_its_class_and_asks_for_no_tensorrt(
    wheels: dict[str, Path],
) -> None:
    with zipfile.ZipFile(wheels["lepton_edge_tensorrt"]) as wheel:
        names = {name.rpartition("/")[2]: name for name in wheel.namelist()}
        metadata = Parser().parsestr(wheel.read(names["METADATA"]).decode())
        entries = wheel.read(names["entry_points.txt"]).decode()
    assert "tensorrt = lepton_edge_tensorrt:TensorRTBackend" in entries
    assert "py.typed" in names
    required = [line for line in metadata.get_all("Requires-Dist") or () if "extra ==" not in line]
    assert sorted(line.split(">")[0].split("<")[0] for line in required) == [
        "cuda-bindings",
        "lepton-edge",
        "numpy",
    ]
    rtx = [line for line in metadata.get_all("Requires-Dist") or () if "rtx" in line]
    assert len(rtx) == 2


def test_the_runtime_runs_a_bundle_without_what_a_build_needs(
    installed: Path, bundle: Path, tmp_path: Path
) -> None:
    absent = (
        "import importlib.util as u; assert not any(map(u.find_spec, ('torch', 'transformers')))"
    )
    _run(installed / "python", "-c", absent)
    answer = _run(
        installed / "lepton-edge", "run", "--json", bundle, "where is my new card?", cwd=tmp_path
    )
    (row,) = json.loads(answer)
    assert row["result"]["label"] == "card_arrival"


def test_the_runtime_finds_its_backend_and_recipes(installed: Path, tmp_path: Path) -> None:
    (backend,) = json.loads(_run(installed / "lepton-edge", "backends", "--json", cwd=tmp_path))
    assert backend["distribution"] == "lepton-edge-openvino"
    assert [device["name"] for device in backend["devices"]]
    assert "demo-intents" in _run(installed / "lepton-edge", "recipes", cwd=tmp_path)


def test_a_build_without_the_extra_says_what_to_install(installed: Path, tmp_path: Path) -> None:
    result = subprocess.run(
        [installed / "lepton-edge", "build", "demo-intents"],
        cwd=tmp_path,
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "torch" in result.stderr
    assert "pip install 'lepton-edge[build]'" in result.stderr
    assert not list(tmp_path.iterdir())


def _run(*command: object, cwd: Path | None = None) -> str:
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, f"{command}:\n{result.stdout}\n{result.stderr}"
    return result.stdout


def _environment() -> dict[str, str]:
    """This process's, without what would point at this checkout or its environment."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    return {key: value for key, value in os.environ.items() if key not in hidden}
