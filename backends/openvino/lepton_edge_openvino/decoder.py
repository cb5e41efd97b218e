"""Compiling a decoder: the graph of its step to the files that openvino-genai opens."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from lepton_edge.backend import Compiled, Graph, Precision, Quantization, Setting, TensorSpec
from lepton_edge.errors import BackendError
from lepton_edge.generation.tensors import LOGITS, POSITION_IDS, past_names
from lepton_edge_openvino.build import build_errors, common_settings, converted, name_operations
from lepton_edge_openvino.constants import constant_behind, store_as_fp16, type_name
from lepton_edge_openvino.library import openvino
from lepton_edge_openvino.options import OpenVINOOptions
from lepton_edge_openvino.quantize import with_small_weights
from lepton_edge_openvino.stateful import BEAM_IDX, is_paged, make_stateful
from lepton_edge_openvino.tables import with_small_tables
from lepton_edge_openvino.vocabulary import (
    DETOKENIZER,
    GENERATIVE_MODEL,
    TOKENIZER,
    write_tokenizer,
    write_vocabulary,
)

Say = Callable[[str], None]
Specs = tuple[TensorSpec, ...]

_BITS: dict[str, Literal[4, 8]] = {"int8-weights": 8, "int4-weights": 4}
_STORED = {"u4": "int4", "i4": "int4", "u8": "int8", "i8": "int8", "bf16": "bf16", "f16": "fp16"}
_REQUIRED = ("input_ids", "attention_mask", BEAM_IDX)
_LARGE = 1024  # numbers: smaller constants are shapes, axes and the like


def is_decoder(graph: Graph) -> bool:
    """Whether a graph is a decoder-only model's step. The decoder of an encoder-decoder model has
    no positions of its own, and is run as a session."""
    return graph.ir is not None or any(spec.name == POSITION_IDS for spec in graph.inputs)


def generative_ir_from_graph(
    graph: Graph,
    precision: Precision,
    options: OpenVINOOptions,
    directory: Path,
    quantization: Quantization | None = None,
    say: Say = lambda step: None,
) -> Compiled:
    """Write ``openvino_model.xml`` and its weights, and the vocabulary as a detokenizer.

    Weights of 16 bits are stored as fp16 where they fit, but for fp32, which keeps them as they
    are: its arithmetic on them is exact. Others are stored as fp16, except for fp32. In 8 or 4
    bits, embeddings and the last layer have 8. An IR that another exporter made stays as it is,
    unless its weights are to be smaller.
    """
    if precision == "int8":
        raise BackendError(
            "int8 is not for decoders: the outliers in their activations do not fit into 8 bits",
            hint="precision: int8-weights",
        )
    with build_errors(directory):
        if graph.ir is None:
            model, inputs, outputs = _stateful(graph), graph.inputs, graph.outputs
        else:
            model = openvino().Core().read_model(str(graph.ir / GENERATIVE_MODEL))
            inputs, outputs = _described(model)
        if precision in _BITS:
            with_small_tables(model)
            feeds = quantization.feeds if quantization else ()
            model = with_small_weights(model, _BITS[precision], options, feeds, all_layers=True)
            name_operations(model)  # those that were added
            _say_what_was_left(model, precision, options, say)
        stored = _save(model, graph, precision, directory)
        if graph.vocabulary is not None:
            write_vocabulary(graph.vocabulary, directory / DETOKENIZER)
            write_tokenizer(directory / TOKENIZER)
        paged = is_paged(model)
    return Compiled(
        precision=stored,
        inputs=inputs,
        outputs=outputs,
        requires=f"openvino {openvino().__version__.split('-')[0]}",
        settings={**_settings(precision, options), "paged": paged},
    )


def _stateful(graph: Graph) -> Any:
    model = converted(graph)
    _name_layers(model, graph.program)
    make_stateful(model, graph.inputs)
    name_operations(model)
    return model


def _name_layers(model: Any, program: Any) -> None:
    """Name products after the layers that they are of, such as ``model.layers.0.self_attn.q_proj``,
    by which adapters are given. A layer's weight is the very memory of torch's."""
    if program is None:
        return
    layers = {tensor.data_ptr(): name for name, tensor in program.state_dict.items()}
    for each in model.get_ordered_ops():
        if each.get_type_name() != "MatMul":
            continue
        weight = constant_behind(each.input(1))
        place = None if weight is None else weight.data.__array_interface__["data"][0]
        if place in layers:
            # What the export calls the model comes first in its names.
            name = layers[place].partition(".")[2]
            each.set_friendly_name(name.removesuffix(".weight"))


def _described(model: Any) -> tuple[Specs, Specs]:
    """What a converted graph would say of the model. Raises `BackendError` for one that is not a
    decoder's step with its cache as state."""
    inputs = {port.get_any_name() for port in model.inputs}
    states = {
        each.get_variable_id(): each.get_output_partial_shape(0)
        for each in model.get_ops()
        if each.get_type_name() == "ReadValue"
    }
    faults = [f"it has no input {name}" for name in _REQUIRED if name not in inputs]
    if not states:
        faults.append("it has no state")
    if LOGITS not in {port.get_any_name() for port in model.outputs}:
        faults.append(f"it has no output {LOGITS}")
    for name, shape in states.items():
        if shape.rank.is_dynamic or shape.rank.get_length() != 4 or shape[3].is_dynamic:
            faults.append(f"its state {name} is not a cache, [batch, heads, tokens, size]")
    if faults:
        raise BackendError(
            f"the IR is not a decoder that keeps its cache: {'; '.join(faults[:3])}",
            hint="export it with its cache: optimum-cli export openvino --task "
            "text-generation-with-past",
        )
    names = past_names(-(-len(states) // 2))
    cache = tuple(
        TensorSpec(name, "float32", ("batch", shape[1].get_length(), "past", shape[3].get_length()))
        for name, (_, shape) in zip(names, sorted(states.items(), key=_by_numbers), strict=False)
    )
    tokens = (("input_ids", "length"), ("attention_mask", "total"), (POSITION_IDS, "length"))
    given = tuple(
        TensorSpec(name, "int64", ("batch", size)) for name, size in tokens if name in inputs
    )
    size = model.output(LOGITS).get_partial_shape()[2]
    vocabulary = "vocabulary" if size.is_dynamic else size.get_length()
    return (*given, *cache), (TensorSpec(LOGITS, "float32", ("batch", "length", vocabulary)),)


def _by_numbers(state: tuple[str, Any]) -> list[tuple[int, str]]:
    """Layers in order: keys of a layer, its values, and the next layer's."""
    return [
        (int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", state[0])
    ]


def _save(model: Any, graph: Graph, precision: Precision, directory: Path) -> str:
    """Write the model, and say what its weights are stored in."""
    if graph.ir is not None and precision not in (*_BITS, "fp16", "bf16"):
        for suffix in (".xml", ".bin"):
            name = Path(GENERATIVE_MODEL).with_suffix(suffix).name
            shutil.copyfile(graph.ir / name, directory / name)
        return _stored(model)
    halves = precision != "fp32"
    if halves:
        store_as_fp16(model)
    stored = _stored(model)
    file = directory / GENERATIVE_MODEL
    openvino().save_model(model, str(file), compress_to_fp16=halves)
    return "fp16" if halves and stored == "fp32" else stored


def _stored(model: Any) -> str:
    """The smallest format that weights are in."""
    found = {type_name(each) for each in _constants(model)}
    return next((name for kind, name in _STORED.items() if kind in found), "fp32")


def _constants(model: Any) -> list[Any]:
    return [
        each
        for each in model.get_ordered_ops()
        if each.get_type_name() == "Constant" and each.get_output_size() and _size(each) >= _LARGE
    ]


def _size(constant: Any) -> int:
    size = 1
    for each in constant.get_output_shape(0):
        size *= each
    return size


def _settings(precision: Precision, options: OpenVINOOptions) -> dict[str, Setting]:
    settings = common_settings(precision, options)
    # The library's own choice is 8 bits: stories260k's perplexity rises by 0.7 percent with it.
    kept_in = options.kv_cache_precision or ("f32" if precision == "fp32" else None)
    if kept_in:
        settings["kv_cache_precision"] = kept_in
    if precision in _BITS:
        size = options.dynamic_quantization_group_size
        settings["dynamic_quantization_group_size"] = size
        # Where the arithmetic is bf16, activations are not quantized, and a token takes 1.4 times
        # as long (2026.4.1, a processor with AMX).
        settings["compute"] = "fp32" if size else "auto"
    return settings


def _say_what_was_left(
    model: Any, precision: Precision, options: OpenVINOOptions, say: Say
) -> None:
    """Groups of 4-bit weights that are not of the size that was asked for."""
    if precision != "int4-weights" or options.group_size == -1:
        return
    found = {
        each.get_output_shape(0)[-1]
        for each in _constants(model)
        if type_name(each) in ("u4", "i4")
    }
    others = [str(size) for size in sorted(found) if size != options.group_size]
    if others:
        say(
            f"groups of {' and '.join(others)} weights where {options.group_size} does not divide "
            "what a product sums over"
        )
