"""Tiny random encoder-decoder models, and their graphs run by torch and by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_edge.backend import Graph, Session

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lepton_edge.backend import Tensors

VOCABULARY = 64
START, PAD, END = 0, 1, 2

# A configuration for each family: what is small, in the family's own words. Encoder and decoder
# differ in layers and heads wherever the family has them apart.
_TOKENS = {
    "vocab_size": VOCABULARY,
    "pad_token_id": PAD,
    "eos_token_id": END,
    "decoder_start_token_id": START,
}
_BART = _TOKENS | {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 40,
    "max_position_embeddings": 96,
    "bos_token_id": 3,
    "forced_eos_token_id": None,
}
_T5 = _TOKENS | {
    "d_model": 32,
    "d_kv": 12,
    "d_ff": 48,
    "num_layers": 2,  # transformers 5.5 does not generate where the decoder has more
    "num_decoder_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "bart": _BART | {"scale_embedding": True},
    "m2m_100": _BART | {"scale_embedding": True, "decoder_layers": 1},
    "marian": _BART | {"share_encoder_decoder_embeddings": True, "decoder_layers": 1},
    "mbart": _BART | {"encoder_layers": 2, "decoder_layers": 1},
    "mt5": _T5
    | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "num_decoder_layers": 1},
    "t5": _T5,
}


def tiny_encoder_decoder(family: str, seed: int = 0, **changes: Any) -> Any:
    """A random model of transformers' for conditional generation, float32 and in eval mode."""
    import torch
    import transformers

    torch.manual_seed(seed)
    config = transformers.AutoConfig.for_model(family, **{**FAMILIES[family], **changes})
    model = transformers.AutoModelForSeq2SeqLM.from_config(config, dtype=torch.float32).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and "embed_positions" not in name:
            # Larger than the usual start, so that answers differ visibly between texts; T5 makes
            # its logits small again.
            spread = 1.0 if family == "t5" and "shared" in name else 1.3 * config.d_model**-0.5
            torch.nn.init.normal_(parameter, std=spread)
    return model


class RunSession(Session):
    """A graph that a function runs: the arrays of its inputs in, those of its outputs out."""

    def __init__(
        self, graph: Graph, run: Callable[[list[NDArray[Any]]], Sequence[NDArray[Any]]]
    ) -> None:
        self.inputs, self.outputs = graph.inputs, graph.outputs
        self.device, self.details = "CPU", {}
        self._run = run

    def infer(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        found = self._run([feeds[spec.name] for spec in self.inputs])
        return {spec.name: array for spec, array in zip(self.outputs, found, strict=True)}

    def close(self) -> None:
        pass


def torch_session(graph: Graph) -> RunSession:
    """The graph's program, run by torch."""
    import torch

    assert graph.program is not None
    module = graph.program.module()
    layers = sum(spec.name.startswith("past.") for spec in graph.inputs) // 2

    def run(arrays: list[NDArray[Any]]) -> list[NDArray[np.float32]]:
        tensors = [torch.from_numpy(array) for array in arrays]
        arguments: list[Any] = tensors[:2]
        if layers:
            pairs = list(zip(tensors[2::2], tensors[3::2], strict=True))
            arguments += [pairs[:layers], pairs[layers:]]
        with torch.no_grad():
            return [each.contiguous().numpy() for each in module(*arguments)]

    return RunSession(graph, run)


def onnx_session(graph: Graph, file: Path) -> RunSession:
    """The graph as ONNX, run by ONNX Runtime."""
    import onnxruntime

    from tests.decoders import write_onnx

    session = onnxruntime.InferenceSession(write_onnx(graph, file))
    names = [spec.name for spec in graph.inputs]
    return RunSession(
        graph, lambda arrays: session.run(None, dict(zip(names, arrays, strict=True)))
    )
