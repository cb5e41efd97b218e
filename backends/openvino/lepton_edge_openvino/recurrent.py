"""LSTM and GRU layers of an exported program, which OpenVINO's converter does not translate.

It would have torch unroll them to the length of the example that was exported, and give wrong
answers for every other length. Here each layer becomes an operator of our own for each direction,
and that operator OpenVINO's LSTMSequence or GRUSequence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from lepton_edge.errors import BackendError
from lepton_edge_openvino.library import openvino

if TYPE_CHECKING:
    import torch

    Layer = Callable[..., tuple[torch.Tensor, ...]]


def whole_layers(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program with every LSTM and GRU layer as our own operators."""
    import torch

    table = {torch.ops.aten.lstm.input: _lstm, torch.ops.aten.gru.input: _gru}
    if not any(node.target in table for node in program.graph.nodes):
        return program
    _register()
    whole: torch.export.ExportedProgram = program.run_decompositions(table)
    return whole


def extensions() -> list[Any]:
    """What the converter needs to know our operators."""
    openvino()
    from openvino.frontend.pytorch import ConversionExtension

    return [
        ConversionExtension("lepton_edge.lstm.default", _lstm_sequence),
        ConversionExtension("lepton_edge.gru.default", _gru_sequence),
    ]


@cache
def _register() -> None:
    """Our operators: one layer in one direction. Shapes only, as just the converter meets them.

    Each has one output, because the converter's extensions cannot give several: the last cell
    state of an LSTM follows its outputs as one more token.
    """
    from torch.library import custom_op

    def never_run(*args: Any) -> Any:
        raise NotImplementedError

    weights = "Tensor w, Tensor r, Tensor b, Tensor rb, bool back"
    schema = f"(Tensor x, Tensor h, Tensor c, {weights}) -> Tensor"
    lstm = custom_op("lepton_edge::lstm", never_run, mutates_args=(), schema=schema)
    lstm.register_fake(lambda x, h, *_: x.new_empty(x.shape[0], x.shape[1] + 1, h.shape[1]))
    schema = f"(Tensor x, Tensor h, {weights}) -> Tensor"
    gru = custom_op("lepton_edge::gru", never_run, mutates_args=(), schema=schema)
    gru.register_fake(lambda x, h, *_: x.new_empty(x.shape[0], x.shape[1], h.shape[1]))


def _lstm(
    x: torch.Tensor,
    states: Sequence[torch.Tensor],
    params: Sequence[torch.Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[torch.Tensor, ...]:
    """`aten.lstm.input` in terms of our operator."""
    import torch

    def layer(x: Any, state: Any, weights: Any, back: bool) -> tuple[Any, ...]:
        packed = torch.ops.lepton_edge.lstm(x, *state, *weights, back)
        outputs = packed[:, :-1]
        return outputs, outputs[:, 0 if back else -1], packed[:, -1]

    if states[0].shape[-1] != states[1].shape[-1]:
        raise BackendError(
            "the OpenVINO backend has no LSTM with proj_size", hint="leave the projection out"
        )
    return _stack(layer, x, states, params, has_biases, num_layers, bidirectional, batch_first)


def _gru(
    x: torch.Tensor,
    state: torch.Tensor,
    params: Sequence[torch.Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[torch.Tensor, ...]:
    """`aten.gru.input` in terms of our operator."""
    import torch

    def layer(x: Any, state: Any, weights: Any, back: bool) -> tuple[Any, ...]:
        outputs = torch.ops.lepton_edge.gru(x, *state, *weights, back)
        return outputs, outputs[:, 0 if back else -1]

    return _stack(layer, x, [state], params, has_biases, num_layers, bidirectional, batch_first)


def _stack(
    layer: Layer,
    x: torch.Tensor,
    states: Sequence[torch.Tensor],
    params: Sequence[torch.Tensor],
    has_biases: bool,
    num_layers: int,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[torch.Tensor, ...]:
    """Layer on layer, each in one or both directions; dropout is for training only."""
    import torch

    x = x if batch_first else x.transpose(0, 1)
    directions = (False, True) if bidirectional else (False,)
    weights = iter(params)
    finals: list[tuple[torch.Tensor, ...]] = []
    for _ in range(num_layers):
        outputs = []
        for back in directions:
            w, r = next(weights), next(weights)
            zeros = torch.zeros_like(w[:, 0])
            biases = (next(weights), next(weights)) if has_biases else (zeros, zeros)
            state = tuple(state[len(finals)] for state in states)
            output, *final = layer(x, state, (w, r, *biases), back)
            outputs.append(output)
            finals.append(tuple(final))
        x = torch.cat(outputs, dim=-1)
    last = (torch.stack(parts) for parts in zip(*finals, strict=True))
    return (x if batch_first else x.transpose(0, 1)), *last


def _lstm_sequence(context: Any) -> list[Any]:
    """Gates are input, forget, cell, output in torch, and forget, input, cell, output here."""
    ops: Any = openvino().opset14
    x, h, c, w, r, b, rb = (context.get_input(i) for i in range(7))
    gates = (1, 0, 2, 3)
    sequence = ops.lstm_sequence(
        x,
        ops.unsqueeze(h, 1),
        ops.unsqueeze(c, 1),
        _lengths(ops, x),
        _gates(ops, w, 4, gates),
        _gates(ops, r, 4, gates),
        _gates(ops, ops.add(b, rb), 4, gates),
        _size(r),
        _direction(context, 7),
    )
    outputs = ops.squeeze(sequence.output(0), 1)
    return [ops.concat([outputs, sequence.output(2)], 1).output(0)]


def _gru_sequence(context: Any) -> list[Any]:
    """Gates are reset, update, new in torch, and update, reset, new here."""
    ops: Any = openvino().opset14
    x, h, w, r, b, rb = (context.get_input(i) for i in range(6))
    gates = (1, 0, 2)
    # torch resets after the recurrent product; both biases of the new gate then stay apart.
    summed = _gates(ops, ops.add(b, rb), 3, (1, 0))
    apart = [_gates(ops, bias, 3, (2,)) for bias in (b, rb)]
    sequence = ops.gru_sequence(
        x,
        ops.unsqueeze(h, 1),
        _lengths(ops, x),
        _gates(ops, w, 3, gates),
        _gates(ops, r, 3, gates),
        ops.concat([summed, *apart], 1),
        _size(r),
        _direction(context, 6),
        linear_before_reset=True,
    )
    return [ops.squeeze(sequence.output(0), 1).output(0)]


def _lengths(ops: Any, x: Any) -> Any:
    """Every text of the batch is as long as the tensor."""
    shape = ops.shape_of(x, "i64")
    batch, length = (ops.gather(shape, [axis], 0) for axis in (0, 1))
    return ops.broadcast(length, batch)


def _gates(ops: Any, weights: Any, count: int, order: tuple[int, ...]) -> Any:
    parts = ops.split(weights, 0, count).outputs()
    return ops.unsqueeze(ops.concat([parts[i] for i in order], 0), 0)


def _size(weights: Any) -> int:
    return int(weights.get_partial_shape()[1].get_length())


def _direction(context: Any, index: int) -> str:
    return "reverse" if context.get_values_from_const_input(index) else "forward"
