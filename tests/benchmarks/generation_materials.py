"""What the benchmark of generation measures: the bundle, what others open, and variants of both."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lepton_edge.backend import Setting
from lepton_edge.bundle import open_bundle
from tests.benchmarks.shapes import Shape, make
from tests.benchmarks.workspace import REPOSITORY

_PRECISION = "int4-weights"
_CONVERTING = 600  # s, at most


@dataclass(frozen=True)
class Materials:
    """Of one shape. What is None is not here, and ``missing`` says why."""

    bundle: Path
    gguf: Path | None
    llama_python: str | None
    vocabulary: int
    """Ids below it have no meaning of their own."""
    missing: tuple[str, ...] = ()

    @property
    def properties(self) -> dict[str, Setting]:
        """What lepton-edge opens the artifact with, for openvino-genai called directly."""
        from lepton_edge_openvino.backend import generator_properties
        from lepton_edge_openvino.library import openvino

        settings = open_bundle(self.bundle).manifest.artifacts[0].compiled.settings
        return dict(generator_properties(openvino().Core(), "CPU", settings))

    @property
    def ir(self) -> Path:
        """The artifact's folder, which openvino-genai opens as it is."""
        return self.bundle / open_bundle(self.bundle).manifest.artifacts[0].directory


def materials(
    shape: Shape,
    shapes: Path,
    folder: Path,
    say: Callable[[str], None],
    *,
    bundle: Path | None = None,
    llama: bool = True,
) -> Materials:
    """``shapes`` has the checkpoints, or gets them; a bundle that is not given is built in
    ``folder``. llama.cpp runs in the Python of the variable LLAMA_CPP_PYTHON, or in this one."""
    python, gguf, missing = None, None, []
    if llama:
        python = os.environ.get("LLAMA_CPP_PYTHON", sys.executable)
        if reason := _no_llama(python):
            python, missing = None, [f"llama.cpp was not measured: {reason}."]
        else:
            gguf = _gguf(python, shape, shapes, say)
    if bundle is None:
        say("building the bundle")
        bundle = _built(make(shape, shapes), folder)
    return Materials(bundle, gguf, python, min(shape.special), tuple(missing))


def variant(bundle: Path, settings: Mapping[str, Setting], folder: Path) -> Path:
    """A bundle of the same files whose artifact is opened with other settings, as one that was
    built with them in its recipe's block ``backends``."""
    import msgspec

    shutil.copytree(bundle, folder, copy_function=_linked)
    manifest = open_bundle(folder).manifest
    (first, *others) = manifest.artifacts
    first = msgspec.structs.replace(first, compiled=first.compiled.with_settings(settings))
    changed = msgspec.structs.replace(manifest, artifacts=(first, *others))
    file = folder / "manifest.json"
    file.unlink()  # it may be the other bundle's too
    file.write_bytes(msgspec.json.encode(changed))
    return folder


def _linked(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # on another file system
        shutil.copy2(source, target)


def _no_llama(python: str) -> str:
    """Why llama.cpp cannot run; empty where it can."""
    command = [python, "-c", "import llama_cpp"]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return f"{python} has no llama-cpp-python (LLAMA_CPP_PYTHON names a Python that has it)"
    return ""


def _gguf(python: str, shape: Shape, shapes: Path, say: Callable[[str], None]) -> Path:
    """By that Python, which needs the package gguf too where the file is not there yet."""
    file = shapes / f"{shape.name}-q4_0.gguf"
    if not file.exists():
        say("converting for llama.cpp")
        folder = str(make(shape, shapes).resolve())
        command = [python, "-m", "tests.benchmarks.gguf_file", folder, str(file.resolve())]
        subprocess.run(command, check=True, cwd=REPOSITORY, timeout=_CONVERTING)
    return file


def _built(checkpoint: Path, folder: Path) -> Path:
    import lepton_edge
    from lepton_edge import Recipe

    recipe = Recipe.model_validate(
        {
            "name": f"{checkpoint.name}-int4",
            "source": str(checkpoint),
            "task": "text-generation",
            "precision": _PRECISION,
            # Of random weights, what 4 bits lose says nothing.
            "quality": {"max_perplexity_ratio": 100},
        }
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries' own deprecations
        return Path(lepton_edge.build(recipe, target="intel-cpu", output=folder).path)
