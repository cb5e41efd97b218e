"""The generator of every installed backend that has one, on a tiny random decoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from lepton_edge import registry
from lepton_edge.backend import Vocabulary
from lepton_edge.builder.decoder import decoder_graph
from lepton_edge.errors import BackendError
from lepton_edge.target import TARGETS
from lepton_edge.testing_decoder import generative_tokenizer
from lepton_edge.testing_generators import GENERATOR_CONFORMANCE, GeneratorCase
from tests.decoders import VOCABULARY, tiny_decoder

_TARGETS = {"tensorrt": "rtx"}  # the one that is compiled without a device
_LONGEST = 96
BACKENDS = [entry.name for entry in registry.entries()]


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_decoder("llama")


@pytest.fixture(scope="module", params=BACKENDS)
def case(
    request: pytest.FixtureRequest, model: Any, tmp_path_factory: pytest.TempPathFactory
) -> GeneratorCase:
    backend = registry.get(request.param)
    try:
        backend.probe()
    except BackendError as error:
        pytest.skip(f"the backend {request.param} cannot be used here: {error.message}")
    form = backend.decoder
    graph = decoder_graph(model, attention=form.attention, logits=form.logits, max_length=_LONGEST)
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = folder / "tokenizer.json"
    tokenizer.write_text(generative_tokenizer(), encoding="utf-8")
    tokens = [f"t{number}".encode() for number in range(VOCABULARY)]

    def greedy(prompt: Sequence[int], count: int) -> list[int]:
        text = list(prompt)
        with torch.no_grad():
            for _ in range(count):
                text.append(int(logits(text).argmax()))
        return text[len(prompt) :]

    def logits(text: Sequence[int]) -> Any:
        with torch.no_grad():
            return model(torch.tensor([list(text)])).logits[0, -1].numpy()

    return GeneratorCase(
        backend=backend,
        graph=replace(graph, vocabulary=Vocabulary(tokens, (2,))),
        target=TARGETS[_TARGETS.get(request.param, "intel-cpu")],
        tokenizer=tokenizer,
        words=range(3, VOCABULARY),
        max_length=_LONGEST,
        greedy=greedy,
        logits=logits,
        directory=folder,
    )


@pytest.mark.parametrize("check", GENERATOR_CONFORMANCE, ids=lambda check: check.__name__)
def test_generator_conforms(check: Callable[[GeneratorCase], None], case: GeneratorCase) -> None:
    check(case)
