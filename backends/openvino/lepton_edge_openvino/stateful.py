"""A decoder's step as OpenVINO generates with it: the cache as the model's own state.

openvino-genai takes such a model. When it opens it, it puts paged attention (Kwon et al. 2023) in
place of attention and state, which leaves out what a mask says, but for a sliding window that it
recognizes: hence `_show_windows`, and `is_paged`, which tries it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lepton_edge.backend import TensorSpec
from lepton_edge.generation.tensors import past_names, present_names
from lepton_edge_openvino.constants import type_name, widened
from lepton_edge_openvino.library import openvino

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BEAM_IDX = "beam_idx"
"""int32 [batch]: the row of the state that each row of a step goes on from."""

_INPUT_IDS, _ATTENTION_MASK = "input_ids", "attention_mask"
_ATTENTION = "ScaledDotProductAttention"
_HALVES = ("bf16", "f16")
# fp16's lowest number, a number in every format: rows that are all padding become a mean of values,
# where minus infinity would make them NaN, and with them all that comes after.
_MASKED = -65504.0


def cache_specs(inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Those of the cache, float32 [batch, heads, past, head_dim], keys and values by turns; none
    where the graph is not a decoder's step."""
    by_name = {spec.name: spec for spec in inputs}
    return tuple(by_name[name] for name in past_names(len(inputs) // 2) if name in by_name)


def make_stateful(model: Any, inputs: Sequence[TensorSpec]) -> None:
    """Turn the cache of a converted model, whose ports have the graph's names, into its state, and
    its arithmetic into fp32; weights in 16 bits stay so.

    Left are the inputs ``input_ids``, ``attention_mask``, ``position_ids`` and ``beam_idx``, and
    the output ``logits``. The state has no tokens before the first step and after a reset.
    """
    from openvino._offline_transformations import apply_make_stateful_transformation

    _widen(model)
    for port, spec in zip(model.inputs, inputs, strict=True):
        sizes = [size if isinstance(size, int) else -1 for size in spec.shape]
        port.get_node().set_partial_shape(openvino().PartialShape(sizes))
    pasts = past_names(len(cache_specs(inputs)) // 2)
    _choose_rows(model, pasts)
    presents = present_names(len(pasts) // 2)
    apply_make_stateful_transformation(model, dict(zip(pasts, presents, strict=True)))
    _start_empty(model)
    _show_windows(model)
    model.validate_nodes_and_infer_types()


def is_paged(model: Any) -> bool:
    """Whether paged attention can take the place of the model's own and answer the same."""
    from openvino._offline_transformations import paged_attention_transformation

    attentions = list(_of_type(model, _ATTENTION))
    windows = [size for each in attentions if (size := _window(each.input_value(3).get_node()))]
    copy = model.clone()
    try:
        paged_attention_transformation(copy)
    except RuntimeError:  # no attention that it knows
        return False
    found = [_paged_window(each) or 0 for each in _of_type(copy, "PagedAttentionExtension")]
    return len(found) == len(attentions) and not Counter(windows) - Counter(found)


def _widen(model: Any) -> None:
    """Compute in fp32 where the model computes in 16 bits; its constants stay as they are."""
    for each in model.get_ordered_ops():
        if type_name(each) not in _HALVES:
            continue
        if each.get_type_name() == "Parameter":
            each.set_element_type(openvino().Type.f32)
        elif each.get_type_name() == "Convert":
            each.set_attribute("destination_type", "f32")
        elif each.get_type_name() == "Constant":
            readers = each.output(0).get_target_inputs()
            wide = widened(each)
            for reader in readers:
                reader.replace_source_output(wide)
    model.validate_nodes_and_infer_types()


def _choose_rows(model: Any, pasts: Sequence[str]) -> None:
    library = openvino()
    ops: Any = library.opset13
    rows = ops.parameter([-1], dtype=library.Type.i32, name=BEAM_IDX)
    rows.output(0).get_tensor().set_names({BEAM_IDX})
    model.add_parameters([rows])
    for name in pasts:
        port = model.input(name)
        readers = port.get_target_inputs()
        chosen = ops.gather(port, rows, _integer(0)).output(0)
        for reader in readers:
            reader.replace_source_output(chosen)
    model.validate_nodes_and_infer_types()


def _start_empty(model: Any) -> None:
    """A state of no tokens for as many rows as the step has, where it has none yet."""
    ops: Any = openvino().opset13
    batch = _size(model, _INPUT_IDS, 0)
    for state in _of_type(model, "ReadValue"):
        shape = state.get_output_partial_shape(0)
        heads, size = ([shape[axis].get_length()] for axis in (1, 3))
        empty = ops.concat([batch, _integer(heads), _integer([0]), _integer(size)], axis=0)
        state.set_arguments([ops.broadcast(_number(0.0), empty)])


def _show_windows(model: Any) -> None:
    """Write the masks of layers with a sliding window as `paged_attention_transformation` knows
    them from gpt-oss: numbers that are added, cut to the length of the text."""
    ops: Any = openvino().opset13
    total = _size(model, _ATTENTION_MASK, 1)
    shown: dict[str, Any] = {}
    for each in _of_type(model, _ATTENTION):
        mask = each.input_value(3)
        name = mask.get_node().get_friendly_name()
        if mask.get_element_type() != openvino().Type.boolean or not _window(mask.get_node()):
            continue
        if name not in shown:
            added = ops.select(mask, _number(0.0), _number(_MASKED))
            shown[name] = ops.slice(added, _integer([0]), total, _integer([1]), _integer([3]))
        each.input(3).replace_source_output(shown[name].output(0))


def _window(mask: Any) -> int | None:
    """How many tokens before its own a position of this mask sees, itself among them: where a key's
    place is compared with a query's and a constant below 0."""
    waiting, seen = [mask], set()
    while waiting:
        each = waiting.pop()
        if each.get_friendly_name() in seen:
            continue
        seen.add(each.get_friendly_name())
        if each.get_type_name() == "Greater":
            offset = _constant_of(each.input_value(1).get_node(), "Add", 1)
            if offset is not None and offset.size == 1 and offset.item() < 0:
                return -int(offset.item())
        elif each.get_type_name() in _MASKS:
            waiting += [port.get_source_output().get_node() for port in each.inputs()]
    return None


# What a mask is made with, from the comparison of places to attention.
_MASKS = ("BitwiseAnd", "LogicalAnd", "Broadcast", "Select", "Slice", "Unsqueeze", "Convert")


def _paged_window(attention: Any) -> int | None:
    """The window of a paged attention (its input 10), if it has one."""
    window = attention.input_value(10).get_node()
    if window.get_type_name() == "Constant":
        return int(window.data.item()) or None
    offset = window.input_value(0).get_node()
    while offset.get_type_name() != "Constant":
        offset = offset.input_value(0).get_node()
    return -int(offset.data.item())


def _constant_of(operation: Any, kind: str, place: int) -> NDArray[np.generic] | None:
    if operation.get_type_name() != kind:
        return None
    value = operation.input_value(place).get_node()
    return value.data if value.get_type_name() == "Constant" else None


def _of_type(model: Any, kind: str) -> Iterator[Any]:
    return (each for each in model.get_ordered_ops() if each.get_type_name() == kind)


def _size(model: Any, name: str, axis: int) -> Any:
    """A dimension of an input, int64 [1]."""
    ops: Any = openvino().opset13
    shape = ops.shape_of(model.input(name), output_type="i64")
    return ops.gather(shape, _integer([axis]), _integer(0))


def _integer(value: int | list[int]) -> Any:
    import numpy as np

    return openvino().opset13.constant(np.array(value, np.int64))


def _number(value: float) -> Any:
    import numpy as np

    return openvino().opset13.constant(np.array(value, np.float32))
