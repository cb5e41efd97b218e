"""A graph as an ONNX file, in fp32, with the graph's own names."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_edge.backend import Graph
from lepton_edge.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from lepton_edge.backend import TensorSpec

# 19 is the first whose quantization takes scales in 16 bits, 21 the first with a scale a block; the
# parser of TensorRT 10.3 knows 20, and of 21 what is needed here.
OPSET = 20
OPSET_OF_BLOCKS = 21
# A protobuf message, which an ONNX file without external data is, ends at 2 GiB.
MAX_FILE_BYTES = 2**31 - 2**20


def onnx_from_graph(graph: Graph, opset: int = OPSET, *, at_least: int = 0) -> ir.Model:
    """The graph as an ONNX model in memory: exported with ``opset``, or the file that it is, which
    is converted where its opset is not ``at_least`` that.

    Raises `BackendError`.
    """
    import onnx_ir.passes.common as passes

    if graph.program is None:
        model = _read(Path(str(graph.onnx)), at_least)
    else:
        model = _exported(graph, opset)
        _name_by_place(model)
    _name(model.graph.inputs, graph.inputs, "input")
    _name(model.graph.outputs, graph.outputs, "output")
    passes.NameFixPass()(model)  # torch may call an inner value as we call an output
    return model


def save(model: ir.Model, file: Path) -> None:
    """Write a model; one that a single file cannot hold gets its weights in ``NAME.data`` beside
    it."""
    import onnx_ir as ir

    size = sum(
        each.const_value.nbytes for each in model.graph.initializers.values() if each.const_value
    )
    if size < MAX_FILE_BYTES:
        ir.save(model, str(file))
    else:
        ir.save(model, str(file), external_data=f"{file.name}.data")


def _read(file: Path, opset: int) -> ir.Model:
    """The file with all weights in memory, in fp32."""
    import onnx_ir as ir

    model = ir.load(str(file))
    ir.external_data.load_to_model(model)
    _widen(model)
    return _converted(model, opset)


def _widen(model: ir.Model) -> None:
    """A file in 16 bits, to fp32, which changes no weight: what is computed in which precision is
    for the build to write."""
    import onnx_ir as ir
    import onnx_ir.passes.common as passes

    halves, full = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16), ir.DataType.FLOAT
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    for value in model.graph.initializers.values():
        if value.dtype in halves and value.const_value is not None:
            value.const_value = ir.tensor(value.const_value.numpy().astype("float32"))
            value.dtype = full
    for node in model.graph.all_nodes():
        if node.op_type == "Cast" and node.attributes["to"].as_int() in halves:
            node.attributes["to"] = ir.AttrInt64("to", full)
        for value in node.outputs:
            if value.dtype in halves:
                value.dtype = full


def _converted(model: ir.Model, opset: int) -> ir.Model:
    found = model.graph.opset_imports.get("", 0)
    if found >= opset:
        return model
    from onnxscript import version_converter

    try:
        version_converter.convert_version(model, opset, fallback=True)
    except Exception as error:  # it raises many kinds
        raise BackendError(
            f"the ONNX model has opset {found}, this precision needs {opset}, and it cannot be "
            f"converted: {_first_line(error)}",
            hint=f"export it again with opset {opset}, or build with precision: auto",
        ) from error
    if (found := model.graph.opset_imports.get("", 0)) < opset:
        raise BackendError(
            f"the ONNX model has opset {found}, and this precision needs {opset}",
            hint=f"export it again with opset {opset}, or build with precision: auto",
        )
    return model


def _exported(graph: Graph, opset: int) -> Any:
    """By torch's own exporter, which prints what it does and says more in its log."""
    import torch

    assert graph.program is not None
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            torch.no_grad(),
        ):
            warnings.simplefilter("ignore")  # torch's own deprecations: nothing to act on
            exported = torch.onnx.export(
                graph.program,
                (),
                dynamo=True,
                opset_version=opset,
                verbose=False,
                input_names=[spec.name for spec in graph.inputs],
                output_names=[spec.name for spec in graph.outputs],
            )
    except Exception as error:  # torch.onnx raises many kinds
        raise BackendError(
            f"torch cannot write this model as ONNX: {_first_line(error)}",
            hint="export it to ONNX with its own tools and build from the file: "
            "source: {onnx: model.onnx}",
        ) from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    assert exported is not None
    return exported.model


def _name_by_place(model: ir.Model) -> None:
    """Name what torch names by counters of the whole process by its place in the graph instead, and
    leave out its notes on where in the model's code each operation came from: the same model then
    gives the same bytes."""
    outputs = set(model.graph.outputs)
    for place, node in enumerate(model.graph.all_nodes()):
        node.name = f"{node.op_type}_{place}"
        node.metadata_props.clear()
        node.doc_string = None
        for index, value in enumerate(node.outputs):
            value.metadata_props.clear()
            if value not in outputs:
                value.name = f"{node.name}_{index}"
    for place, value in enumerate(list(model.graph.initializers.values())):
        value.metadata_props.clear()
        if re.fullmatch(r"val_\d+", str(value.name)):
            value.name = f"constant_{place}"
    model.metadata_props.clear()
    model.graph.metadata_props.clear()


def _name(values: Sequence[ir.Value], specs: Sequence[TensorSpec], kind: str) -> None:
    """The graph's names for the ports and their dimensions: sessions find tensors by them, and
    torch counts dimensions through the life of a process."""
    import onnx_ir as ir

    if len(values) != len(specs):
        raise BackendError(f"the ONNX model has {len(values)} {kind}s for {len(specs)} tensors")
    for value, spec in zip(values, specs, strict=True):
        value.name = spec.name
        value.shape = ir.Shape(spec.shape)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
