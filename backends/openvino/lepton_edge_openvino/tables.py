"""A decoder's tables of tokens in 8 bits: embeddings, and the last layer that is often the same.

NNCF makes the same of them, all at once and in fp32: in a small model, whose vocabulary is a third
of its weights, that was most of a build's memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lepton_edge_openvino.constants import constant_behind, type_name, values
from lepton_edge_openvino.library import openvino

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_AT_A_TIME = 2**22  # weights
_LARGEST = 255


def with_small_tables(model: Any) -> None:
    """Store the model's tables in 8 bits, with a scale and a zero point for each token."""
    tables: dict[str, Any] = {}
    for reader in list(_readers(model)):
        constant = constant_behind(reader)
        name = constant.get_friendly_name()
        if name not in tables:
            tables[name] = _eight_bits(constant)
        reader.replace_source_output(tables[name])
    model.validate_nodes_and_infer_types()


def _readers(model: Any) -> Iterator[Any]:
    """Inputs of operations that look tokens up, and of the product that scores each of them, which
    is the last one."""
    head = None
    for each in model.get_ordered_ops():
        if each.get_type_name() == "Gather" and _is_table(each.input(0)):
            yield each.input(0)
        elif each.get_type_name() == "MatMul" and _is_table(each.input(1)):
            head = each
    if head is not None and head.get_attributes()["transpose_b"]:
        yield head.input(1)


def _is_table(port: Any) -> bool:
    constant = constant_behind(port)
    return (
        constant is not None
        and len(constant.get_output_shape(0)) == 2
        and type_name(constant) in ("f32", "f16", "bf16")
    )


def _eight_bits(constant: Any) -> Any:
    """The constant's numbers, from 8 bits. Written as NNCF writes them, which OpenVINO knows to
    compute with."""
    import numpy as np

    ops: Any = openvino().opset13
    rows, size = constant.get_output_shape(0)
    stored, zeros = np.empty((rows, size), np.uint8), np.empty((rows, 1), np.uint8)
    scales = np.empty((rows, 1), np.float16)
    step = max(_AT_A_TIME // size, 1)
    for start in range(0, rows, step):
        part = slice(start, start + step)
        stored[part], zeros[part], scales[part] = _quantized(values(constant, part))
    name = constant.get_friendly_name()
    number = ops.convert(ops.constant(stored, shared_memory=True, name=name), "f16")
    zero = ops.convert(ops.constant(zeros, name=f"{name}/zero_point"), "f16")
    shifted = ops.subtract(number, zero, name=f"{name}/zero_point/subtract")
    scale = ops.constant(scales, name=f"{name}/scale")
    return ops.convert(ops.multiply(shifted, scale, name=f"{name}/scaled"), "f32").output(0)


def _quantized(
    rows: NDArray[np.float32],
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float16]]:
    """Asymmetric quantization by rows, of numbers whose range has 0 in it (Jacob et al. 2018):
    number = (stored - zero point) * scale."""
    import numpy as np

    least = np.minimum(rows.min(axis=1, keepdims=True), 0)
    most = np.maximum(rows.max(axis=1, keepdims=True), 0)
    # As it is stored; a row of zeros has any.
    scale = ((most - least) / _LARGEST).astype(np.float16)
    scale[scale == 0] = np.finfo(np.float16).tiny
    wide = scale.astype(np.float32)
    zero = np.clip(np.rint(-least / wide), 0, _LARGEST)
    stored = np.clip(np.rint(rows / wide) + zero, 0, _LARGEST)
    return stored.astype(np.uint8), zero.astype(np.uint8), scale
