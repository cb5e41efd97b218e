"""Decoders with a cache on TensorRT: compiled ahead of time, and generating through their proof."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch

pytest.importorskip("lepton_edge_tensorrt", reason="the TensorRT backend is not installed")

from lepton_edge_tensorrt import compile as compiling
from lepton_edge_tensorrt.backend import TensorRTBackend
from lepton_edge_tensorrt.library import Flavour, flavour
from lepton_edge_tensorrt.plan import ENGINE, ONNX, Range, profiles_of, read_plan

from lepton_edge.backend import Aside, Compiled, Graph, Precision
from lepton_edge.builder.decoder import decoder_graph
from lepton_edge.errors import BackendError
from lepton_edge.generation.loop import SessionStepper, generate
from lepton_edge.generation.sampling import Sampling
from lepton_edge.target import TARGETS
from tests.decoders import tiny_decoder

BACKEND = TensorRTBackend()
PROMPT = [5, 9, 30, 12]
LENGTH, CONTEXT = 32, 96
Build = Callable[..., tuple[Path, Compiled, Aside]]


@pytest.fixture(scope="module")
def rtx() -> Flavour:
    try:
        return flavour("tensorrt_rtx")
    except BackendError as error:
        pytest.skip(f"needs TensorRT for RTX: {error.message}")


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return tiny_decoder("llama")


@pytest.fixture(scope="module")
def graph(model: torch.nn.Module) -> Graph:
    made = decoder_graph(model)
    return dataclasses.replace(made, largest={"length": LENGTH, "total": CONTEXT})


@pytest.fixture
def build(rtx: Flavour, graph: Graph, tmp_path: Path) -> Build:
    count = iter(range(9))

    def make(target: str, precision: Precision) -> tuple[Path, Compiled, Aside]:
        folder = tmp_path / f"artifact-{next(count)}"
        aside = Aside(folder / "aside")
        for each in (folder, folder / "aside", folder / "artifact"):
            each.mkdir()
        options = BACKEND.Options(max_batch=4, best_batch=1)
        compiled = BACKEND.build(
            graph, TARGETS[target], precision, options, folder / "artifact", None, aside
        )
        return folder / "artifact", compiled, aside

    return make


@pytest.mark.parametrize("precision", ["fp32", "auto", "bf16", "int8-weights", "int4-weights"])
def test_a_decoder_with_its_cache_compiles_without_a_gpu(
    build: Build, precision: Precision
) -> None:
    folder, compiled, _ = build("rtx", precision)
    assert (folder / ENGINE).stat().st_size > 100_000
    oldest = str(compiled.settings["compute_capabilities"]).split(", ", maxsplit=1)[0]
    assert oldest == ("7.5" if precision in ("auto", "int8-weights") else "8.0")


def test_the_same_decoder_gives_the_same_plan(build: Build) -> None:
    (_, one, _), (_, two, _) = build("jetson-orin", "int4-weights"), build("rtx", "int4-weights")
    (_, three, _) = build("jetson-orin", "int4-weights")
    assert one == three
    assert one.settings["plan"] != two.settings["plan"]  # it is for other GPUs


def test_the_network_has_the_cache_in_16_bits_and_the_logits_in_32(
    build: Build, rtx: Flavour, graph: Graph
) -> None:
    folder, compiled, _ = build("jetson-orin", "auto")
    network = compiling.parse(rtx, folder / ONNX, read_plan(folder)).network
    trt = rtx.trt
    types = {"int64": trt.int64, "float32": trt.float32, "float16": trt.float16}
    for count, get, specs in (
        (network.num_inputs, network.get_input, compiled.inputs),
        (network.num_outputs, network.get_output, compiled.outputs),
    ):
        assert count == len(specs)
        for index, spec in enumerate(specs):
            tensor = get(index)
            assert tensor.name == spec.name
            assert tensor.dtype == types[spec.dtype]
            assert len(tensor.shape) == len(spec.shape)
            cached = spec.name.startswith(("past.", "present."))
            assert (spec.dtype == "float16") == cached
    assert [spec.name for spec in compiled.inputs] == [spec.name for spec in graph.inputs]


def test_one_profile_takes_an_empty_cache_and_a_full_one(build: Build) -> None:
    folder, _, _ = build("jetson-orin", "auto")
    (profile,) = read_plan(folder).profiles
    assert profile["input_ids"] == Range((1, 1), (1, 1), (4, LENGTH))
    heads, size = profile["past.0.key"].smallest[1], profile["past.0.key"].smallest[3]
    assert profile["past.0.key"] == Range(
        (1, heads, 0, size), (1, heads, CONTEXT // 2, size), (4, heads, CONTEXT - 1, size)
    )
    for place in ("smallest", "best", "largest"):
        new, total = (getattr(profile[name], place)[1] for name in ("input_ids", "attention_mask"))
        assert getattr(profile["past.0.key"], place)[2] + new == total


def test_a_step_of_a_long_context_is_short(graph: Graph) -> None:
    """Scratch memory has room for the scores of its attention; the stepper takes turns."""
    largest = {"length": 8192, "total": 8192}
    (profile,) = profiles_of(graph.inputs, largest, BACKEND.Options())
    new, total, past = (
        profile[name].largest for name in ("input_ids", "attention_mask", "past.0.key")
    )
    assert new[1] == 256
    assert past[2] == 8192 - 1
    assert total[1] == past[2] + new[1]


@pytest.mark.parametrize(("precision", "share"), [("int8-weights", 0.85), ("int4-weights", 0.75)])
def test_small_weights_make_a_small_graph(build: Build, precision: Precision, share: float) -> None:
    plain, small = (build("jetson-orin", each)[0] / ONNX for each in ("auto", precision))
    weights = [
        sum(len(each.raw_data) for each in onnx.load(file).graph.initializer)
        for file in (plain, small)
    ]
    assert weights[1] < weights[0] * share


@pytest.mark.parametrize(("precision", "equal"), [("fp32", 24), ("auto", 24)])
def test_the_proof_generates_what_torch_does(
    build: Build, model: torch.nn.Module, precision: Precision, equal: int
) -> None:
    expected = model.generate(  # type: ignore[operator]  # transformers has no types
        torch.tensor([PROMPT]), max_new_tokens=equal, do_sample=False, eos_token_id=None
    )[0, len(PROMPT) :].tolist()
    with BACKEND.prove(*build("rtx", precision)) as session:
        stepper = SessionStepper(session, CONTEXT)
        steps = generate(stepper, [PROMPT], Sampling(temperature=0), equal, (), 0)
        assert [step.tokens[0] for step in steps] == expected
