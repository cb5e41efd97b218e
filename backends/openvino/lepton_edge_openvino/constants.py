"""Weights as constants of a model: reading them, and storing them in 16 bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton_edge_openvino.library import openvino

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_PARTS = 64


def type_name(operation: Any) -> str:
    """The element type of what it gives, such as ``bf16``."""
    name: str = operation.get_output_element_type(0).get_type_name()
    return name


def constant_behind(port: Any) -> Any:
    """The constant that an input reads, converted or not; None where it reads something else."""
    source = port.get_source_output().get_node()
    if source.get_type_name() == "Convert":
        source = source.input_value(0).get_node()
    return source if source.get_type_name() == "Constant" else None


def values(constant: Any, rows: slice | tuple[()] = ()) -> NDArray[np.float32]:
    """Some rows of a floating-point constant."""
    import numpy as np

    found = constant.data[rows]
    if type_name(constant) == "bf16":  # the upper half of a float32, which numpy has no name for
        found = (found.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    wide: NDArray[np.float32] = found.astype(np.float32, copy=False)
    return wide


def widened(constant: Any) -> Any:
    """A constant's numbers in fp32, marked as no more than another form of it: OpenVINO computes
    with the constant then, where it would otherwise keep all of it in fp32."""
    library = openvino()
    ops: Any = library.opset13
    # Only OpenVINO's own compression makes the mark; where to is no matter to it.
    from openvino._offline_transformations import compress_model_transformation

    marked = ops.relu(ops.constant([0.0], dtype=library.Type.f32))
    compress_model_transformation(library.Model([marked], []))
    convert = marked.input_value(0).get_node()
    convert.set_arguments([constant])
    convert.validate_and_infer_types()
    convert.set_friendly_name(f"{constant.get_friendly_name()}/wide")
    return convert.output(0)


def store_as_fp16(model: Any) -> None:
    """Store what is bf16 as fp16, which OpenVINO has more ways to compute with: read as bf16, the
    embeddings of Qwen2.5-0.5B took 600 MiB more (2026.4.1). What fp16 cannot hold stays bf16."""
    ops: Any = openvino().opset13
    for each in model.get_ordered_ops():
        if each.get_type_name() != "Constant" or type_name(each) != "bf16":
            continue
        halves = _fp16(each)
        if halves is None:
            continue
        stored = ops.constant(halves, shared_memory=True, name=each.get_friendly_name())
        for reader in each.output(0).get_target_inputs():
            reader.replace_source_output(stored.output(0))


def _fp16(constant: Any) -> NDArray[np.float16] | None:
    """A copy, made in parts; None where a number is beyond fp16's."""
    import numpy as np

    shape = constant.data.shape
    found: NDArray[np.float16] = np.empty(shape or (1,), np.float16)
    step = max(len(found) // _PARTS, 1)
    for start in range(0, len(found), step):
        part = slice(start, start + step)
        with np.errstate(over="ignore"):
            found[part] = values(constant, part) if shape else values(constant)
        if not np.isfinite(found[part]).all():
            return None
    whole: NDArray[np.float16] = found.reshape(shape)
    return whole
