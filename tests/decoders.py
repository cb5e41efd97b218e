"""Tiny random decoder-only models, and their graphs run by ONNX Runtime."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lepton_edge.backend import Graph

VOCABULARY = 64
WINDOW = 8  # of sliding layers: shorter than the texts of the tests

# A configuration for each family: what is small, in the family's own words. Sliding windows and
# layers of several kinds wherever the family has them.
_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GEMMA = {"head_dim": 12, "sliding_window": WINDOW, "query_pre_attn_scalar": 8}
FAMILIES: dict[str, dict[str, Any]] = {
    "gemma2": _COMMON | _GEMMA,
    "gemma3_text": _COMMON | _GEMMA | {"layer_types": ["sliding_attention", "full_attention"]},
    "gpt2": {
        "vocab_size": VOCABULARY,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 128,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "granite": _COMMON
    | {
        "embedding_multiplier": 3.0,
        "logits_scaling": 2.0,
        "residual_multiplier": 0.5,
        "attention_multiplier": 0.2,
    },
    "llama": _COMMON | {"tie_word_embeddings": True},
    "mistral": _COMMON | {"sliding_window": WINDOW, "head_dim": 16},
    "mixtral": _COMMON | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "olmo2": _COMMON,
    "phi3": _COMMON | {"sliding_window": WINDOW},
    # The first layer sees everything, the second a window.
    "qwen2": _COMMON
    | {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    "qwen3": _COMMON | {"head_dim": 12},
    "qwen3_moe": _COMMON
    | {
        "head_dim": 12,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "decoder_sparse_step": 1,
    },
    # No rotary embedding in the second layer.
    "smollm3": _COMMON | {"no_rope_layers": [1, 0], "tie_word_embeddings": True},
}


def tiny_decoder(family: str, **changes: Any) -> Any:
    """A random causal language model of transformers', float32 and in eval mode.

    Its attention is the one with every term: the other leaves out Gemma 2's cap of the scores.
    """
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **{**FAMILIES[family], **changes})
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", dtype=torch.float32
    ).eval()
    spread = 1.1 / model.config.hidden_size**0.5
    for parameter in model.parameters():
        # Larger than the usual start, so that answers differ visibly between texts.
        torch.nn.init.normal_(parameter, std=spread) if parameter.ndim > 1 else None
    return model


def write_onnx(graph: Graph, file: Path) -> Path:
    """The graph as torch itself writes it, with the graph's names."""
    import torch

    assert graph.program is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph.program,
            (),
            file,
            dynamo=True,
            opset_version=21,
            external_data=False,
            verbose=False,
            input_names=[spec.name for spec in graph.inputs],
            output_names=[spec.name for spec in graph.outputs],
        )
    return file
