"""An encoder with a decoder on TensorRT: compiled ahead of time, answering through its proof."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lepton_edge_tensorrt", reason="the TensorRT backend is not installed")

from lepton_edge_tensorrt.backend import TensorRTBackend
from lepton_edge_tensorrt.library import flavour
from lepton_edge_tensorrt.plan import ENGINE, Range, read_plan

from lepton_edge.backend import Aside, Graph, Precision, Session
from lepton_edge.builder.encoder_decoder import encoder_decoder_graphs
from lepton_edge.errors import BackendError
from lepton_edge.generation.beams import EncoderDecoder, beam_search, greedy
from lepton_edge.generation.decoding import Decoding
from lepton_edge.target import TARGETS
from tests.encoder_decoders import PAD, START, tiny_encoder_decoder

BACKEND = TensorRTBackend()
TEXT = [5, 9, 33, 21, 40, 2]
LENGTH = 48
MORE = 12


@pytest.fixture(scope="module", autouse=True)
def _rtx() -> None:
    try:
        flavour("tensorrt_rtx")
    except BackendError as error:
        pytest.skip(f"needs TensorRT for RTX: {error.message}")


def built(graph: Graph, precision: Precision, folder: Path) -> tuple[Path, Session]:
    """The artifact, and the session that proves it."""
    artifact, aside = folder / "artifact", Aside(folder / "aside")
    for each in (folder, artifact, folder / "aside"):
        each.mkdir()
    options = BACKEND.Options(max_batch=4, best_batch=1, best_length=16)
    compiled = BACKEND.build(graph, TARGETS["rtx"], precision, options, artifact, None, aside)
    return artifact, BACKEND.prove(artifact, compiled, aside)


@pytest.mark.parametrize(("family", "precision"), [("bart", "auto"), ("t5", "fp32")])
def test_both_graphs_compile_without_a_gpu_and_answer_as_torch_does(
    family: str, precision: Precision, tmp_path: Path
) -> None:
    model = tiny_encoder_decoder(family)
    model.generation_config.eos_token_id = None
    graphs = encoder_decoder_graphs(model, max_length=LENGTH)
    folders = tmp_path / "encoder", tmp_path / "decoder"
    (encoder, read), (decoder, written) = (
        built(graph, precision, folder) for graph, folder in zip(graphs, folders, strict=True)
    )
    for artifact in (encoder, decoder):
        assert (artifact / ENGINE).stat().st_size > 100_000
    cached = {spec.dtype for spec in written.inputs if spec.name.startswith("past.")}
    assert cached == {"float32" if precision == "fp32" else "float16"}
    assert_takes_one_token_and_the_longest_text(decoder)
    opened = EncoderDecoder(read, written, LENGTH)
    decoding = Decoding(decoder_start_token_id=START, pad_token_id=PAD, max_new_tokens=MORE)
    steps = greedy(opened, [TEXT], decoding)
    assert [step.tokens[0] for step in steps] == theirs(model, beams=1)
    ((best, *_),) = beam_search(opened, [TEXT], dataclasses.replace(decoding, num_beams=3))
    assert list(best.tokens) == theirs(model, beams=3)


def theirs(model: Any, beams: int) -> list[int]:
    """transformers' answer."""
    answer: list[int] = model.generate(
        torch.tensor([TEXT]),
        do_sample=False,
        num_beams=beams,
        max_new_tokens=MORE,
        eos_token_id=None,
        pad_token_id=PAD,
    )[0, 1:].tolist()
    return answer


def assert_takes_one_token_and_the_longest_text(artifact: Path) -> None:
    (profile,) = read_plan(artifact).profiles
    heads, size = profile["past.0.key"].smallest[1], profile["past.0.key"].smallest[3]
    assert profile["input_ids"] == Range((1, 1), (1, 1), (4, 1))
    assert profile["encoder_attention_mask"] == Range((1, 1), (1, 16), (4, LENGTH))
    assert profile["cross.1.value"] == Range(
        (1, heads, 1, size), (1, heads, 16, size), (4, heads, LENGTH, size)
    )
    assert profile["past.1.value"] == Range(
        (1, heads, 0, size), (1, heads, LENGTH // 2, size), (4, heads, LENGTH - 1, size)
    )
