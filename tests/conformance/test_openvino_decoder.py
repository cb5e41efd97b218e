"""Decoders on OpenVINO: what is built of them, and that it answers as torch does."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lepton_edge.backend import Aside, Compiled, Generation, Graph, Quantization, Vocabulary
from lepton_edge.builder.decoder import decoder_graph
from lepton_edge.errors import BackendError
from lepton_edge.generation.request import Request, TokenStream
from lepton_edge.target import TARGETS
from tests.decoders import FAMILIES, VOCABULARY, WINDOW, tiny_decoder

openvino = pytest.importorskip("openvino")
pytest.importorskip("openvino_genai")
from lepton_edge_openvino import OpenVINOBackend  # noqa: E402
from lepton_edge_openvino.options import OpenVINOOptions  # noqa: E402

LONG = 2 * WINDOW + 3
TOKENS = tuple(bytes([32 + token]) if token > 2 else b"" for token in range(VOCABULARY))
NOWHERE = Path("tokenizer.json")  # grammars alone read it, and not here


@dataclass
class Built:
    """A tiny random model and its artifact."""

    model: Any
    graph: Graph
    directory: Path
    compiled: Compiled


def graph_of(model: Any) -> Graph:
    graph = decoder_graph(model, attention="sdpa", logits="all")
    return dataclasses.replace(graph, vocabulary=Vocabulary(TOKENS, (2,)))


def build(
    graph: Graph,
    directory: Path,
    precision: Any = "fp32",
    said: list[str] | None = None,
    quantization: Quantization | None = None,
    **options: Any,
) -> Compiled:
    directory.mkdir(exist_ok=True)
    return OpenVINOBackend().build(
        graph,
        TARGETS["intel-cpu"],
        precision,
        OpenVINOOptions(**options),
        directory,
        quantization,
        Aside(say=[].append if said is None else said.append),
    )


def generated(directory: Path, compiled: Compiled, *requests: Request) -> list[list[int]]:
    generation = Generation(max_length=96, tokenizer=NOWHERE)
    generator = OpenVINOBackend().load_generator(directory, compiled, generation)
    try:
        return [tokens_of(stream) for stream in generator.submit(requests)]
    finally:
        generator.close()


def tokens_of(stream: TokenStream) -> list[int]:
    return [token for chunk in stream for token in chunk.tokens]


def by_torch(model: Any, prompt: Sequence[int], count: int) -> list[int]:
    """The most likely tokens, each from the whole text before it."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(count):
            logits = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
            ids.append(int(logits.argmax()))
    return ids[len(prompt) :]


def prompt(length: int) -> list[int]:
    found: list[int] = np.random.default_rng(length).integers(3, VOCABULARY, length).tolist()
    return found


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Built:
    model = tiny_decoder("llama")
    graph, directory = graph_of(model), tmp_path_factory.mktemp("llama")
    return Built(model, graph, directory, build(graph, directory))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_generates_what_torch_does(family: str, tmp_path: Path) -> None:
    model = tiny_decoder(family)
    compiled = build(graph_of(model), tmp_path)
    assert compiled.settings["paged"] is (family != "gemma2")  # its scores are capped
    # One text that is beyond a sliding window from the start, and one that comes to it.
    prompts = [prompt(LONG), prompt(3)]
    found = generated(tmp_path, compiled, *(Request(each, 2 * WINDOW) for each in prompts))
    assert found == [by_torch(model, each, 2 * WINDOW) for each in prompts]


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_steps_of_rows_padded_on_the_left_are_torchs(family: str, tmp_path: Path) -> None:
    model = tiny_decoder(family)
    stepper = OpenVINOBackend().prove_steps(tmp_path, build(graph_of(model), tmp_path), Aside())
    rows = [prompt(LONG), prompt(5)]
    ids = np.array([rows[0], [0] * (LONG - 5) + rows[1]])
    mask = np.array([[1] * LONG, [0] * (LONG - 5) + [1] * 5])
    positions = np.maximum(mask.cumsum(axis=1) - 1, 0)
    stepper.start(2)
    first = stepper.step(ids, mask, positions)
    grown = np.concatenate([mask, np.ones((2, 1), np.int64)], axis=1)
    second = stepper.step(np.array([[7], [9]]), grown, positions[:, -1:] + 1)
    stepper.close()
    with torch.no_grad():
        for row, more in ((0, 7), (1, 9)):
            logits = model(torch.tensor([[*rows[row], more]])).logits[0].numpy()
            np.testing.assert_allclose(first[row], logits[-2], atol=1e-4)
            np.testing.assert_allclose(second[row], logits[-1], atol=1e-4)


def test_the_same_graph_gives_the_same_bytes(llama: Built, tmp_path: Path) -> None:
    again = graph_of(tiny_decoder("llama"))
    build(again, tmp_path / "again")
    build(llama.graph, tmp_path / "small", "int4-weights", group_size=16)
    build(again, tmp_path / "small-again", "int4-weights", group_size=16)
    pairs = [(llama.directory, "again"), (tmp_path / "small", "small-again")]
    for first, second in pairs:
        names = sorted(file.name for file in first.iterdir())
        assert "openvino_model.xml" in names
        assert names == sorted(file.name for file in (tmp_path / second).iterdir())
        for name in names:
            assert (first / name).read_bytes() == (tmp_path / second / name).read_bytes()


@pytest.mark.parametrize(
    ("precision", "options", "stored"),
    [
        ("auto", {}, "fp16"),
        ("int8-weights", {}, "int8"),
        ("int4-weights", {"group_size": 16}, "int4"),
        ("int4-weights", {"group_size": -1, "symmetric": True}, "int4"),
        ("int4-weights", {"group_size": 16, "ratio": 0.5}, "int4"),
    ],
)
def test_small_weights_open_and_answer_much_as_torch_does(
    llama: Built, tmp_path: Path, precision: Any, options: dict[str, Any], stored: str
) -> None:
    compiled = build(llama.graph, tmp_path, precision, **options)
    assert compiled.precision == stored
    kinds = {str(each.get_output_element_type(0)) for each in constants(tmp_path)}
    tables = [each for each in constants(tmp_path) if list(each.shape) == [VOCABULARY, 32]]
    if stored in ("int8", "int4"):
        assert all("uint8" in str(each.get_output_element_type(0)) for each in tables)
        assert len(tables) == 1  # embeddings and the last layer are one
    four = {kind for kind in kinds if "int4" in kind}
    assert bool(four) is (stored == "int4")
    stepper = OpenVINOBackend().prove_steps(tmp_path, compiled, Aside())
    ids = np.array([prompt(12)])
    stepper.start(1)
    logits = stepper.step(ids, np.ones_like(ids), np.arange(12)[None])[0]
    stepper.close()
    with torch.no_grad():
        expected = llama.model(torch.from_numpy(ids)).logits[0, -1].numpy()
    cosine = float(logits @ expected / np.linalg.norm(logits) / np.linalg.norm(expected))
    assert cosine > (0.95 if stored == "int4" else 0.999)
    (tokens,) = generated(tmp_path, compiled, Request(prompt(6), 10))
    assert len(tokens) == 10


def constants(directory: Path) -> list[Any]:
    model = openvino.Core().read_model(directory / "openvino_model.xml")
    return [each for each in model.get_ordered_ops() if each.get_type_name() == "Constant"]


def test_groups_that_do_not_fit_are_smaller_and_said(llama: Built, tmp_path: Path) -> None:
    said: list[str] = []
    build(llama.graph, tmp_path, "int4-weights", said)
    assert any("where 128 does not divide what a product sums over" in each for each in said)


@pytest.mark.parametrize("option", ["awq", "scale_estimation"])
def test_weights_chosen_by_data_need_data(llama: Built, tmp_path: Path, option: str) -> None:
    with pytest.raises(BackendError, match="awq and scale_estimation choose by data"):
        build(llama.graph, tmp_path / "without", "int4-weights", group_size=16, **{option: True})
    feeds = [
        {
            "input_ids": np.array([prompt(length)]),
            "attention_mask": np.ones((1, length), np.int64),
            "position_ids": np.arange(length)[None],
        }
        for length in (9, 12, 15)
    ]
    compiled = build(
        llama.graph,
        tmp_path / "with",
        "int4-weights",
        quantization=Quantization(feeds),
        group_size=16,
        **{option: True},
    )
    assert compiled.precision == "int4"
    (tokens,) = generated(tmp_path / "with", compiled, Request(prompt(6), 5))
    assert len(tokens) == 5


def test_activations_in_eight_bits_are_refused(llama: Built, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="int8 is not for decoders"):
        build(llama.graph, tmp_path, "int8")


def test_weights_of_sixteen_bits_stay_and_are_computed_with_exactly(tmp_path: Path) -> None:
    model = tiny_decoder("qwen2").to(torch.bfloat16)
    compiled = build(graph_of(model), tmp_path)
    assert compiled.precision == "bf16"
    assert all(spec.dtype == "float32" for spec in compiled.inputs[3:])
    (tokens,) = generated(tmp_path, compiled, Request(prompt(LONG), 20))
    assert tokens == by_torch(model.float(), prompt(LONG), 20)
    assert build(graph_of(model.to(torch.bfloat16)), tmp_path, "auto").precision == "fp16"


def test_an_ir_of_another_exporter_is_taken_as_it_is(llama: Built, tmp_path: Path) -> None:
    foreign = Graph((), (), ir=llama.directory, vocabulary=llama.graph.vocabulary)
    compiled = build(foreign, tmp_path, "auto")
    for name in ("openvino_model.xml", "openvino_model.bin"):
        assert (tmp_path / name).read_bytes() == (llama.directory / name).read_bytes()
    assert compiled.precision == "fp32"
    assert [spec.shape for spec in compiled.inputs] == [
        spec.shape for spec in llama.compiled.inputs
    ]
    (tokens,) = generated(tmp_path, compiled, Request(prompt(4), 8))
    assert len(tokens) == 8
    small = build(foreign, tmp_path / "small", "int8-weights")
    assert small.precision == "int8"


def test_an_ir_that_keeps_no_cache_is_refused(tmp_path: Path) -> None:
    ops = openvino.opset13
    ids = ops.parameter([-1, -1], np.int64, name="input_ids")
    ids.output(0).get_tensor().set_names({"input_ids"})
    openvino.save_model(openvino.Model([ops.convert(ids, "f32")], [ids]), tmp_path / "m.xml")
    (tmp_path / "ir").mkdir()
    for suffix in ("xml", "bin"):
        shutil.move(tmp_path / f"m.{suffix}", tmp_path / "ir" / f"openvino_model.{suffix}")
    with pytest.raises(BackendError, match="it has no input attention_mask") as refused:
        build(Graph((), (), ir=tmp_path / "ir"), tmp_path / "out", "auto")
    assert "text-generation-with-past" in str(refused.value.hint)
