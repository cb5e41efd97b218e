"""Eight bits: NNCF on a converted model, and which operations need more."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, Literal

from lepton_edge.errors import BackendError
from lepton_edge.quantization.control import roundings_to_free
from lepton_edge_openvino.library import nncf
from lepton_edge_openvino.options import OpenVINOOptions
from lepton_edge_openvino.stateful import BEAM_IDX

if TYPE_CHECKING:
    from lepton_edge.backend import Quantization, Session, Tensors

    Open = Callable[[Any], Session]
    """Opens a model of OpenVINO's."""
    Say = Callable[[str], None]

# Their inputs stay as they are. With quantized queries and keys sst2-minilm's error was five times
# as large where the device computes in bf16 (0.0121 of the outputs' variance beside 0.0021; at fp32
# they were the same), and it was slower: 0.91 to 0.93 of bf16's time for one text, beside 0.83 to
# 0.86.
_UNQUANTIZED = ("ScaledDotProductAttention",)
_RECURRENT = ("LSTMSequence", "GRUSequence", "RNNSequence", "TensorIterator", "Loop")


def in_eight_bits(
    model: Any, quantization: Quantization, open_model: Open, say: Say
) -> tuple[Any, tuple[str, ...]]:
    """The quantized model, and the operations whose arithmetic was left in higher precision.

    Raises `BackendError`.
    """
    if any(each.get_type_name() in _RECURRENT for each in model.get_ordered_ops()):
        raise BackendError(
            "int8 is not for models with LSTM or GRU layers: their error grows from token to token",
            hint="build with precision: int8-weights",
        )
    say(f"quantizing with {len(quantization.feeds)} calibration inputs")
    small = _quantized(model, quantization.feeds)
    if quantization.score is None:
        return small, ()
    return _under_control(model, small, quantization, open_model, say)


def with_small_weights(
    model: Any,
    bits: Literal[4, 8] = 8,
    options: OpenVINOOptions | None = None,
    feeds: Sequence[Tensors] = (),
    *,
    all_layers: bool = False,
) -> Any:
    """The model with weights in 8 bits, a scale and a zero point for each channel; or in 4, with
    those of each group along what a product sums over (of ``options.group_size``, or of fewer,
    where that does not divide it), and 8 for embeddings and the last layer, unless all are to be.

    ``feeds`` are inputs to a decoder's step from an empty cache, for what is chosen by the data.

    Raises `BackendError`.
    """
    with nncf() as library:
        modes = library.CompressWeightsMode
        if bits == 8:
            return library.compress_weights(model, mode=modes.INT8_ASYM)
        options = options or OpenVINOOptions()
        return library.compress_weights(
            model,
            mode=modes.INT4_SYM if options.symmetric else modes.INT4_ASYM,
            group_size=options.group_size,
            ratio=options.ratio,
            all_layers=all_layers,
            advanced_parameters=library.AdvancedCompressionParameters(
                group_size_fallback_mode=library.GroupSizeFallbackMode.ADJUST
                if options.group_size > 0
                else library.GroupSizeFallbackMode.IGNORE
            ),
            **_by_data(library, model, options, feeds),
        )


def _by_data(
    library: Any, model: Any, options: OpenVINOOptions, feeds: Sequence[Tensors]
) -> dict[str, Any]:
    """NNCF's arguments for what is chosen by what the weights are multiplied with."""
    if not (options.awq or options.scale_estimation or options.ratio < 1):
        return {}
    if not feeds:
        if options.awq or options.scale_estimation:
            raise BackendError(
                "awq and scale_estimation choose by data, and the recipe has none",
                hint="calibration: {data: texts.jsonl}",
            )
        return {}
    return {
        "dataset": library.Dataset([_with_beams(model, each) for each in feeds]),
        "subset_size": len(feeds),
        "awq": options.awq or None,
        "scale_estimation": options.scale_estimation or None,
    }


def _with_beams(model: Any, feeds: Tensors) -> dict[str, Any]:
    """The feeds with the row that each row of a stateful model's step goes on from."""
    import numpy as np

    names = {port.get_any_name() for port in model.inputs}
    found: dict[str, Any] = {name: feed for name, feed in feeds.items() if name in names}
    if BEAM_IDX in names:
        rows = next(iter(feeds.values())).shape[0]
        found[BEAM_IDX] = np.arange(rows, dtype=np.int32)
    return found


def _quantized(model: Any, feeds: Sequence[Tensors]) -> Any:
    """The model with weights and matrix products in 8 bits: post-training quantization with
    SmoothQuant (Xiao et al. 2022) and bias correction, ranges measured on the feeds."""
    with nncf() as library:
        return library.quantize(
            model.clone(),
            library.Dataset([dict(each) for each in feeds]),
            # Symmetric ranges, which every backend's 8-bit products are fast with.
            preset=library.QuantizationPreset.PERFORMANCE,
            model_type=library.ModelType.TRANSFORMER,
            subset_size=len(feeds),
            ignored_scope=library.IgnoredScope(types=list(_UNQUANTIZED), validate=False),
        )


def _under_control(
    model: Any, small: Any, quantization: Quantization, open_model: Open, say: Say
) -> tuple[Any, tuple[str, ...]]:
    """The quantized model with as few operations as it takes computing in higher precision.

    Weights stay in 8 bits; it is the rounding of activations that costs accuracy. With all of them
    freed the model is the original with small weights.

    NNCF's own accuracy control is not used: it puts a layer's weights back without undoing their
    smoothing, which made sst2-minilm's error 17 times as large for one layer.
    """
    rounded = _activations(small)

    def freed(names: Collection[str]) -> Any:
        return (
            with_small_weights(model.clone())
            if len(names) == len(rounded)
            else _freed(small, names)
        )

    names = roundings_to_free(
        rounded,
        quantization,
        lambda: open_model(model),
        lambda names: open_model(_freed(small, names)),
        lambda names: open_model(freed(names)),
        say,
    )
    consumers = _consumers(small)
    kept = {consumer for name in names for consumer in consumers[name]}
    return freed(names), tuple(sorted(kept))


def _activations(model: Any) -> list[str]:
    """The operations that round an activation, in order: those that do not round a constant."""
    return [
        each.get_friendly_name()
        for each in model.get_ordered_ops()
        if each.get_type_name() == "FakeQuantize" and not _is_constant(each)
    ]


def _is_constant(operation: Any) -> bool:
    source = operation.input_value(0).get_node()
    while source.get_type_name() == "Convert":
        source = source.input_value(0).get_node()
    return bool(source.get_type_name() == "Constant")


def _freed(model: Any, names: Collection[str]) -> Any:
    """A copy of the model without those roundings."""
    copy = model.clone()
    for operation in copy.get_ordered_ops():
        if operation.get_friendly_name() in names:
            operation.output(0).replace(operation.input_value(0))
    copy.validate_nodes_and_infer_types()
    return copy


def _consumers(model: Any) -> dict[str, list[str]]:
    """Of each rounding, the operations with weights that compute on what it rounds."""
    found: dict[str, list[str]] = {}
    for each in model.get_ordered_ops():
        if each.get_type_name() == "FakeQuantize":
            found[each.get_friendly_name()] = sorted(
                target.get_node().get_friendly_name()
                for target in each.output(0).get_target_inputs()
            )
    return found
