"""A decoder's tables of tokens in 8 bits: embeddings, and the last layer that is often the same.

NNCF makes the same of them, and takes three times their size in fp32 for it: in a small model, whose
vocabulary is half of its weights, that was most of a build's memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lepton_edge_openvino.constants import source_of, values
from lepton_edge_openvino.library import openvino

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_AT_A_TIME = 1 << 22  # weights


def with_small_tables(model: Any) -> None:
    """Store the model's tables in 8 bits, with a scale and a zero point for each token."""
    by_name: dict[str, list[Any]] = {}
    constants: dict[str, Any] = {}
    for reader in _readers(model):
        constant = source_of(reader)
        if constant is not None and len(constant.get_output_shape(0)) == 2:
            constants[constant.get_friendly_name()] = constant
            by_name.setdefault(constant.get_friendly_name(), []).append(reader)
    for name, readers in by_name.items():
        table = _eight_bits(constants[name])
        for reader in readers:
            reader.replace_source_output(table)
    model.validate_nodes_and_infer_types()


def _readers(model: Any) -> Iterator[Any]:
    """Inputs of operations that look tokens up, and of the product that scores each of them."""
    head = None
    for each in model.get_ordered_ops():
        if each.get_type_name() == "Gather":
            yield each.input(0)
        elif each.get_type_name() == "MatMul" and each.get_attributes()["transpose_b"]:
            head = each.input(1) if source_of(each.input(1)) is not None else head
    if head is not None:
        yield head


def _eight_bits(constant: Any) -> Any:
    """Asymmetric affine quantization by rows: weight = (stored - zero point) * scale, where 0 and
    255 are a row's least and largest weight, and 0 itself is exact (Jacob et al. 2018)."""
    import numpy as np

    library = openvino()
    ops: Any = library.opset13
    rows, size = constant.get_output_shape(0)
    stored = np.empty((rows, size), np.uint8)
    zeros = np.empty((rows, 1), np.uint8)
    scales = np.empty((rows, 1), np.float16)
    step = max(_AT_A_TIME // size, 1)
    for start in range(0, rows, step):
        part = slice(start, start + step)
        stored[part], zeros[part], scales[part] = _quantized(values(constant, part))
    name = constant.get_friendly_name()
    number = ops.convert(_named(ops.constant(stored, shared_memory=True), name), "f16")
    zero = ops.convert(ops.constant(zeros, name=f"{name}/zero_point"), "f16")
    shifted = ops.subtract(number, zero, name=f"{name}/zero_point/subtract")
    scale = ops.constant(scales, name=f"{name}/scale")
    return ops.convert(ops.multiply(shifted, scale, name=f"{name}/scaled"), "f32").output(0)
