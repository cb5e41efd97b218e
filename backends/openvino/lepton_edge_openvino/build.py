"""Compiling: a graph to OpenVINO IR."""

from __future__ import annotations

import errno
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from lepton_edge.backend import (
    Compiled,
    Graph,
    Precision,
    Quantization,
    Setting,
    TensorSpec,
)
from lepton_edge.errors import BackendError
from lepton_edge_openvino.library import converter, last_line, openvino
from lepton_edge_openvino.options import OpenVINOOptions
from lepton_edge_openvino.quantize import in_eight_bits, with_small_weights
from lepton_edge_openvino.recurrent import extensions, whole_layers
from lepton_edge_openvino.session import OpenVINOSession

_MODEL = "model.xml"
_EIGHT_BITS = ("int8", "int8-weights", "int4-weights")
_WEIGHTS = {
    "auto": "fp16",
    "fp32": "fp32",
    "fp16": "fp16",
    "bf16": "fp16",
    "int8": "int8",
    "int8-weights": "int8",
    "int4-weights": "int4",
}
# What is not in 8 bits is computed as the device does best.
_COMPUTE = {"fp16": "fp32", "int8": "auto", "int8-weights": "auto", "int4-weights": "auto"}


def ir_from_graph(
    graph: Graph,
    precision: Precision,
    options: OpenVINOOptions,
    directory: Path,
    quantization: Quantization | None = None,
    say: Callable[[str], None] = lambda step: None,
) -> Compiled:
    """Write ``model.xml`` and ``model.bin``.

    Weights are stored as fp16, except for fp32 and the two int8. `auto` leaves the arithmetic to
    the device: bf16 where the CPU has it in hardware, else fp32. `fp16` computes in fp32:
    OpenVINO's fp16 arithmetic on a CPU took 1.5 times as long (MiniLM, 8 x 128 tokens, AVX-512
    FP16).
    """
    library = openvino()
    with build_errors(directory):
        model = converted(graph)
        name_operations(model)
        kept: tuple[str, ...] = ()
        if precision == "int8":
            if quantization is None:
                raise BackendError("int8 needs inputs to calibrate on")
            model, kept = in_eight_bits(model, quantization, partial(_opened, graph), say)
        elif precision in ("int8-weights", "int4-weights"):
            model = with_small_weights(model, 4 if precision == "int4-weights" else 8, options)
        if precision in _EIGHT_BITS:
            name_operations(model)  # those that NNCF added
        # What is left in floating point, such as biases, is stored as fp16.
        library.save_model(model, str(directory / _MODEL), compress_to_fp16=precision != "fp32")
    return Compiled(
        precision=_WEIGHTS[precision],
        inputs=graph.inputs,
        outputs=graph.outputs,
        requires=f"openvino {library.__version__.split('-')[0]}",
        settings=common_settings(precision, options),
        kept=kept,
    )


def common_settings(precision: Precision, options: OpenVINOOptions) -> dict[str, Setting]:
    """Those that every artifact has."""
    settings: dict[str, Setting] = {
        "compute": _COMPUTE.get(precision, precision),
        "performance_hint": options.performance_hint,
    }
    if options.threads:
        settings["threads"] = options.threads
    if options.streams:
        settings["streams"] = options.streams
    return settings


@contextmanager
def build_errors(directory: Path) -> Iterator[None]:
    """Turn whatever a conversion raises into `BackendError`; OSError where the disk is full."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own deprecations: nothing to act on
            yield
    except BackendError:
        raise
    # The converter raises its own classes for an operator it does not have.
    except Exception as error:
        _raise_if_full(directory, error)
        raise BackendError(
            f"OpenVINO cannot convert this model: {last_line(error)}",
            hint="export it to ONNX and build from the file: source: {onnx: model.onnx}",
        ) from error


def _opened(graph: Graph, model: Any) -> OpenVINOSession:
    """A session on a model that is not written yet."""
    specs = Compiled("", graph.inputs, graph.outputs, "")
    return OpenVINOSession(openvino().Core().compile_model(model, "CPU"), specs, "CPU")


def converted(graph: Graph) -> Any:
    """The graph as a model of OpenVINO's whose ports have the graph's names."""
    convert = converter().convert_model
    if graph.program is None:
        model = convert(str(graph.onnx))
    else:
        model = convert(whole_layers(graph.program), extension=extensions())
    _name_ports(model.inputs, graph.inputs)
    _name_ports(model.outputs, graph.outputs)
    return model


def _name_ports(ports: list[Any], specs: tuple[TensorSpec, ...]) -> None:
    """Name the converted model's ports as the graph's. Sessions find tensors by these names."""
    if len(ports) != len(specs):
        raise BackendError(f"the converted model has {len(ports)} ports for {len(specs)} tensors")
    for port, spec in zip(ports, specs, strict=True):
        port.get_tensor().set_names({spec.name})


def name_operations(model: Any) -> None:
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
