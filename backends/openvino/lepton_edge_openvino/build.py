"""Compiling: a graph to OpenVINO IR."""

from __future__ import annotations

import errno
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

from lepton_edge.backend import Compiled, Graph, Precision, Setting, TensorSpec
from lepton_edge.errors import BackendError
from lepton_edge_openvino.library import converter, last_line, openvino
from lepton_edge_openvino.options import OpenVINOOptions
from lepton_edge_openvino.recurrent import extensions, whole_layers

_MODEL = "model.xml"


def ir_from_graph(
    graph: Graph, precision: Precision, options: OpenVINOOptions, directory: Path
) -> Compiled:
    """Write ``model.xml`` and ``model.bin``.

    Weights are stored as fp16, except for precision fp32. `auto` leaves the arithmetic to the
    device: bf16 where the CPU has it in hardware, else fp32. `fp16` computes in fp32: OpenVINO's
    fp16 arithmetic on a CPU took 1.5 times as long (MiniLM, 8 x 128 tokens, AVX-512 FP16).
    """
    library = openvino()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own deprecations: nothing to act on
            model = _converted(graph)
        _name_ports(model.inputs, graph.inputs)
        _name_ports(model.outputs, graph.outputs)
        _name_operations(model)
        weights = "fp32" if precision == "fp32" else "fp16"
        library.save_model(model, str(directory / _MODEL), compress_to_fp16=weights == "fp16")
    except BackendError:
        raise
    # The converter raises its own classes for an operator it does not have.
    except Exception as error:
        _raise_if_full(directory, error)
        raise BackendError(
            f"OpenVINO cannot convert this model: {last_line(error)}",
            hint="export it to ONNX and build from the file: source: {onnx: model.onnx}",
        ) from error
    settings: dict[str, Setting] = {
        "compute": "fp32" if precision == "fp16" else precision,
        "performance_hint": options.performance_hint,
    }
    if options.threads:
        settings["threads"] = options.threads
    return Compiled(
        precision=weights,
        inputs=graph.inputs,
        outputs=graph.outputs,
        requires=f"openvino {library.__version__.split('-')[0]}",
        settings=settings,
    )


def _converted(graph: Graph) -> Any:
    convert = converter().convert_model
    if graph.program is None:
        return convert(str(graph.onnx))
    return convert(whole_layers(graph.program), extension=extensions())


def _name_ports(ports: list[Any], specs: tuple[TensorSpec, ...]) -> None:
    """Name the converted model's ports as the graph's. Sessions find tensors by these names."""
    if len(ports) != len(specs):
        raise BackendError(f"the converted model has {len(ports)} ports for {len(specs)} tensors")
    for port, spec in zip(ports, specs, strict=True):
        port.get_tensor().set_names({spec.name})


def _name_operations(model: Any) -> None:
    """Number the operations that OpenVINO names by a counter of the whole process, by their place
    in the model instead: the same graph then gives the same bytes."""
    model.set_friendly_name("model")
    for place, operation in enumerate(model.get_ordered_ops()):
        # Such as Unsqueeze_99, which may have been folded to a constant meanwhile.
        if re.fullmatch(r"[A-Z]\w*_\d+", operation.get_friendly_name()):
            operation.set_friendly_name(f"{operation.get_type_name()}_{place}")


def _raise_if_full(directory: Path, error: Exception) -> None:
    """OpenVINO reports a full disk as any other failure to write."""
    if shutil.disk_usage(directory).free < 1024 * 1024:
        raise OSError(errno.ENOSPC, "no space left", str(directory)) from error
