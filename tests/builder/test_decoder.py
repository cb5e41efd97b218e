"""The graph of a decoder's step: what may be asked of it, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lepton_edge.backend import Graph
from lepton_edge.builder.decoder import check_decoder, decoder_graph
from lepton_edge.errors import UnsupportedModelError
from tests.decoders import VOCABULARY, tiny_decoder, write_onnx


def answer(graph: Graph, ids: torch.Tensor) -> torch.Tensor:
    """The logits for a prompt, run by torch."""
    assert graph.program is not None
    batch, length = ids.shape
    past = [
        (torch.zeros(batch, int(spec.shape[1]), 0, int(spec.shape[3])),) * 2
        for spec in graph.inputs[3::2]
    ]
    positions = torch.arange(length).repeat(batch, 1)
    with torch.no_grad():
        found = graph.program.module(check_guards=False)(ids, torch.ones_like(ids), positions, past)
    logits: torch.Tensor = found[0]
    return logits


def operations(graph: Graph) -> set[str]:
    assert graph.program is not None
    return {str(node.target) for node in graph.program.graph.nodes}


def test_all_logits_are_those_of_every_position() -> None:
    model = tiny_decoder("llama")
    graph = decoder_graph(model, logits="all")
    assert graph.outputs[0].shape == ("batch", "length", VOCABULARY)
    ids = torch.arange(3, 15).reshape(2, 6)
    with torch.no_grad():
        expected = model(ids).logits
    torch.testing.assert_close(answer(graph, ids), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("loaded_with", ["eager", "sdpa"])
def test_attention_is_as_asked_whatever_the_model_was_loaded_with(loaded_with: str) -> None:
    """Beyond the window too: each kind of attention has its own mask."""
    model = tiny_decoder("mistral")
    ids = torch.arange(3, 43).reshape(2, 20)
    with torch.no_grad():
        expected = model(ids).logits[:, -1]
    model.set_attn_implementation(loaded_with)
    whole, apart = decoder_graph(model, attention="sdpa"), decoder_graph(model, attention="eager")
    assert model.config._attn_implementation == loaded_with
    product = "aten.scaled_dot_product_attention.default"
    assert product in operations(whole)
    assert product not in operations(apart)
    assert "aten.softmax.int" in operations(apart)
    for graph in (whole, apart):
        torch.testing.assert_close(answer(graph, ids), expected, rtol=0, atol=1e-5)


def test_a_cap_of_the_attention_scores_is_never_left_out() -> None:
    """transformers' sdpa ignores Gemma 2's."""
    model = tiny_decoder("gemma2", attn_logit_softcapping=0.5)
    ids = torch.arange(3, 15).reshape(2, 6)
    with torch.no_grad():
        expected = model(ids).logits[:, -1]
        model.set_attn_implementation("sdpa")
        without = model(ids).logits[:, -1]
    assert (expected - without).abs().max() > 0.01
    graph = decoder_graph(model, attention="sdpa")
    torch.testing.assert_close(answer(graph, ids), expected, rtol=0, atol=1e-5)


def test_tied_weights_are_one_tensor(tmp_path: Path) -> None:
    # A vocabulary that torch's exporter thinks too large for transposing beforehand.
    model = tiny_decoder("llama", vocab_size=4000)
    assert model.config.tie_word_embeddings
    file = write_onnx(decoder_graph(model), tmp_path / "model.onnx")
    large = [w for w in onnx.load(file).graph.initializer if 4000 in w.dims]
    assert [list(w.dims) for w in large] == [[4000, model.config.hidden_size]]


def test_the_longest_text_is_the_models_or_the_one_given() -> None:
    model = tiny_decoder("gpt2")
    assert decoder_graph(model).largest == {"length": 128, "total": 128}
    assert decoder_graph(model, max_length=50).largest == {"length": 50, "total": 50}


def test_the_program_is_the_same_each_time() -> None:
    first, second = (decoder_graph(tiny_decoder("qwen3")) for _ in range(2))
    assert first.program is not None
    assert second.program is not None
    assert str(first.program.graph) == str(second.program.graph)


def test_a_family_that_is_not_there_is_refused_by_name() -> None:
    config = AutoConfig.for_model(
        "bloom",
        vocab_size=32,
        hidden_size=8,
        n_layer=1,
        n_head=2,
        architectures=["BloomForCausalLM"],
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(UnsupportedModelError) as caught:
        decoder_graph(model)
    assert "BloomForCausalLM" in str(caught.value)
    assert "'bloom'" in str(caught.value)
    assert "Llama" in str(caught.value)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
        {
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0] * 4,
            "long_factor": [2.0] * 4,
            "original_max_position_embeddings": 16,
        },
    ],
    ids=lambda rope: rope["rope_type"],
)
def test_frequencies_that_follow_the_length_are_refused(rope: dict[str, Any]) -> None:
    model = tiny_decoder(
        "phi3" if rope["rope_type"] == "longrope" else "llama", rope_parameters=rope
    )
    with pytest.raises(UnsupportedModelError, match=rope["rope_type"]):
        decoder_graph(model)


def test_frequencies_that_do_not_follow_the_length_are_exported() -> None:
    rope = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    }
    model = tiny_decoder("llama", rope_parameters=rope)
    ids = torch.arange(3, 43).reshape(1, 40)
    with torch.no_grad():
        expected = model(ids).logits[:, -1]
        plain = tiny_decoder("llama")(ids).logits[:, -1]
    assert (expected - plain).abs().max() > 1e-3
    torch.testing.assert_close(answer(decoder_graph(model), ids), expected, rtol=0, atol=1e-5)


def test_a_module_that_torch_cannot_export_is_refused_with_its_reason() -> None:
    model = tiny_decoder("llama")
    layer = model.model.layers[0]
    forward = layer.forward

    def looks_at_its_values(hidden: torch.Tensor, *args: Any, **options: Any) -> Any:
        return forward(hidden if bool(hidden.sum() > 0) else -hidden, *args, **options)

    layer.forward = looks_at_its_values
    before = model.config._attn_implementation
    with pytest.raises(
        UnsupportedModelError, match=r"torch cannot export LlamaForCausalLM: .*data"
    ):
        decoder_graph(model, attention="sdpa")
    assert model.config._attn_implementation == before


def test_a_configuration_alone_can_be_checked() -> None:
    check_decoder(AutoConfig.for_model("qwen2"))
    with pytest.raises(UnsupportedModelError, match="t5"):
        check_decoder(AutoConfig.for_model("t5"))
