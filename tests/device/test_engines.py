"""Engines on a GPU: what they compute, hold and give back.

``pytest -s tests/device`` shows what was measured.
"""

from __future__ import annotations

import dataclasses
import json
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

pytest.importorskip("lepton_edge_tensorrt", reason="the TensorRT backend is not installed")

from lepton_edge_tensorrt import cuda
from lepton_edge_tensorrt.backend import TensorRTBackend
from lepton_edge_tensorrt.options import TensorRTOptions

import lepton_edge
from lepton_edge import Bundle, Recipe
from lepton_edge.backend import Aside, Compiled, Graph, Precision
from lepton_edge.builder.decoder import decoder_graph
from lepton_edge.errors import InferenceError, LeptonWarning
from lepton_edge.generation.loop import generate
from lepton_edge.generation.sampling import Sampling
from lepton_edge.target import TARGETS
from tests.decoders import tiny_decoder
from tests.tiny import WORDS

Feeds = dict[str, NDArray[Any]]
# Cosine to torch, and difference beside the largest output.
PRECISIONS = {"fp32": (0.99999, 1e-3), "auto": (0.9999, 2e-2), "int8": (0.95, None)}
SHAPES = ((1, 1), (1, 17), (3, 9), (3, 9), (3, 9), (8, 40), (40, 12), (1, 17))


@pytest.fixture(scope="module")
def build(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bundle]:
    """The tiny classifier, compiled for the GPU of this machine at a precision."""
    folder = tmp_path_factory.mktemp("bundles")
    made: dict[str, Bundle] = {}
    texts = folder / "texts.jsonl"
    lines = [json.dumps({"text": " ".join(WORDS[n % 7 : n % 7 + 3 + n % 9])}) for n in range(64)]
    texts.write_text("\n".join(lines), encoding="utf-8")

    def build(precision: str) -> Bundle:
        if precision not in made:
            given = {
                "name": f"tiny-{precision}",
                "source": str(tiny_bert),
                "precision": precision,
                "calibration": {"data": str(texts)},
                # A random model changes its mind in eight bits.
                "parity": {"equal_labels": 0.5} if precision == "int8" else {},
            }
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", LeptonWarning)
                recipe = Recipe.model_validate(given)
                made[precision] = lepton_edge.build(recipe, target="nvidia", output=folder)
        return made[precision]

    return build


def feeds_for(session: Any, rows: int, length: int, seed: int = 0) -> Feeds:
    """Random tokens, padded on the right."""
    random = np.random.default_rng((rows, length, seed))
    mask = (np.arange(length) < random.integers(1, length + 1, (rows, 1))).astype(np.int64)
    known: Feeds = {
        "input_ids": random.integers(4, 60, (rows, length)) * mask,
        "attention_mask": mask,
        "token_type_ids": np.zeros_like(mask),
    }
    return {spec.name: known[spec.name] for spec in session.inputs}


def by_torch(model: Any, feeds: Feeds) -> NDArray[Any]:
    with torch.no_grad():
        given = {name: torch.from_numpy(array).to(model.device) for name, array in feeds.items()}
        logits: NDArray[Any] = model(**given).logits.float().cpu().numpy()
    return logits


@pytest.fixture(scope="module")
def original(tiny_bert: Path) -> Any:
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(tiny_bert).eval()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_engine_answers_like_the_original(
    build: Callable[[str], Bundle], original: Any, precision: str
) -> None:
    """Shapes that come again, as one launch, among them, and more rows than the engine takes."""
    bundle = build(precision)
    (artifact,) = bundle.manifest.artifacts
    assert artifact.parity.through == ""  # the build compared on this GPU
    least, most = PRECISIONS[precision]
    with lepton_edge.load(bundle.path) as model:
        for seed, (rows, length) in enumerate(SHAPES):
            feeds = feeds_for(model.session, rows, length, seed)
            expected = by_torch(original, feeds)
            found = next(iter(model.session.infer(feeds).values()))
            a, b = found.ravel(), expected.ravel()
            assert a @ b > least * np.linalg.norm(a) * np.linalg.norm(b)
            if most is not None:
                assert np.abs(a - b).max() <= most * np.abs(b).max()
        print(f"{precision}: {model.session.details}")


def test_threads_get_their_own_answers(build: Callable[[str], Bundle], original: Any) -> None:
    bundle = build("fp32")
    with lepton_edge.load(bundle.path) as one, lepton_edge.load(bundle.path) as other:
        sessions = [one.session, other.session]
        feeds = [feeds_for(one.session, 1 + n % 4, 1 + n % 9, n) for n in range(128)]
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(lambda n: sessions[n % 2].infer(feeds[n]), range(128)))
    for each, outputs in zip(feeds, found, strict=True):
        expected = by_torch(original, each)
        assert np.allclose(next(iter(outputs.values())), expected, rtol=1e-3, atol=1e-3)


def test_a_text_beyond_the_engine_is_refused(build: Callable[[str], Bundle]) -> None:
    with lepton_edge.load(build("fp32").path) as model:
        with pytest.raises(InferenceError, match="length 1000"):
            model.session.infer(feeds_for(model.session, 1, 1000))
        model.session.infer(feeds_for(model.session, 1, 5))


class Large(torch.nn.Module):
    """So large that an engine that is not freed shows: 256 MiB at fp32."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(2**20, 64)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        vectors: torch.Tensor = self.embedding(input_ids).mean(1)
        return vectors


def test_closing_gives_the_gpus_memory_back(tmp_path: Path) -> None:
    from lepton_edge.backend import TensorSpec

    ids = torch.zeros(2, 3, dtype=torch.long)
    free_size = torch.export.Dim.DYNAMIC
    program = torch.export.export(Large(), (ids,), dynamic_shapes=({0: free_size, 1: free_size},))
    graph = Graph(
        (TensorSpec("input_ids", "int64", ("batch", "length")),),
        (TensorSpec("vectors", "float32", ("batch", 64)),),
        program=program,
    )
    directory, compiled = compile_graph(graph, "fp32", tmp_path)
    device = cuda.Device(cuda.first_gpu())

    def free_after_use() -> int:
        with TensorRTBackend().load(directory, compiled) as session:
            for _ in range(3):
                session.infer({"input_ids": ids.numpy()})
            assert cuda.live().device > 0
        assert cuda.live() == cuda.Live(0, 0)
        with device.current():
            return device.memory()[0]

    first = free_after_use()  # what CUDA and TensorRT themselves keep is there from now on
    later = [free_after_use() for _ in range(4)]
    print(f"free after use: {first:,}, then {later}")
    assert first - min(later) < 64 * 2**20


def compile_graph(graph: Graph, precision: Precision, folder: Path) -> tuple[Path, Compiled]:
    directory = folder / "artifact"
    directory.mkdir()
    options = TensorRTOptions(max_batch=4, best_batch=2)
    compiled = TensorRTBackend().build(graph, TARGETS["nvidia"], precision, options, directory)
    return directory, compiled


def test_generating_is_torchs_greedy(tmp_path: Path) -> None:
    """Several prompts as one batch, and one alone."""
    model = tiny_decoder("llama")
    graph = dataclasses.replace(decoder_graph(model), largest={"length": 32, "total": 128})
    directory, compiled = compile_graph(graph, "fp32", tmp_path)
    stepper = TensorRTBackend().prove_steps(directory, compiled, Aside())
    prompts = [list(range(3, 50)), [7, 8], [40]]  # the first is longer than a step takes
    try:
        for given in (prompts, prompts[1:2]):
            texts = [list(prompt) for prompt in given]
            for step in generate(stepper, given, Sampling(temperature=0), 64, (), 0):
                for text, token in zip(texts, step.tokens, strict=True):
                    assert token is not None
                    text.append(token)
            for prompt, text in zip(given, texts, strict=True):
                expected = model.generate(
                    torch.tensor([prompt]), max_new_tokens=64, do_sample=False, eos_token_id=None
                )
                assert text == expected[0].tolist()
    finally:
        stepper.close()
    assert cuda.live() == cuda.Live(0, 0)


def test_throughput_is_measured_beside_torch(
    build: Callable[[str], Bundle], tiny_bert: Path
) -> None:
    """Printed, and never asserted: a tiny model shows what a call costs, not what a GPU can do."""
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA to compare with")
    from transformers import AutoModelForSequenceClassification

    beside = AutoModelForSequenceClassification.from_pretrained(tiny_bert).eval().cuda()
    for precision in PRECISIONS:
        with lepton_edge.load(build(precision).path) as model:
            for rows in (1, 8, 32):
                feeds = feeds_for(model.session, rows, 32)
                ours = rate(lambda feeds=feeds: model.session.infer(feeds), rows)
                theirs = rate(lambda feeds=feeds: by_torch(beside, feeds), rows)
                print(f"{precision} {rows}x32: {ours:,.0f} texts/s, torch fp32 {theirs:,.0f}")
                assert ours > 0


def rate(call: Callable[[], object], rows: int, calls: int = 100) -> float:
    """Texts a second."""
    for _ in range(10):
        call()
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return rows * calls / (time.perf_counter() - start)
