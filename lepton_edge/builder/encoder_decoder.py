"""Encoder-decoder language models: which can be exported, and their two graphs.

The encoder reads a text once and gives the keys and values that each layer of the decoder attends
to. The decoder takes those, some new tokens, and what earlier steps left in its cache, and gives
the logits and the cache with the new tokens in it: it never sees the encoder's hidden states.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from lepton_edge.backend import Graph, TensorSpec
from lepton_edge.builder.decoder import Attention, CacheLayer
from lepton_edge.builder.source import first_line
from lepton_edge.errors import UnsupportedModelError
from lepton_edge.generation.tensors import (
    ENCODER_ATTENTION_MASK,
    LOGITS,
    cross_names,
    past_names,
    present_names,
)
from lepton_edge.runtime.text import ATTENTION_MASK, INPUT_IDS

Pair = tuple[torch.Tensor, torch.Tensor]


class _Projections(NamedTuple):
    """What makes a decoder layer's keys and values of the encoder's hidden states."""

    key: torch.nn.Linear
    value: torch.nn.Linear
    head_dim: int


def _as_t5(model: Any) -> list[_Projections]:
    attentions = [block.layer[1].EncDecAttention for block in model.get_decoder().block]
    return [_Projections(each.k, each.v, each.key_value_proj_dim) for each in attentions]


def _as_bart(model: Any) -> list[_Projections]:
    attentions = [layer.encoder_attn for layer in model.get_decoder().layers]
    return [_Projections(each.k_proj, each.v_proj, each.head_dim) for each in attentions]


class _Family(NamedTuple):
    name: str
    projections: Callable[[Any], list[_Projections]]


# By `model_type` in config.json. Each is exported and compared with torch in
# tests/builder/test_encoder_decoder.py; a family that is not tested there does not belong here.
ENCODER_DECODERS = {
    "bart": _Family("BART", _as_bart),
    "m2m_100": _Family("M2M100 (NLLB)", _as_bart),
    "marian": _Family("Marian", _as_bart),
    "mbart": _Family("mBART", _as_bart),
    "mt5": _Family("mT5", _as_t5),
    "t5": _Family("T5", _as_t5),
}

# Sizes of the example that are neither 0 nor 1, which torch.export would treat as fixed, and that
# differ from each other.
_BATCH, _NEW, _PAST, _SOURCE = 2, 3, 5, 7


def encoder_decoder_graphs(
    model: Any, *, attention: Attention = "eager", max_length: int | None = None
) -> tuple[Graph, Graph]:
    """Export a transformers model for conditional generation (float32 or bfloat16, in eval mode):
    its encoder and its decoder. In bfloat16 it is computed between inputs and outputs of float32.

    The encoder's inputs: ``input_ids`` and ``attention_mask`` int64 [batch, length] (1 for a token,
    0 for padding, which is on the right). Its outputs, for each layer of the decoder:
    ``cross.{i}.key`` and ``cross.{i}.value`` float32 [batch, heads, length, head_dim].

    The decoder's inputs: ``input_ids`` int64 [batch, length], ``encoder_attention_mask`` int64
    [batch, source], and for each layer ``past.{i}.key`` and ``past.{i}.value`` float32 [batch,
    heads, past, head_dim], and ``cross.{i}.key`` and ``cross.{i}.value`` [batch, heads, source,
    head_dim]. Its outputs: ``logits`` float32 [batch, vocabulary] of the last position, then
    ``present.{i}.key`` and ``present.{i}.value`` [batch, heads, total, head_dim]. The past may be
    empty, and a token's position is what the cache holds before it: all rows are of one length.

    ``attention`` is ``eager`` for a compiler that fuses products and softmax itself, ``sdpa`` for
    one that wants scaled-dot-product attention whole. The T5 families are exported ``eager``
    always: transformers has nothing else for their position bias.

    ``max_length`` is the most tokens of a text, and of an answer; the model's positions where it is
    absent. A model without positions of its own has no largest length then.

    Raises `UnsupportedModelError`.
    """
    config = model.config
    check_encoder_decoder(config)
    if model.dtype == torch.float16:
        raise UnsupportedModelError(
            f"{type(model).__name__} in float16 cannot be exported: what it computes then depends "
            "on whether its numbers overflow",
            hint="load it in float32",
        )
    projections = ENCODER_DECODERS[config.model_type].projections(model)
    longest = max_length or getattr(config, "max_position_embeddings", None)
    before = config._attn_implementation
    model.set_attn_implementation(attention if model._supports_sdpa else "eager")
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own deprecations: nothing to act on
            return (
                _encoder_graph(model, projections, longest),
                _decoder_graph(model, projections, longest),
            )
    except Exception as error:  # torch.export raises many kinds
        raise UnsupportedModelError(
            f"torch cannot export {type(model).__name__}: {first_line(error)}"
        ) from error
    finally:
        model.set_attn_implementation(before)


def check_encoder_decoder(config: Any) -> None:
    """Raise `UnsupportedModelError` unless a configuration is of a family that exports."""
    family = getattr(config, "model_type", None)
    if family not in ENCODER_DECODERS:
        name = (getattr(config, "architectures", None) or [family])[0]
        supported = ", ".join(each.name for each in ENCODER_DECODERS.values())
        raise UnsupportedModelError(
            f"the architecture {name} (model_type {family!r}) cannot be exported as an encoder "
            f"with a decoder; supported: {supported}"
        )


class _Encoder(torch.nn.Module):
    """The encoder, and of each layer of the decoder what projects the hidden states."""

    def __init__(self, model: Any, projections: Sequence[_Projections]) -> None:
        super().__init__()
        self.encoder = model.get_encoder()
        self.projections = torch.nn.ModuleList(
            linear for each in projections for linear in (each.key, each.value)
        )
        self.head_dims = [each.head_dim for each in projections for _ in range(2)]

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return tuple(
            project(hidden).unflatten(-1, (-1, size)).transpose(1, 2).float()
            for project, size in zip(self.projections, self.head_dims, strict=True)
        )


class _Step(torch.nn.Module):
    """Calls a model with a cache of plain tensors, and without its encoder."""

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self.dtype = dtype

    def forward(
        self,
        input_ids: torch.Tensor,
        encoder_attention_mask: torch.Tensor,
        past: Sequence[Pair],
        cross: Sequence[Pair],
    ) -> tuple[torch.Tensor, ...]:
        # A cache of its own for each kind of attention, filled here: made from tensors, it would
        # ask whether they are empty, which an export decides once, for its example.
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        cache.self_attention_cache.layers = [self._layer(*pair) for pair in past]
        cache.cross_attention_cache.layers = [self._layer(*pair) for pair in cross]
        cache.is_updated = dict.fromkeys(range(len(cross)), True)
        tokens = past[0][0].shape[2] + input_ids.shape[1]
        output = self.model(
            # The layers read the shape alone, [batch, source, any]: the cache has the rest.
            encoder_outputs=BaseModelOutput(last_hidden_state=cross[0][0][:, 0].to(self.dtype)),
            attention_mask=encoder_attention_mask,
            decoder_input_ids=input_ids,
            decoder_attention_mask=input_ids.new_ones(input_ids.shape[0], tokens),
            past_key_values=cache,
            use_cache=True,
        )
        layers = cache.self_attention_cache.layers
        present = [tensor.float() for layer in layers for tensor in (layer.keys, layer.values)]
        return (output.logits[:, -1].float(), *present)

    def _layer(self, keys: torch.Tensor, values: torch.Tensor) -> CacheLayer:
        return CacheLayer(keys.to(self.dtype), values.to(self.dtype))


def _encoder_graph(model: Any, projections: Sequence[_Projections], longest: int | None) -> Graph:
    encoder = _Encoder(model, projections).eval()
    ids, mask = _tokens(_SOURCE), torch.ones(_BATCH, _SOURCE, dtype=torch.long)
    tokens = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    program = torch.export.export(
        encoder, (ids, mask), dynamic_shapes=(tokens, tokens), strict=False
    )
    return Graph(
        inputs=(
            TensorSpec(INPUT_IDS, "int64", ("batch", "length")),
            TensorSpec(ATTENTION_MASK, "int64", ("batch", "length")),
        ),
        outputs=tuple(_cache_specs(cross_names(len(projections)), _heads(projections), "length")),
        program=program,
        largest={"length": longest} if longest else {},
    )


def _decoder_graph(model: Any, projections: Sequence[_Projections], longest: int | None) -> Graph:
    step = _Step(model, projections[0].key.weight.dtype).eval()
    heads = _heads(projections)
    mask = torch.ones(_BATCH, _SOURCE, dtype=torch.long)
    past, cross = _zeros(heads, _PAST), _zeros(heads, _SOURCE)
    free = torch.export.Dim.DYNAMIC
    tokens, cache = {0: free, 1: free}, [({0: free, 2: free},) * 2] * len(heads)
    example = (_tokens(_NEW), mask, past, cross)
    vocabulary = step(*example)[0].shape[1]
    program = torch.export.export(
        step, example, dynamic_shapes=(tokens, tokens, cache, cache), strict=False
    )
    return Graph(
        inputs=(
            TensorSpec(INPUT_IDS, "int64", ("batch", "length")),
            TensorSpec(ENCODER_ATTENTION_MASK, "int64", ("batch", "source")),
            *_cache_specs(past_names(len(heads)), heads, "past"),
            *_cache_specs(cross_names(len(heads)), heads, "source"),
        ),
        outputs=(
            TensorSpec(LOGITS, "float32", ("batch", vocabulary)),
            *_cache_specs(present_names(len(heads)), heads, "total"),
        ),
        program=program,
        # A step has one token: what an answer starts with, or the one before.
        largest={"length": 1, "total": longest, "source": longest} if longest else {"length": 1},
    )


def _tokens(length: int) -> torch.Tensor:
    return (torch.arange(_BATCH * length) % 5).reshape(_BATCH, length)


def _heads(projections: Sequence[_Projections]) -> list[tuple[int, int]]:
    """How many heads each layer of the decoder has, and their size."""
    return [(each.key.out_features // each.head_dim, each.head_dim) for each in projections]


def _zeros(heads: Sequence[tuple[int, int]], length: int) -> list[Pair]:
    # Each a tensor of its own: the export would take one that comes twice for one input.
    return [
        (torch.zeros(_BATCH, count, length, size), torch.zeros(_BATCH, count, length, size))
        for count, size in heads
    ]


def _cache_specs(
    names: Sequence[str], heads: Sequence[tuple[int, int]], length: str
) -> Iterator[TensorSpec]:
    for place, name in enumerate(names):  # a key and a value for each layer
        count, size = heads[place // 2]
        yield TensorSpec(name, "float32", ("batch", count, length, size))
