"""Eight bits: NNCF on an ONNX graph, and which operations need more."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from lepton_edge.errors import BackendError
from lepton_edge.quantization.control import roundings_to_free
from lepton_edge.quantization.nncf import nncf
from lepton_edge_tensorrt.onnx_export import save
from lepton_edge_tensorrt.proof import ProofSession

if TYPE_CHECKING:
    import onnx_ir as ir

    from lepton_edge.backend import Compiled, Quantization

Say = Callable[[str], None]

_RECURRENT = ("GRU", "LSTM", "Loop", "RNN", "Scan")


def in_eight_bits(
    model: ir.Model, quantization: Quantization, specs: Compiled, say: Say
) -> tuple[ir.Model, tuple[str, ...]]:
    """The graph, in fp32, with its products quantized, and the operations whose arithmetic was left
    in higher precision. ``specs`` names its inputs and outputs.

    Quantization is symmetric, with a scale for each channel of a weight, as TensorRT takes it.
    Raises `BackendError`.
    """
    if any(node.op_type in _RECURRENT for node in model.graph):
        raise BackendError(
            "int8 is not for models with LSTM or GRU layers: their error grows from token to token",
            hint="build with precision: int8-weights",
        )
    say(f"quantizing with {len(quantization.feeds)} calibration inputs")
    small = _quantized(model, quantization)
    if quantization.score is None:
        return small, ()
    return _under_control(model, small, quantization, specs, say)


def _quantized(model: ir.Model, quantization: Quantization) -> ir.Model:
    """Post-training quantization with SmoothQuant (Xiao et al. 2022) and bias correction, ranges
    measured on the feeds."""
    import onnx_ir as ir

    with nncf() as library:
        quantized = library.quantize(
            ir.to_proto(model),
            library.Dataset([dict(each) for each in quantization.feeds]),
            # The default has zero points for activations, which TensorRT refuses.
            preset=library.QuantizationPreset.PERFORMANCE,
            model_type=library.ModelType.TRANSFORMER,
            subset_size=len(quantization.feeds),
            ignored_scope=library.IgnoredScope(names=_attention(model), validate=False),
        )
    return _signed(ir.from_proto(quantized))


def _signed(model: ir.Model) -> ir.Model:
    """What is never negative, as after a ReLU, NNCF makes unsigned: TensorRT has signed integers
    only, so it gets half as many steps of twice the size."""
    import numpy as np
    import onnx_ir as ir

    for node in model.graph:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or len(node.inputs) < 3:
            continue
        scale, zero = node.inputs[1], node.inputs[2]
        if zero is None or zero.const_value is None or zero.dtype != ir.DataType.UINT8:
            continue
        assert scale is not None
        assert scale.const_value is not None
        array = (scale.const_value.numpy() * (255 / 127)).astype(np.float32)
        for value, name, new in (
            (scale, f"{scale.name}.signed", array),
            (zero, f"{zero.name}.signed", np.zeros(array.shape, np.int8)),
        ):
            made = model.graph.initializers.get(name)
            if made is None:
                tensor = ir.tensor(new)
                made = ir.Value(
                    name=name,
                    shape=tensor.shape,
                    type=ir.TensorType(tensor.dtype),
                    const_value=tensor,
                )
                model.graph.register_initializer(made)
            node.replace_input_with(list(node.inputs).index(value), made)
        if node.op_type == "QuantizeLinear":
            node.outputs[0].dtype = ir.DataType.INT8
    return model


def _attention(model: ir.Model) -> list[str]:
    """Products of two activations: queries with keys, and what attention gives with values. They
    are computed as one in 16 bits, softmax included, which quantizing some of them would break up.
    """
    return [
        str(node.name)
        for node in model.graph
        if node.op_type == "MatMul" and all(_is_activation(value) for value in node.inputs)
    ]


def _is_activation(value: ir.Value | None) -> bool:
    """Whether it depends on the input: a weight may come through a transposition."""
    while value is not None and (producer := value.producer()) is not None:
        if producer.op_type not in ("Transpose", "Reshape", "Cast", "Identity"):
            return True
        value = producer.inputs[0]
    return value is not None and not value.is_initializer()


def _under_control(
    model: ir.Model, small: ir.Model, quantization: Quantization, specs: Compiled, say: Say
) -> tuple[ir.Model, tuple[str, ...]]:
    """The quantized graph with as few operations as it takes computing in higher precision: their
    activations are not rounded, their weights stay in 8 bits."""
    roundings = [str(node.name) for node in small.graph if node.op_type == "QuantizeLinear"]
    with TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"

        def opened(candidate: ir.Model) -> ProofSession:
            save(candidate, file)
            return ProofSession(file, specs)

        def freed(names: Collection[str]) -> ProofSession:
            return opened(_freed(small, names)[0])

        names = roundings_to_free(roundings, quantization, lambda: opened(model), freed, freed, say)
    return _freed(small, names)


def _freed(model: ir.Model, names: Collection[str]) -> tuple[ir.Model, tuple[str, ...]]:
    """A copy of the graph without those roundings, and the operations that read them."""
    import onnx_ir.passes.common as passes

    copy = model.clone()
    readers = set()
    for node in list(copy.graph):
        if node.op_type != "QuantizeLinear" or node.name not in names:
            continue
        for use in list(node.outputs[0].uses()):  # DequantizeLinear
            for reader in list(use.node.outputs[0].uses()):
                readers.add(str(reader.node.name))
                reader.node.replace_input_with(reader.idx, node.inputs[0])
    passes.RemoveUnusedNodesPass()(copy)
    return copy, tuple(sorted(readers))
