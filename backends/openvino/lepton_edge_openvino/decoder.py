"""Compiling a decoder: the graph of its step to the files that openvino-genai opens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from lepton_edge.backend import Compiled, Graph, Precision, Quantization, Setting, TensorSpec
from lepton_edge.errors import BackendError
from lepton_edge.generation.tensors import POSITION_IDS
from lepton_edge_openvino.build import build_errors, common_settings, converted, name_operations
from lepton_edge_openvino.constants import store_as_fp16, type_name
from lepton_edge_openvino.library import openvino
from lepton_edge_openvino.options import OpenVINOOptions
from lepton_edge_openvino.quantize import with_small_weights
from lepton_edge_openvino.stateful import is_paged, make_stateful
from lepton_edge_openvino.tables import with_small_tables
from lepton_edge_openvino.vocabulary import DETOKENIZER, GENERATIVE_MODEL, write_vocabulary

Say = Callable[[str], None]

_BITS: dict[str, Literal[4, 8]] = {"int8-weights": 8, "int4-weights": 4}


def is_decoder(inputs: tuple[TensorSpec, ...]) -> bool:
    """Whether these are the inputs of a decoder-only model's step. The decoder of an
    encoder-decoder model has no positions of its own, and is run as a session."""
    return any(spec.name == POSITION_IDS for spec in inputs)


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
    bits, embeddings and the last layer have 8.
    """
    if precision == "int8":
        raise BackendError(
            "int8 is not for decoders: the outliers in their activations do not fit into 8 bits",
            hint="precision: int8-weights",
        )
    library = openvino()
    with build_errors(directory):
        model = converted(graph)
        make_stateful(model, graph.inputs)
        name_operations(model)
        if precision in _BITS:
            with_small_tables(model)
            feeds = quantization.feeds if quantization else ()
            model = with_small_weights(model, _BITS[precision], options, feeds, all_layers=True)
            name_operations(model)  # those that were added
            _say_what_was_left(model, precision, options, say)
        stored = "fp32"
        if precision == "fp32":
            stored = _halves(model) or stored
        else:
            store_as_fp16(model)
            stored = {4: "int4", 8: "int8"}.get(_BITS.get(precision, 0), "fp16")
        paged = is_paged(model)
        file = directory / GENERATIVE_MODEL
        library.save_model(model, str(file), compress_to_fp16=precision != "fp32")
        if graph.vocabulary is not None:
            write_vocabulary(graph.vocabulary, directory / DETOKENIZER)
    return Compiled(
        precision=stored,
        inputs=graph.inputs,
        outputs=graph.outputs,
        requires=f"openvino {library.__version__.split('-')[0]}",
        settings={**_settings(precision, options), "paged": paged},
    )


def _settings(precision: Precision, options: OpenVINOOptions) -> dict[str, Setting]:
    settings = common_settings(precision, options)
    # The library's own choice is 8 bits: stories260k's perplexity rises by 0.7 percent with it.
    kept_in = options.kv_cache_precision or ("f32" if precision == "fp32" else None)
    if kept_in:
        settings["kv_cache_precision"] = kept_in
    if options.dynamic_quantization_group_size is not None:
        settings["dynamic_quantization_group_size"] = options.dynamic_quantization_group_size
    return settings


def _halves(model: Any) -> str | None:
    """The format of 16 bits that the model's constants are in, if they are."""
    found = {type_name(each) for each in model.get_ordered_ops() if _is_constant(each)}
    return "bf16" if "bf16" in found else "fp16" if "f16" in found else None


def _say_what_was_left(
    model: Any, precision: Precision, options: OpenVINOOptions, say: Say
) -> None:
    """Groups of 4-bit weights that are not of the size that was asked for."""
    if precision != "int4-weights" or options.group_size == -1:
        return
    sizes = sorted(
        {
            each.get_output_shape(0)[-1]
            for each in model.get_ordered_ops()
            if _is_constant(each) and type_name(each) in ("u4", "i4")
        }
    )
    others = [str(size) for size in sizes if size != options.group_size]
    if others:
        say(
            f"groups of {' and '.join(others)} weights where {options.group_size} does not divide "
            "what a product sums over"
        )


def _is_constant(operation: Any) -> bool:
    return bool(operation.get_type_name() == "Constant")
