"""A decoder that another exporter made into OpenVINO IR, as a source."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_edge.backend import Graph
from lepton_edge.builder.causal_lm import generation_facts
from lepton_edge.builder.folder import license_of, read_json
from lepton_edge.builder.quiet import quiet
from lepton_edge.builder.source import LoadedSource, hash_weights
from lepton_edge.builder.tokenizers import tokenizer_from_folder, transformers_tokenizer
from lepton_edge.bundle.manifest import Source
from lepton_edge.errors import SourceError
from lepton_edge.tasks import task_class
from lepton_edge.tasks.base import Facts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lepton_edge.backend import Tensors
    from lepton_edge.recipe import Recipe

_FILES = ("openvino_model.xml", "openvino_model.bin")
_TASK = "text-generation"


class ForeignIR:
    """What there is in place of an `Original`: the IR itself, which nothing can be compared
    with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def graph(self, task: str, config: Any, work: Path) -> Graph:
        """The folder, as a graph that only OpenVINO takes."""
        return Graph(inputs=(), outputs=(), ir=self.folder)

    def run(self, feeds: Tensors) -> dict[str, NDArray[np.float32]]:
        """There is nothing to run."""
        raise AssertionError("an IR has no original")


def load_ir(folder: Path, recipe: Recipe) -> LoadedSource:
    """Raises `SourceError` for what is missing beside the IR."""
    gone = [name for name in (*_FILES, "config.json") if not (folder / name).is_file()]
    if gone:
        raise SourceError(
            f"{folder} is no folder with a decoder's IR: it has no {', '.join(gone)}",
            hint="openvino_ir takes what optimum-cli export openvino writes, with config.json and "
            "the tokenizer",
        )
    task = recipe.task or _TASK
    if not task_class(task).generates:
        raise SourceError(
            f"an IR that another exporter made is built for {_TASK}, not for {task}",
            hint="build others from the checkpoint or from ONNX",
        )
    values = read_json(folder / "config.json", dict)
    from transformers import AutoConfig

    try:
        with quiet():
            config: Any = AutoConfig.from_pretrained(str(folder), local_files_only=True)
        positions = config.max_position_embeddings
        end = getattr(config, "eos_token_id", None)
    except Exception:  # a family that transformers does not know may come with code of its own
        positions, end = values.get("max_position_embeddings"), values.get("eos_token_id")
    if not isinstance(positions, int):
        raise SourceError(
            f"{folder / 'config.json'} does not say how long a text may be "
            f"(max_position_embeddings is {positions!r})",
            hint="add it",
        )
    tokenizer = tokenizer_from_folder(folder)
    pinned = recipe.source.sha256 if recipe.source else None
    return LoadedSource(
        source=Source(
            kind="openvino_ir",
            name=folder.resolve().name,
            architecture=(values.get("architectures") or ["unknown"])[0],
            sha256=hash_weights([folder / name for name in _FILES], pinned),
        ),
        original=ForeignIR(folder),
        task=task,
        facts=Facts(generation=generation_facts(folder, end, transformers_tokenizer(folder))),
        tokenizer=tokenizer.json,
        pad_id=tokenizer.pad_id,
        max_length=positions,
        license=license_of(folder),
    )
