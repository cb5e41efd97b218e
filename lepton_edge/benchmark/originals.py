"""The model that a bundle was built from, run by the libraries that it would be run by otherwise.

The one part of the core beside the builder that uses torch and ONNX Runtime, inside functions
only: it needs the extra `build`.
"""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_edge.backend import Graph, Session
from lepton_edge.benchmark.inputs import examples
from lepton_edge.benchmark.sessions import Observed, Outputs
from lepton_edge.errors import BackendError, InputError, SourceError
from lepton_edge.runtime.batching import Limits
from lepton_edge.runtime.session_model import SessionModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lepton_edge.backend import Tensors
    from lepton_edge.builder.source import LoadedSource, Original
    from lepton_edge.builder.torch_model import TorchSource
    from lepton_edge.bundle.manifest import Manifest

    Source = str | os.PathLike[str] | TorchSource

WAYS = ("torch", "onnxruntime")
_NEEDED = {
    "torch": ("torch", "transformers", "safetensors", "onnx", "onnxruntime"),
    "onnxruntime": ("torch", "transformers", "safetensors", "onnx", "onnxscript", "onnxruntime"),
}
# One batch as it comes, padded to its longest text: what most programs do.
_AS_IT_COMES = Limits(rows=2**31, tokens=2**31, step=1)
_SAME = 0.9


def check_ways(ways: Sequence[str], original: object, kind: str) -> None:
    """Raise what would fail later, before anything slow: `InputError` for a way that there is
    not, or without the original; `BackendError` where a library is not installed."""
    unknown = [way for way in ways if way not in WAYS]
    if unknown:
        raise InputError(
            f"there is no comparison with {unknown[0]!r}", hint=f"there is {' and '.join(WAYS)}"
        )
    if original is None:
        raise InputError(
            f"a comparison with {', '.join(ways)} needs the model that the bundle was built from",
            hint="--original FOLDER, or FILE.onnx for a bundle built from one",
        )
    if kind == "onnx" and "torch" in ways:
        raise InputError(
            "torch cannot run the original: the bundle was built from an ONNX file",
            hint="--compare onnxruntime",
        )
    missing = sorted({n for way in ways for n in _NEEDED[way] if find_spec(n) is None})
    if missing:
        raise BackendError(
            f"comparing with {', '.join(ways)} needs {', '.join(missing)}, not installed here",
            hint="pip install 'lepton-edge[build]'",
        )


@dataclass(frozen=True)
class Originals:
    """The original that was read, and the ways to run it."""

    name: str
    ways: tuple[str, ...]
    loaded: LoadedSource

    @contextmanager
    def opened(
        self, model: SessionModel, threads: int, texts: Sequence[str]
    ) -> Iterator[dict[str, SessionModel]]:
        """The original as models beside ``model``, with as many threads each.

        Each has lepton-edge's own tokenization and task, so that inference alone differs, and runs
        each batch as it is given. ``texts`` are what all must agree on. Raises `SourceError` where
        one answers otherwise.
        """
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            with tempfile.TemporaryDirectory(prefix="lepton-edge-bench-") as folder:
                work, original = Path(folder), self.loaded.original
                graph = original.graph(model.manifest.task, model.task.config, work)
                sessions = _sessions(self.ways, original, graph, work, threads)
                _check_same(model, sessions, texts)
                yield {name: _as_it_comes(model, session) for name, session in sessions.items()}
        finally:
            torch.set_num_threads(before)


def read_original(original: Source, ways: Sequence[str], manifest: Manifest) -> Originals:
    """Read the model that a bundle was built from, to run it in these ways.

    Raises `SourceError` where it cannot be read, or is another one.
    """
    from lepton_edge.recipe import Recipe

    # The graph is made with the manifest's own block; the model's pooling is not asked for.
    config = manifest.task_config
    options = {"pooling": config["pooling"]} if "pooling" in config else {}
    recipe = Recipe(name=manifest.name, task=manifest.task, task_options=options)
    if not isinstance(original, (str, os.PathLike)):
        name = f"a torch module, {type(original.module).__name__}"
        loaded = original.load(recipe)
    elif manifest.source.kind == "onnx":
        from lepton_edge.builder.onnx_model import load_onnx

        name = os.fspath(original)
        loaded = load_onnx(Path(original), Path(original).parent, recipe)
    else:
        from lepton_edge.builder.huggingface import load_folder

        name = os.fspath(original)
        loaded = load_folder(Path(original), recipe)
    if loaded.source.sha256 != manifest.source.sha256:
        raise SourceError(
            f"{name} is not the model that {manifest.name} {manifest.version} was built from: "
            f"its weights have SHA-256 {loaded.source.sha256}, and the bundle's source "
            f"({manifest.source.name}) {manifest.source.sha256}",
            hint="lepton-edge inspect shows what a bundle was built from",
        )
    return Originals(name, tuple(ways), loaded)


def _sessions(
    ways: Sequence[str], original: Original, graph: Graph, work: Path, threads: int
) -> dict[str, Session]:
    import torch

    from lepton_edge.builder.torch_model import TorchOriginal

    sessions: dict[str, Session] = {}
    for way in ways:
        if way == "torch":
            sessions["torch fp32"] = _TorchSession(original, graph, "fp32")
            assert isinstance(original, TorchOriginal), "an ONNX file was refused before"
            sessions["torch bf16"] = _TorchSession(original.copy_in(torch.bfloat16), graph, "bf16")
        else:
            file = graph.onnx or _exported(graph, work)
            sessions["ONNX Runtime fp32"] = _OnnxSession(file, graph, threads)
    return sessions


def _as_it_comes(model: SessionModel, session: Session) -> SessionModel:
    """The model with another session, and with batches as they are given."""
    return SessionModel(model.manifest, session, model.encoder, model.task, limits=_AS_IT_COMES)


def _check_same(model: SessionModel, sessions: Mapping[str, Session], texts: Sequence[str]) -> None:
    """Refuse to compare ways that answer differently, up to what a number format rounds away."""
    import numpy as np

    seen: list[tuple[Tensors, Outputs]] = []
    observed = Observed(model.session, lambda feeds, outputs: seen.append((feeds, outputs)))
    alone = _as_it_comes(model, observed)
    inputs, parameters = examples(model, texts)
    for each in inputs:  # alone, so that nothing is padding
        alone([each], **parameters)
    names = [spec.name for spec in model.session.outputs]

    def flat(outputs: Sequence[Outputs]) -> NDArray[np.float64]:
        parts = [np.ravel(each[name]).astype(np.float64) for each in outputs for name in names]
        return np.concatenate(parts)

    ours = flat([outputs for _, outputs in seen])
    for name, session in sessions.items():
        theirs = flat([session.infer(feeds) for feeds, _ in seen])
        cosine = float(ours @ theirs / (np.linalg.norm(ours) * np.linalg.norm(theirs)))
        if not cosine > _SAME:
            raise SourceError(
                f"{name} answers otherwise than the bundle (cosine {cosine:.3f}): a comparison "
                "would be of two different models",
                hint="build the bundle again",
            )


def _exported(graph: Graph, work: Path) -> Path:
    """The program as an ONNX file."""
    import torch

    assert graph.program is not None, "a graph is a program or an ONNX file"
    file = work / "original.onnx"
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it lists absent optional parts
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the libraries' own deprecations
            torch.onnx.export(graph.program, (), str(file), dynamo=True, verbose=False)
    except Exception as error:  # the exporter raises many kinds
        raise SourceError(
            f"torch cannot export the original to ONNX: {str(error).strip().splitlines()[0]}",
            hint="leave onnxruntime out: --compare torch",
        ) from error
    finally:
        logger.setLevel(level)
    return file


class _TorchSession(Session):
    """The original's own module."""

    def __init__(self, original: Original, graph: Graph, compute: str) -> None:
        self.inputs, self.outputs = graph.inputs, graph.outputs
        self.device, self.details = "torch", {"compute": compute}
        self._original = original

    def infer(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        import torch

        with torch.inference_mode():
            return dict(self._original.run(feeds))

    def close(self) -> None:
        pass


class _OnnxSession(Session):
    """The original's graph in ONNX Runtime."""

    def __init__(self, file: Path, graph: Graph, threads: int) -> None:
        import onnxruntime

        self.inputs, self.outputs = graph.inputs, graph.outputs
        self.device, self.details = "ONNX Runtime", {"compute": "fp32"}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # fatal: an error is raised, and needs no second line
        # Its threads spin for a while after a run, which would slow whoever comes next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._session = onnxruntime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"]
        )
        # The exporter names the inputs after its own; their order is the graph's.
        self._names = [value.name for value in self._session.get_inputs()]

    def infer(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        given = {
            name: feeds[spec.name] for name, spec in zip(self._names, self.inputs, strict=True)
        }
        outputs = self._session.run(None, given)
        return {spec.name: out for spec, out in zip(self.outputs, outputs, strict=True)}

    def close(self) -> None:
        pass
