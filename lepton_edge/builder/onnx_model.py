"""An ONNX file as a source; the original to compare with is ONNX Runtime on the same file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from lepton_edge.backend import Graph, TensorSpec
from lepton_edge.builder.source import LoadedSource, hash_weights
from lepton_edge.builder.tokenizers import check_vocabulary, tokenizer_from_folder
from lepton_edge.bundle.manifest import Source
from lepton_edge.errors import SourceError
from lepton_edge.runtime.text import ATTENTION_MASK, INPUT_IDS, TOKEN_TYPE_IDS
from lepton_edge.tasks import TASKS, task_class
from lepton_edge.tasks.base import Facts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lepton_edge.backend import Tensors
    from lepton_edge.recipe import Recipe

_INPUTS = (INPUT_IDS, ATTENTION_MASK, TOKEN_TYPE_IDS)
_DEFAULT_LENGTH = 512
_MIN_OPSET = 13  # from here on ReduceSum and Unsqueeze take their axes as an input


def load_onnx(file: Path, folder: Path, recipe: Recipe) -> LoadedSource:
    """Read the file; ``folder`` has the tokenizer and, for labels, perhaps a config.json.

    Raises `SourceError`.
    """
    if not file.is_file():
        raise SourceError(f"there is no ONNX file at {file}", hint="check source.onnx")
    if recipe.task is None:
        raise SourceError(
            "an ONNX file does not say its task", hint=f"name one: task: {' or '.join(TASKS)}"
        )
    pinned = recipe.source.sha256 if recipe.source else None
    weights = [file, *external_data(file)]
    digest = hash_weights(weights, pinned)
    tokenizer = tokenizer_from_folder(folder)
    config = _config(folder)
    check_vocabulary(tokenizer, config.get("vocab_size"))
    limits = (tokenizer.max_length, config.get("max_position_embeddings"))
    labels = config.get("id2label")
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
            labels=tuple(labels[key] for key in sorted(labels, key=int)) if labels else None,
            multi_label=config.get("problem_type") == "multi_label_classification",
        ),
        tokenizer=tokenizer.json,
        pad_id=tokenizer.pad_id,
        max_length=min((n for n in limits if n), default=_DEFAULT_LENGTH),
        license=None,
    )


def external_data(file: Path) -> list[Path]:
    """The files beside an ONNX file that hold its larger tensors. Raises `SourceError`."""
    try:
        model = onnx.load(str(file), load_external_data=False)
    except Exception as error:  # protobuf's errors have no common class
        raise SourceError(
            f"{file} is not an ONNX file that can be read: {error}",
            hint="it is cut short or damaged: export or fetch it again",
        ) from error
    names = {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    found = [file.parent / name for name in sorted(names)]
    for path in found:
        if path.resolve().parent != file.resolve().parent:
            raise SourceError(f"{file} keeps its weights outside its folder: {path}")
        if not path.is_file():
            raise SourceError(f"{path}, which holds weights of {file.name}, is missing")
    return found


class OnnxOriginal:
    """An `Original` that ONNX Runtime computes."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._session: onnxruntime.InferenceSession | None = None

    def graph(self, task: str, config: Any, work: Path) -> Graph:
        """The file as it is, or with pooling appended where it gives token vectors."""
        model = onnx.load(str(self._file))
        inputs = [_input_spec(value) for value in model.graph.input]
        pooling = getattr(config, "pooling", None)
        output = model.graph.output[0]
        if pooling:
            _append_pooling(model, pooling, config.normalize)
            output = model.graph.output[0]
        elif len(_shape(output)) != 2:
            raise SourceError(
                f"{self._file.name} gives {output.name} of shape {_shape(output)}; "
                f"{task} reads logits [batch, labels]"
            )
        del model.graph.output[1:]
        labels = getattr(config, "labels", None)
        size = _shape(output)[-1]
        if labels is not None and isinstance(size, int) and size != len(labels):
            raise SourceError(f"the model has {size} outputs for {len(labels)} labels")
        path = work / "model.onnx"
        onnx.save(model, str(path), save_as_external_data=model.ByteSize() > 2**30)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        spec = TensorSpec(task_class(task).output, "float32", ("batch", size))
        return Graph(inputs=tuple(inputs), outputs=(spec,), onnx=path)

    def run(self, feeds: Tensors) -> NDArray[np.float32]:
        assert self._session is not None, "graph() comes first"
        (output, *_) = self._session.run(None, dict(feeds))
        result: NDArray[np.float32] = np.asarray(output, dtype=np.float32)
        return result


def _input_spec(value: onnx.ValueInfoProto) -> TensorSpec:
    if value.name not in _INPUTS:
        raise SourceError(
            f"the ONNX model takes an input {value.name!r}; text gives {', '.join(_INPUTS)}"
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


def _append_pooling(model: onnx.ModelProto, pooling: str, normalize: bool) -> None:
    """Make the first output an embedding: the same arithmetic as `torch_model.pool`."""
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset < _MIN_OPSET:
        raise SourceError(
            f"the ONNX model uses opset {opset}; pooling is added from opset {_MIN_OPSET}",
            hint="export it again with a newer opset",
        )
    output = model.graph.output[0]
    shape, name = _shape(output), output.name
    if len(shape) == 3:
        name = _pooled(model, name, pooling)
    elif len(shape) != 2:
        raise SourceError(f"the ONNX model gives {name} of shape {shape}: no embedding")
    if normalize:
        name = _add(model, "LpNormalization", [name], axis=-1, p=2)
    result = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", shape[-1]])
    del model.graph.output[:]
    model.graph.output.append(result)


def _pooled(model: onnx.ModelProto, hidden: str, pooling: str) -> str:
    if pooling == "cls":
        return _add(model, "Gather", [hidden, _constant(model, np.int64(0))], axis=1)
    if ATTENTION_MASK not in {value.name for value in model.graph.input}:
        raise SourceError(f"pooling {pooling!r} needs the input {ATTENTION_MASK}")
    axis = _constant(model, np.array([1], np.int64))
    last = _constant(model, np.array([-1], np.int64))
    mask = _add(model, "Unsqueeze", [ATTENTION_MASK, last])
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
    if not file.is_file():
        return {}
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SourceError(f"{file} is not valid JSON: {error}") from error
    return values if isinstance(values, dict) else {}
