"""Weights in 8 or 4 bits, dequantized where they are read; the arithmetic stays in floating point.

NNCF's form of this does not parse: its 4 bits are ONNX Runtime's own operator, and its 8 bits have
zero points and negative scales, which TensorRT refuses.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from lepton_edge.errors import BackendError
from lepton_edge_tensorrt.typed import SMALLEST_SCALE

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir
    from numpy.typing import NDArray

Bits = Literal[4, 8]

# Smaller weights save less than their scales and their operation cost.
_LEAST_ELEMENTS = 1024
_LARGEST_BLOCK = 128
_SMALLEST_BLOCK = 16
_OPSET_OF_BLOCKS = 21


def with_small_weights(model: ir.Model, bits: Bits) -> ir.Model:
    """The weights of matrix products and embeddings as integers, symmetric around zero.

    With 8 bits there is a scale for each output channel of a product, and for each row of an
    embedding table. With 4 bits there is one for each block of 128 along the axis that a product
    sums over (or of the largest smaller power of two that divides it, down to 16); embeddings, and
    the last product, which makes the logits, have 8. A scale is the largest magnitude that it is
    for over 127, or over 7, in the type of the weights: a weight is off by at most half of it.

    Weights that several operations share stay shared. One that something else reads too, or whose
    readers do not agree on its channels, stays as it is, as does one that a loop or branch reads.

    Changes ``model`` and returns it. Raises `BackendError` where 4 bits meet an opset below 21,
    which has no blocks.
    """
    import onnx_ir.passes.common as passes

    graph = model.graph
    opset = graph.opset_imports.get("", 0)
    if bits == 4 and opset < _OPSET_OF_BLOCKS:
        raise BackendError(
            f"weights in 4 bits need ONNX opset {_OPSET_OF_BLOCKS}, and the graph has {opset}",
            hint=f"export it with opset_version={_OPSET_OF_BLOCKS}, or build with 8 bits",
        )
    passes.LiftConstantsToInitializersPass()(model)
    weights = [found for value in graph.initializers.values() if (found := _weight(value, graph))]
    readers = {node for weight in weights for node in weight.readers}
    last = [node for node in graph if node in readers and node.op_type != "Gather"][-1:]
    for weight in weights:
        in_eight = bits == 8 or any(
            node.op_type == "Gather" or node in last for node in weight.readers
        )
        read = _read_one_way(graph, weight)
        _quantize(graph, read, None if in_eight else _block(read.numbers().shape[read.summed]))
    return model


def in_channels(weights: NDArray[Any], summed: int) -> tuple[NDArray[np.int8], NDArray[Any]]:
    """A matrix as int8, and a scale for each channel, in the type of the weights: [channels].

    ``summed`` is the axis that a scale is for all of.
    """
    import numpy as np

    full = weights.astype(np.float32, copy=False)
    scales = _scales(_largest(full, summed), 127, weights.dtype)
    integers = full / np.expand_dims(scales.astype(np.float32), summed)
    np.rint(integers, out=integers).clip(-127, 127, out=integers)
    return np.ascontiguousarray(integers.astype(np.int8)), scales


def in_blocks(weights: NDArray[Any], summed: int, block: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """A matrix as int4, and a scale for each block along ``summed``, in the type of the weights:
    of the matrix's shape, with the blocks in place of that axis."""
    import ml_dtypes
    import numpy as np

    full = np.moveaxis(weights.astype(np.float32, copy=False), summed, -1)
    blocks = full.reshape(full.shape[0], -1, block)
    scales = _scales(_largest(blocks, 2), 7, weights.dtype)
    integers = blocks / scales.astype(np.float32)[..., None]
    np.rint(integers, out=integers).clip(-7, 7, out=integers)
    whole = np.moveaxis(integers.reshape(full.shape), -1, summed)
    return (
        np.ascontiguousarray(whole).astype(ml_dtypes.int4),
        np.ascontiguousarray(np.moveaxis(scales, -1, summed)),
    )


def _largest(array: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """The largest magnitude along an axis, without a copy of the array."""
    import numpy as np

    found: NDArray[np.float32] = np.maximum(array.max(axis=axis), -array.min(axis=axis))
    return found


def _scales(largest: NDArray[np.float32], levels: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Never 0, by which nothing can be divided, nor so small that fp16, in which they may end,
    has less than 8 bits for them: weights of less than half of that become 0."""
    import numpy as np

    scales: NDArray[Any] = np.maximum(largest / levels, SMALLEST_SCALE).astype(dtype)
    return scales


@dataclass(frozen=True)
class _Weight:
    """A constant matrix that only products and look-ups read."""

    value: ir.Value
    channels: int
    """The axis that its readers keep, 0 or 1: they sum over the other, or take rows."""
    readers: tuple[ir.Node, ...]
    transposed: bool = False
    """Whether its readers have been made to expect it the other way round."""

    @property
    def summed(self) -> int:
        return 1 - self.channels

    def numbers(self) -> NDArray[Any]:
        """As its readers expect it."""
        assert self.value.const_value is not None
        array: NDArray[Any] = self.value.const_value.numpy()
        return array.T if self.transposed else array


def _weight(value: ir.Value, graph: ir.Graph) -> _Weight | None:
    """None where a value is no such matrix."""
    import onnx_ir as ir

    tensor = value.const_value
    if tensor is None or value.is_graph_output():
        return None
    floats = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
    if tensor.dtype not in floats or len(tensor.shape) != 2 or tensor.size < _LEAST_ELEMENTS:
        return None
    found = list(_readers(value, graph))
    axes = {axis for _, axis in found}
    if len(axes) != 1 or (axis := axes.pop()) is None:
        return None
    return _Weight(value, axis, tuple(node for node, _ in found))


def _readers(value: ir.Value, graph: ir.Graph) -> Iterator[tuple[ir.Node, int | None]]:
    """The operations that read a matrix, also through a transposition, and the axis of it that each
    keeps; None for what is neither product nor look-up."""
    for node, index in value.uses():
        if node.graph is not graph:
            yield node, None
        elif node.op_type == "Transpose" and not node.outputs[0].is_graph_output():
            for reader, axis in _readers(node.outputs[0], graph):
                yield reader, None if axis is None else 1 - axis
        else:
            yield node, _kept_axis(node, index)


def _kept_axis(node: ir.Node, index: int) -> int | None:
    if node.op_type == "Gather" and index == 0 and node.attributes.get_int("axis", 0) == 0:
        return 0
    if node.op_type == "MatMul":
        return index
    if node.op_type == "Gemm" and index < 2:
        return 1 - index if node.attributes.get_int("transB" if index else "transA", 0) else index
    return None


def _read_one_way(graph: ir.Graph, weight: _Weight) -> _Weight:
    """An embedding table that makes the logits too: the product is given it as it stands, and the
    look-up takes columns.

    Where quantized weights are read both ways, TensorRT for RTX 1.7 keeps two copies in the engine:
    25.4 MB beside 42.2 for a vocabulary of 32,768 and 512 dimensions.
    """
    nodes = [node for node, _ in weight.value.uses()]
    turned = [node for node in nodes if node.op_type == "Transpose"]
    lookups = [node for node in nodes if node.op_type == "Gather"]
    shapes = [node.inputs[1].shape for node in lookups if node.inputs[1] is not None]
    if not turned or not lookups or len(turned) + len(lookups) < len(nodes) or None in shapes:
        return weight
    for node in turned:
        node.outputs[0].replace_all_uses_with(weight.value)
        graph.remove(node, safe=True)
    for node, shape in zip(lookups, shapes, strict=True):
        assert shape is not None
        _take_columns(graph, node, len(shape))
    return replace(weight, channels=1, transposed=True)


def _take_columns(graph: ir.Graph, lookup: ir.Node, rank: int) -> None:
    """Look up columns of a matrix, of indices of that rank, and give what rows gave."""
    import onnx_ir as ir

    columns = lookup.outputs[0]
    order = ir.AttrInt64s("perm", [*range(1, rank + 1), 0])
    back = ir.Node("", "Transpose", [columns], [order], name=f"{columns.name}.back")
    rows = back.outputs[0]
    rows.type, rows.shape = copy(columns.type), columns.shape
    columns.replace_all_uses_with(rows, replace_graph_outputs=True)
    back.replace_input_with(0, columns)
    rows.name, columns.name = columns.name, f"{columns.name}.columns"
    columns.shape = None
    lookup.attributes["axis"] = ir.AttrInt64("axis", 1)
    graph.insert_after(lookup, back)


def _block(size: int) -> int | None:
    """Weights to a scale along an axis; None where no block fits, and 8 bits it is."""
    block = _LARGEST_BLOCK
    while size % block:
        block //= 2
    return block if block >= _SMALLEST_BLOCK else None


def _quantize(graph: ir.Graph, weight: _Weight, block: int | None) -> None:
    """Put integers and their dequantization in the place of a weight."""
    import onnx_ir as ir

    value = weight.value
    if block is None:
        integers, scales = in_channels(weight.numbers(), weight.summed)
        options = [ir.AttrInt64("axis", weight.channels)]
    else:
        integers, scales = in_blocks(weight.numbers(), weight.summed, block)
        options = [ir.AttrInt64("axis", weight.summed), ir.AttrInt64("block_size", block)]
    parts = [
        _initializer(graph, f"{value.name}.quantized", integers),
        _initializer(graph, f"{value.name}.scale", scales),
    ]
    node = ir.Node("", "DequantizeLinear", parts, options, name=f"{value.name}.dequantized")
    output = node.outputs[0]
    output.name, output.type = node.name, copy(value.type)
    output.shape = ir.Shape(integers.shape)
    value.replace_all_uses_with(output)
    graph.insert_before(graph[0], node)
    del graph.initializers[str(value.name)]


def _initializer(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    import onnx_ir as ir

    tensor = ir.tensor(array, name=name)
    made = ir.Value(
        name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(made)
    return made
