"""Eight bits: NNCF on a converted model, and which operations need more."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from lepton_edge.errors import BackendError
from lepton_edge_openvino.library import nncf

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lepton_edge.backend import Quantization, Session, Tensors

    Open = Callable[[Any], Session]
    """Opens a model of OpenVINO's."""

# Their inputs stay as they are. With quantized queries and keys sst2-minilm's error was five times
# as large where the device computes in bf16 (0.0121 of the outputs' variance beside 0.0021; at fp32
# they were the same), and it was slower: 0.91 to 0.93 of bf16's time for one text, beside 0.83 to
# 0.86.
_UNQUANTIZED = ("ScaledDotProductAttention",)
_RECURRENT = ("LSTMSequence", "GRUSequence", "RNNSequence", "TensorIterator", "Loop")
_FEEDS = 100  # calibration inputs that operations are ranked on


def in_eight_bits(
    model: Any, quantization: Quantization, open_model: Open
) -> tuple[Any, tuple[str, ...]]:
    """The quantized model, and the operations whose arithmetic was left in higher precision.

    Raises `BackendError`.
    """
    if any(each.get_type_name() in _RECURRENT for each in model.get_ordered_ops()):
        raise BackendError(
            "int8 is not for models with LSTM or GRU layers: their error grows from token to token",
            hint="build with precision: int8-weights",
        )
    quantization.say(f"quantizing with {len(quantization.feeds)} calibration inputs")
    small = _quantized(model, quantization.feeds)
    if quantization.score is None:
        return small, ()
    return _under_control(model, small, quantization, open_model)


def with_small_weights(model: Any) -> Any:
    """The model with weights in 8 bits, a scale and a zero point for each channel.

    Raises `BackendError`.
    """
    with nncf() as library:
        return library.compress_weights(model, mode=library.CompressWeightsMode.INT8_ASYM)


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
    model: Any, small: Any, quantization: Quantization, open_model: Open
) -> tuple[Any, tuple[str, ...]]:
    """The quantized model with as few operations as it takes computing in higher precision.

    Weights stay in 8 bits; it is the rounding of activations that costs accuracy. Activations are
    ranked by how much nearer the outputs come to the unquantized model's when theirs alone are not
    rounded, and freed in that order: 1, 2, 4, 8 … until the score is reached, then as few as a
    bisection finds. With all of them freed the model is the original with small weights.

    NNCF's own accuracy control is not used: it puts a layer's weights back without undoing their
    smoothing, which made sst2-minilm's error 17 times as large for one layer.
    """
    assert quantization.score is not None
    rounded = _activations(small)
    feeds = quantization.feeds[:: max(len(quantization.feeds) // _FEEDS, 1)]
    quantization.say(f"ranking {len(rounded)} operations by the error that they make")
    ranked = _ranked(model, small, rounded, feeds, open_model)

    def freed(count: int) -> Any:
        if count == len(ranked):
            return with_small_weights(model.clone())
        return _freed(small, ranked[:count])

    def reached(count: int) -> bool:
        assert quantization.score is not None
        quantization.say(f"scoring with {count} of {len(ranked)} operations in higher precision")
        with open_model(freed(count)) as session:
            return quantization.score(session, None) >= quantization.at_least

    count = _fewest(reached, len(ranked))
    consumers = _consumers(small)
    names = {consumer for name in ranked[:count] for consumer in consumers[name]}
    return freed(count), tuple(sorted(names))


def _fewest(reached: Callable[[int], bool], most: int) -> int:
    """A small count that reaches the score, or ``most`` where none does."""
    short, enough = 0, 1
    while not reached(enough):
        if enough == most:
            return most
        short, enough = enough, min(enough * 2, most)
    while enough - short > 1:
        middle = (short + enough) // 2
        short, enough = (short, middle) if reached(middle) else (middle, enough)
    return enough


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


def _ranked(
    model: Any,
    small: Any,
    names: Sequence[str],
    feeds: Sequence[Tensors],
    open_model: Open,
) -> list[str]:
    """The roundings, that which costs most first."""
    with open_model(model) as session:
        expected = _outputs(session, feeds)

    def error(freed: Collection[str]) -> float:
        with open_model(_freed(small, freed)) as session:
            found = _outputs(session, feeds)
        return sum(float(((a - b) ** 2).sum()) for a, b in zip(found, expected, strict=True))

    errors = {name: error([name]) for name in names}
    return sorted(names, key=lambda name: errors[name])


def _outputs(session: Session, feeds: Sequence[Tensors]) -> list[NDArray[Any]]:
    return [array for each in feeds for array in session.infer(each).values()]


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
