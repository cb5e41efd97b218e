"""An ONNX file as a source; the original to compare with is ONNX Runtime on the same file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from lepton_edge.backend import Graph, TensorSpec
from lepton_edge.builder.families import max_positions
from lepton_edge.builder.folder import SentenceFiles, activation_of, license_of, read_json
from lepton_edge.builder.source import LoadedSource, hash_weights, output_shape
from lepton_edge.builder.tokenizers import check_vocabulary, lowered, tokenizer_from_folder
from lepton_edge.bundle.manifest import Source
from lepton_edge.errors import SourceError
from lepton_edge.runtime.text import ATTENTION_MASK, INPUT_IDS, TOKEN_TYPE_IDS
from lepton_edge.tasks import SESSION_TASKS, session_task
from lepton_edge.tasks.base import Facts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lepton_edge.backend import Tensors
    from lepton_edge.recipe import Recipe

_INPUTS = (INPUT_IDS, ATTENTION_MASK, TOKEN_TYPE_IDS)
_DEFAULT_LENGTH = 512
_MIN_OPSET = 13  # from here on ReduceSum and Unsqueeze take their axes as an input
_AGAIN = "it is cut short or damaged: export or fetch it again"


def load_onnx(file: Path, folder: Path, recipe: Recipe) -> LoadedSource:
    """Read the file; ``folder`` has the tokenizer and, for labels, perhaps a config.json.

    Raises `SourceError`.
    """
    if not file.is_file():
        raise SourceError(
            f"there is no ONNX file at {file}", hint="check the path, or source.onnx in the recipe"
        )
    if recipe.task is None:
        raise SourceError(
            "an ONNX file does not say its task",
            hint=f"name one with --task, or task in a recipe: {' or '.join(SESSION_TASKS)}",
        )
    pinned = recipe.source.sha256 if recipe.source else None
    weights = [file, *external_data(file)]
    digest = hash_weights(weights, pinned)
    config = _config(folder)
    labels = _labels(config)
    tokenizer = tokenizer_from_folder(folder)
    sentence = SentenceFiles(folder)
    if sentence.lower_case:
        tokenizer = lowered(tokenizer)
    check_vocabulary(tokenizer, config.get("vocab_size"))
    limits = (tokenizer.max_length, sentence.max_length, max_positions(config))
    return LoadedSource(
        source=Source(
            kind="onnx",
            name=file.name,
            architecture=(config.get("architectures") or ["ONNX"])[0],
            sha256=digest,
        ),
        original=OnnxOriginal(file),
        task=recipe.task,
        facts=Facts(
            labels=labels,
            multi_label=config.get("problem_type") == "multi_label_classification",
            pooling=None if recipe.task_options.get("pooling") else sentence.pooling(),
            normalize=sentence.normalize,
            activation=activation_of(config),
            mask_token=tokenizer.mask_token,
        ),
        tokenizer=tokenizer.json,
        pad_id=tokenizer.pad_id,
        max_length=min((n for n in limits if n), default=_DEFAULT_LENGTH),
        license=license_of(folder),
    )


def external_data(file: Path) -> list[Path]:
    """The files beside an ONNX file that hold its larger tensors. Raises `SourceError`."""
    try:
        model = onnx.load(str(file), load_external_data=False)
    except Exception as error:  # protobuf's errors have no common class
        raise SourceError(
            f"{file} is not an ONNX file that can be read: {error}", hint=_AGAIN
        ) from error
    names = {
        entry.value
        for graph in (model.graph, *model.functions)
        for tensor in _tensors(graph)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    found = [file.parent / name for name in sorted(names)]
    for path in found:
        if path.resolve().parent != file.resolve().parent:
            raise SourceError(
                f"{file} keeps its weights outside its folder: {path}",
                hint="save it again with its weights beside it",
            )
        if not path.is_file():
            raise SourceError(
                f"{path}, which holds weights of {file.name}, is missing",
                hint="copy it to the same folder",
            )
    return found


def _tensors(graph: Any) -> Iterator[onnx.TensorProto]:
    """The tensors of a graph or function: initializers, and those in its nodes' attributes."""
    yield from getattr(graph, "initializer", ())
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)


class OnnxOriginal:
    """An `Original` that ONNX Runtime computes."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._session: onnxruntime.InferenceSession | None = None
        self._outputs: tuple[str, ...] = ()

    def graph(self, task: str, config: Any, work: Path) -> Graph:
        """The file with the task's outputs; where one is token vectors, pooling is appended."""
        model = self._model()
        made = {tensor.name for tensor in model.graph.initializer}  # old files list them as inputs
        inputs = tuple(_input_spec(v) for v in model.graph.input if v.name not in made)
        wanted = session_task(task, "an ONNX file").outputs
        names = self._names(model, list(wanted))
        # What the file says of its outputs can be missing or wrong: look at one of each.
        samples = self._opened(self._file).run(names, _example(inputs, 2, 9))
        pooling = getattr(config, "pooling", None)
        specs, outputs = [], []
        for (given, dims), output, sample in zip(wanted.items(), names, samples, strict=True):
            if sample.dtype.kind != "f":
                raise SourceError(
                    f"{self._file.name} gives {output} as {sample.dtype}, not numbers"
                )
            pooled = pooling if sample.ndim == 3 else None
            found = (sample.shape[0], sample.shape[2]) if pooled else sample.shape
            shape = output_shape(self._file.name, output, found, dims, config)
            specs.append(TensorSpec(given, "float32", shape))
            outputs.append(
                _finished(model, output, sample, pooled, getattr(config, "normalize", False))
            )
        del model.graph.output[:]
        model.graph.output.extend(
            helper.make_tensor_value_info(output, TensorProto.FLOAT, spec.shape)
            for output, spec in zip(outputs, specs, strict=True)
        )
        path = work / "model.onnx"
        onnx.save(model, str(path), save_as_external_data=model.ByteSize() > 2**30)
        self._session = self._opened(path)
        self._outputs = tuple(wanted)
        self.run(_example(inputs, 1, 5))
        return Graph(inputs=inputs, outputs=tuple(specs), onnx=path)

    def run(self, feeds: Tensors) -> dict[str, NDArray[np.float32]]:
        assert self._session is not None, "graph() comes first"
        try:
            outputs = self._session.run(None, dict(feeds))
        except Exception as error:  # ONNX Runtime's errors have no common class
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feeds.items())
            raise SourceError(
                f"ONNX Runtime cannot run {self._file.name} on {shapes}: {_last_line(error)}",
                hint="export it again with dynamic batch and length, and with its own tokenizer",
            ) from error
        return dict(zip(self._outputs, outputs, strict=True))

    def _model(self) -> onnx.ModelProto:
        try:
            return onnx.load(str(self._file))
        except Exception as error:  # protobuf's errors have no common class
            raise SourceError(
                f"the weights of {self._file} cannot be read: {_last_line(error)}", hint=_AGAIN
            ) from error

    def _opened(self, path: Path) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # fatal: an error is raised, and needs no second line
        try:
            return onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise SourceError(
                f"ONNX Runtime cannot open {self._file}: {_last_line(error)}", hint=_AGAIN
            ) from error

    def _names(self, model: onnx.ModelProto, wanted: list[str]) -> list[str]:
        """The outputs of the task's own names, else the first ones."""
        names = [value.name for value in model.graph.output]
        if len(names) < len(wanted):
            raise SourceError(
                f"{self._file} has {', '.join(names) or 'no output'}; "
                f"the task reads {', '.join(wanted)}",
                hint=_AGAIN if not names else "is it for this task?",
            )
        return wanted if set(wanted) <= set(names) else names[: len(wanted)]


def _input_spec(value: onnx.ValueInfoProto) -> TensorSpec:
    if value.name not in _INPUTS:
        raise SourceError(
            f"the ONNX model takes an input {value.name!r}; text gives {', '.join(_INPUTS)}",
            hint="export it again with those inputs only",
        )
    dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name
    shape = _shape(value)
    if len(shape) != 2 or any(isinstance(size, int) for size in shape):
        raise SourceError(
            f"the ONNX model's input {value.name} has the fixed shape {shape}",
            hint="export it again with dynamic batch and length",
        )
    return TensorSpec(value.name, dtype, ("batch", "length"))


def _shape(value: onnx.ValueInfoProto) -> list[int | str]:
    return [
        size.dim_value if size.HasField("dim_value") else size.dim_param or "?"
        for size in value.type.tensor_type.shape.dim
    ]


def _example(inputs: Sequence[TensorSpec], rows: int, length: int) -> dict[str, NDArray[Any]]:
    return {spec.name: np.ones((rows, length), spec.dtype) for spec in inputs}


def _finished(
    model: onnx.ModelProto, output: str, sample: NDArray[Any], pooling: str | None, normalize: bool
) -> str:
    """The name of the output as float32, pooled and normalized as `TaskOutput` does it."""
    opset = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset < _MIN_OPSET:
        raise SourceError(
            f"the ONNX model uses opset {opset}; lepton-edge takes {_MIN_OPSET} and later",
            hint="export it again with a newer opset",
        )
    if sample.dtype != np.float32:
        output = _add(model, "Cast", [output], to=TensorProto.FLOAT)
    if pooling:
        output = _pooled(model, output, pooling)
    if normalize:
        output = _add(model, "LpNormalization", [output], axis=-1, p=2)
    return output


def _pooled(model: onnx.ModelProto, hidden: str, pooling: str) -> str:
    """The same arithmetic as `torch_model.pool`."""
    if pooling == "cls":
        return _add(model, "Gather", [hidden, _constant(model, np.int64(0))], axis=1)
    axis = _constant(model, np.array([1], np.int64))
    last = _constant(model, np.array([-1], np.int64))
    if ATTENTION_MASK in {value.name for value in model.graph.input}:
        mask = ATTENTION_MASK
    else:  # never given padding, so every token counts
        mask = _add(model, "Equal", [INPUT_IDS, INPUT_IDS])
    mask = _add(model, "Unsqueeze", [mask, last])
    mask = _add(model, "Cast", [mask], to=TensorProto.FLOAT)
    total = _add(model, "ReduceSum", [_add(model, "Mul", [hidden, mask]), axis], keepdims=0)
    count = _add(model, "ReduceSum", [mask, axis], keepdims=0)
    floor = _constant(model, np.float32(1e-9))
    return _add(model, "Div", [total, _add(model, "Max", [count, floor])])


def _add(model: onnx.ModelProto, kind: str, inputs: list[str], **attributes: Any) -> str:
    name = f"lepton_pooling_{len(model.graph.node)}"
    model.graph.node.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
    return name


def _constant(model: onnx.ModelProto, value: Any) -> str:
    name = f"lepton_constant_{len(model.graph.initializer)}"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    return name


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    values: dict[str, Any] = read_json(file, dict) if file.is_file() else {}
    return values


def _labels(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    labels = config.get("id2label")
    try:
        return tuple(str(labels[key]) for key in sorted(labels, key=int)) if labels else None
    except (TypeError, ValueError):
        raise SourceError(
            f"id2label in config.json is {labels}: it maps 0, 1, 2, … to names"
        ) from None


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
