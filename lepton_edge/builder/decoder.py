"""Decoder-only language models: which can be exported, and the graph of one step with its cache.

One step takes some new tokens and what earlier steps left in the cache, and gives the logits and
the cache with the new tokens in it: a prompt is a step from an empty cache, a generated token a
step of length 1.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from lepton_edge.backend import Graph, TensorSpec
from lepton_edge.builder.experts import every_expert, experts_of
from lepton_edge.builder.source import first_line
from lepton_edge.errors import LeptonWarning, UnsupportedModelError
from lepton_edge.generation.tensors import LOGITS, POSITION_IDS, past_names, present_names
from lepton_edge.runtime.text import ATTENTION_MASK, INPUT_IDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Attention = Literal["eager", "sdpa"]
Logits = Literal["last", "all"]

# By `model_type` in config.json. Each is exported and compared with torch in
# tests/builder/test_decoder_families.py; a family that is not tested there does not belong here.
DECODERS = {
    "gemma2": "Gemma 2",
    "gemma3_text": "Gemma 3",
    "gpt2": "GPT-2",
    "granite": "Granite",
    "llama": "Llama",
    "mistral": "Mistral",
    "mixtral": "Mixtral",
    "olmo2": "OLMo 2",
    "phi3": "Phi-3",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "qwen3_moe": "Qwen3 MoE",
    "smollm3": "SmolLM3",
}

# For a family that is not among them.
IR_WAY = (
    "export it to OpenVINO IR with its own tools and build from the folder: "
    "source: {openvino_ir: folder}"
)

# Their rotary frequencies follow the length of the text, call by call: a graph would keep those of
# the example that it was traced with.
_LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")

# Sizes of the example that are neither 0 nor 1, which torch.export would treat as fixed, and that
# differ from each other.
_BATCH, _NEW, _PAST = 2, 3, 5


def decoder_graph(
    model: Any,
    *,
    attention: Attention = "eager",
    logits: Logits = "last",
    max_length: int | None = None,
) -> Graph:
    """Export a transformers causal language model (in eval mode). One with weights of 16 bits is
    computed in them, and so is its cache, whatever the specifications say: a backend's build gives
    both the format that it wants.

    Inputs: ``input_ids`` int64 [batch, length], ``attention_mask`` int64 [batch, total] (1 for a
    token, 0 for padding, which is on the left; total = past + length), ``position_ids`` int64
    [batch, length], and for each layer ``past.{i}.key`` and ``past.{i}.value`` float32 [batch,
    heads, past, head_dim]. Outputs: ``logits`` float32, then ``present.{i}.key`` and
    ``present.{i}.value`` [batch, heads, total, head_dim]. The past may be empty.

    ``logits`` are the ``last`` position's, [batch, vocabulary]: all that generating needs, where
    those of a long prompt over a large vocabulary are hundreds of MiB. Or ``all``, [batch, length,
    vocabulary].

    ``attention`` is ``eager`` for a compiler that fuses products and softmax itself, ``sdpa`` for
    one that wants scaled-dot-product attention whole. A model that caps its attention scores
    (Gemma 2) is exported ``eager`` always: transformers' ``sdpa`` leaves the cap out.

    ``max_length`` is the most tokens that a text will have, prompt and answer together; the model's
    positions where it is absent.

    Layers with a sliding window keep the whole cache, and their mask is the window's. Tied weights
    stay tied: the program reads one tensor in both places.

    Raises `UnsupportedModelError`.
    """
    config = model.config
    check_decoder(config)
    if experts := experts_of(config):
        warnings.warn(
            f"each token of this mixture of experts is for {experts[1]} of {experts[0]}, and the "
            "compiled model computes all of them: it answers the same, and takes the time of a "
            "model with all of its weights in use",
            LeptonWarning,
            stacklevel=2,
        )
    if getattr(config, "attn_logit_softcapping", None) is not None:
        attention = "eager"
    step = _Step(model, last=logits == "last").eval()
    before = config._attn_implementation
    model.set_attn_implementation(attention)
    try:
        with torch.no_grad(), warnings.catch_warnings(), every_expert(config):
            warnings.simplefilter("ignore")  # torch's own deprecations: nothing to act on
            example = _example(model)
            program = torch.export.export(
                step, example, dynamic_shapes=_dynamic(len(example[3])), strict=False
            )
    except Exception as error:  # torch.export raises many kinds
        raise UnsupportedModelError(
            f"torch cannot export {type(model).__name__}: {first_line(error)}"
        ) from error
    finally:
        model.set_attn_implementation(before)
    longest = max_length or config.max_position_embeddings
    return Graph(
        inputs=_inputs(example[3]),
        outputs=_outputs(example[3], config.vocab_size, logits),
        program=program,
        largest={"length": longest, "total": longest},
    )


def check_decoder(config: Any) -> None:
    """Raise `UnsupportedModelError` unless a configuration is of a family that exports."""
    family = getattr(config, "model_type", None)
    if family not in DECODERS:
        name = (getattr(config, "architectures", None) or [family])[0]
        raise UnsupportedModelError(
            f"the architecture {name} (model_type {family!r}) cannot be exported for generation; "
            f"supported: {', '.join(DECODERS.values())}",
            hint=IR_WAY,
        )
    for kind in _rope_types(getattr(config, "rope_parameters", None)):
        if kind in _LENGTH_DEPENDENT_ROPE:
            raise UnsupportedModelError(
                f"the model's rope_type {kind!r} changes its rotary frequencies with the length of "
                "the text, which a compiled graph cannot",
                hint="use a checkpoint of the family without it, such as the one for its short "
                "context",
            )


def _rope_types(parameters: Any) -> Iterator[str]:
    """Of a configuration's `rope_parameters`: one set, or one for each type of layer."""
    if isinstance(parameters, dict):
        if isinstance(kind := parameters.get("rope_type"), str):
            yield kind
        for each in parameters.values():
            yield from _rope_types(each)


class CacheLayer(DynamicLayer):  # type: ignore[misc]  # transformers has no types
    """A layer of the cache that holds a step's input tensors, and never looks into them.

    `DynamicLayer` asks whether its tensor is empty, which an export decides once, for its example.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True

    def get_seq_length(self) -> int:
        return self.keys.shape[2]


class _Step(torch.nn.Module):
    """Calls a model with a cache of plain tensors."""

    def __init__(self, model: Any, last: bool) -> None:
        super().__init__()
        self.model = model
        self.last = last

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        past: Sequence[tuple[torch.Tensor, torch.Tensor]],
    ) -> tuple[torch.Tensor, ...]:
        cache = DynamicCache()
        cache.layers = [CacheLayer(keys, values) for keys, values in past]
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1 if self.last else 0,
        )
        logits = output.logits[:, -1] if self.last else output.logits
        present = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
        return (logits.float(), *present)


_Example = tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]


def _example(model: Any) -> _Example:
    """Inputs of a step, the cache of the shape that the model itself makes."""
    ids = (torch.arange(_BATCH * _NEW) % 5).reshape(_BATCH, _NEW)
    made = model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values
    sizes = [(layer.keys.shape[1], layer.keys.shape[3]) for layer in made.layers]
    empty = [torch.zeros(_BATCH, heads, _PAST, size, dtype=model.dtype) for heads, size in sizes]
    past = [(each, each.clone()) for each in empty]
    positions = torch.arange(_PAST, _PAST + _NEW).repeat(_BATCH, 1)
    return ids, torch.ones(_BATCH, _PAST + _NEW, dtype=torch.long), positions, past


def _dynamic(layers: int) -> tuple[Any, ...]:
    free = torch.export.Dim.DYNAMIC
    tokens = {0: free, 1: free}
    cache = {0: free, 2: free}
    return (tokens, tokens, tokens, [(cache, cache)] * layers)


def _inputs(past: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> tuple[TensorSpec, ...]:
    return (
        TensorSpec(INPUT_IDS, "int64", ("batch", "length")),
        TensorSpec(ATTENTION_MASK, "int64", ("batch", "total")),
        TensorSpec(POSITION_IDS, "int64", ("batch", "length")),
        *_cache_specs(past_names(len(past)), past, "past"),
    )


def _outputs(
    past: Sequence[tuple[torch.Tensor, torch.Tensor]], vocabulary: int, logits: Logits
) -> tuple[TensorSpec, ...]:
    shape = ("batch", vocabulary) if logits == "last" else ("batch", "length", vocabulary)
    return (
        TensorSpec(LOGITS, "float32", shape),
        *_cache_specs(present_names(len(past)), past, "total"),
    )


def _cache_specs(
    names: Sequence[str], cache: Sequence[tuple[torch.Tensor, torch.Tensor]], length: str
) -> Iterator[TensorSpec]:
    tensors = [tensor for pair in cache for tensor in pair]
    for name, tensor in zip(names, tensors, strict=True):
        yield TensorSpec(name, "float32", ("batch", tensor.shape[1], length, tensor.shape[3]))
