"""Whole texts: the loop over an exported decoder says what transformers' own `generate` says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest
import torch
import transformers
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lepton_edge.backend import Graph, Session
from lepton_edge.builder.decoder import decoder_graph
from lepton_edge.generation.loop import SessionStepper
from lepton_edge.generation.request import Request
from lepton_edge.generation.sampling import Sampling, probabilities, processed
from lepton_edge.generation.stepping import Limits, StepGenerator
from tests.decoders import VOCABULARY, tiny_decoder, write_onnx

if TYPE_CHECKING:
    from lepton_edge.backend import Tensors

Array = NDArray[Any]

MORE = 64


class OnnxSession(Session):
    """A graph run by ONNX Runtime."""

    def __init__(self, graph: Graph, file: Path) -> None:
        self.inputs, self.outputs = graph.inputs, graph.outputs
        self.device, self.details = "CPU", {}
        self._session = onnxruntime.InferenceSession(write_onnx(graph, file))

    def infer(self, feeds: Tensors) -> dict[str, Array]:
        names = [spec.name for spec in self.outputs]
        return dict(zip(names, self._session.run(names, dict(feeds)), strict=True))

    def close(self) -> None:
        pass


def ours(
    session: Session, prompts: Sequence[Sequence[int]], stop: Sequence[int] = (), **options: Any
) -> list[list[int]]:
    """As a backend without a generator of its own answers them: as one batch."""
    stepper = SessionStepper(session, 128)
    generator = StepGenerator(stepper, Limits(8, 128, 1024), Path("tokenizer.json"), "CPU")
    requests = [Request(each, MORE, frozenset(stop), Sampling(**options)) for each in prompts]
    try:
        streams = generator.submit(requests)
        return [[token for chunk in stream for token in chunk.tokens] for stream in streams]
    finally:
        generator.close()


def theirs(
    model: Any, prompt: Sequence[int], stop: Sequence[int] = (), **options: Any
) -> list[int]:
    """transformers' greedy text after a prompt."""
    with torch.no_grad():
        found = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=MORE,
            eos_token_id=list(stop) or None,
            pad_token_id=0,
            **options,
        )
    text: list[int] = found[0, len(prompt) :].tolist()
    return text


PROMPTS = [[5, 9, 33, 21, 40, 8, 8, 17, 50, 61, 3], [7], [12, 60, 4, 31]]


@pytest.fixture(scope="module", params=["gemma3_text", "gpt2"])
def tiny(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, OnnxSession]:
    """With a sliding window, and with learned positions."""
    model = tiny_decoder(request.param)
    model.generation_config.eos_token_id = None
    file = tmp_path_factory.mktemp("decoder") / "model.onnx"
    return model, OnnxSession(decoder_graph(model), file)


def test_greedy_text_is_transformers_own(tiny: tuple[Any, OnnxSession]) -> None:
    model, session = tiny
    for prompt in PROMPTS:
        (text,) = ours(session, [prompt])
        assert text == theirs(model, prompt)
        assert len(text) == MORE


def test_a_batch_padded_on_the_left_says_what_each_says_alone(
    tiny: tuple[Any, OnnxSession],
) -> None:
    model, session = tiny
    expected = [theirs(model, prompt) for prompt in PROMPTS]
    assert ours(session, PROMPTS) == expected
    stop = [expected[0][20], expected[2][3]]
    assert ours(session, PROMPTS, stop) == [theirs(model, prompt, stop) for prompt in PROMPTS]


def test_greedy_text_with_a_repetition_penalty_is_transformers_own(
    tiny: tuple[Any, OnnxSession],
) -> None:
    model, session = tiny
    expected = [theirs(model, prompt, repetition_penalty=1.3) for prompt in PROMPTS]
    assert ours(session, PROMPTS, repetition_penalty=1.3) == expected
    assert expected != [theirs(model, prompt) for prompt in PROMPTS]


def test_a_real_models_story_is_transformers_own(shared: Path, tmp_path: Path) -> None:
    folder = shared / "models" / "stories260k"
    if not folder.is_dir():
        pytest.skip(f"needs the real model {folder}, which is not there")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    session = OnnxSession(decoder_graph(model), tmp_path / "model.onnx")
    prompts = [tokenizer(text).input_ids for text in ("Once upon a time", "Tom", "The cat sat on")]
    texts = ours(session, prompts)
    assert texts == [theirs(model, prompt) for prompt in prompts]
    words = tokenizer.decode(texts[0]).split()
    assert len(words) > 20
    assert {"was", "a", "the"} <= {*words}


@given(
    seed=st.integers(0, 2**32 - 1),
    temperature=st.floats(0.05, 5),
    top_k=st.integers(0, 60),
    top_p=st.floats(0.01, 1),
    min_p=st.floats(0, 1),
    penalty=st.floats(0.5, 2),
    bias=st.dictionaries(st.integers(0, VOCABULARY - 1), st.floats(-9, 9), max_size=5),
)
@settings(deadline=None, max_examples=60)
def test_logits_are_processed_as_by_transformers(
    seed: int,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    penalty: float,
    bias: dict[int, float],
) -> None:
    random = np.random.default_rng(seed)
    logits = (random.standard_normal(VOCABULARY) * 4).astype(np.float32)
    prompt, answer = random.integers(0, VOCABULARY, (2, 6)).tolist()
    most = {"temperature": temperature, "top_k": top_k, "repetition_penalty": penalty}
    sampling = Sampling(**most, top_p=top_p, min_p=min_p, logit_bias=bias)  # type: ignore[arg-type]
    # At the very edge of top-p and min-p, rounding decides.
    before = Sampling(**most, logit_bias=bias)  # type: ignore[arg-type]
    shares = np.sort(probabilities(processed(logits, prompt, answer, before)))
    assume(np.abs(shares.cumsum() - (1 - top_p)).min() > 1e-5)
    assume(np.abs(shares - min_p * shares[-1]).min() > 1e-6 or min_p == 1)
    biases = {(token,): value for token, value in bias.items()}
    warpers = transformers.LogitsProcessorList(
        [
            *([transformers.SequenceBiasLogitsProcessor(biases)] if biases else []),
            transformers.RepetitionPenaltyLogitsProcessor(penalty),
            transformers.TemperatureLogitsWarper(temperature),
            *([transformers.TopKLogitsWarper(top_k)] if top_k else []),
            *([transformers.TopPLogitsWarper(top_p)] if top_p < 1 else []),
            transformers.MinPLogitsWarper(min_p),
        ]
    )
    tokens = torch.tensor([prompt + answer])
    expected = warpers(tokens, torch.from_numpy(logits)[None])[0].numpy()
    found = processed(logits, prompt, answer, sampling)
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(expected))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
