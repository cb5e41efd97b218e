"""Building with the real TensorRT for RTX, which compiles ahead of time without a GPU."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray

pytest.importorskip("lepton_edge_tensorrt", reason="the TensorRT backend is not installed")

from lepton_edge_tensorrt import build as building
from lepton_edge_tensorrt import compile as compiling
from lepton_edge_tensorrt import onnx_export
from lepton_edge_tensorrt.backend import TensorRTBackend
from lepton_edge_tensorrt.library import Flavour, flavour
from lepton_edge_tensorrt.options import TensorRTOptions
from lepton_edge_tensorrt.plan import ONNX, PLAN, Range, read_plan
from lepton_edge_tensorrt.typed import write_precision

import lepton_edge
from lepton_edge.backend import (
    Aside,
    Compiled,
    Graph,
    Precision,
    Quantization,
    Session,
    TensorSpec,
)
from lepton_edge.builder.torch_model import TorchOriginal
from lepton_edge.errors import BackendError, BuildError, LeptonWarning, RecipeError
from lepton_edge.recipe import Recipe
from lepton_edge.target import MIB, TARGETS, Target
from lepton_edge.tasks.text_classification import TextClassificationConfig
from tests.conformance.test_backends import Bag
from tests.tiny import save_tiny

BACKEND = TensorRTBackend()
RTX, ORIN = TARGETS["rtx"], TARGETS["jetson-orin"]
Feeds = dict[str, NDArray[Any]]
Build = Callable[..., tuple[Path, Compiled, Aside]]


@pytest.fixture(scope="module")
def rtx() -> Flavour:
    try:
        return flavour("tensorrt_rtx")
    except BackendError as error:
        pytest.skip(f"needs TensorRT for RTX: {error.message}")


@pytest.fixture(scope="module")
def original() -> TorchOriginal:
    return TorchOriginal(Bag(), ("input_ids", "attention_mask"))


@pytest.fixture(scope="module")
def graph(original: TorchOriginal, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    config = TextClassificationConfig(("a", "b", "c"), False, 0.5)
    made = original.graph("text-classification", config, tmp_path_factory.mktemp("graph"))
    return dataclasses.replace(made, largest={"length": 64})


@pytest.fixture
def build(rtx: Flavour, graph: Graph, tmp_path: Path) -> Build:
    """Makes an artifact of the graph in a new folder."""
    count = iter(range(99))

    def make(
        target: Target = RTX, precision: Precision = "auto", made: Graph = graph, **options: Any
    ) -> tuple[Path, Compiled, Aside]:
        folder = tmp_path / f"artifact-{next(count)}"
        aside = Aside(folder / "scratch")
        artifact = folder / "artifact"
        for each in (folder, folder / "scratch", artifact):
            each.mkdir()
        compiled = BACKEND.build(
            made, target, precision, TensorRTOptions(**options), artifact, None, aside
        )
        return artifact, compiled, aside

    return make


def feeds(batch: int, length: int) -> Feeds:
    random = np.random.default_rng(batch * 100 + length)
    ids = random.integers(0, 50, (batch, length))
    mask = (np.arange(length) < random.integers(1, length + 1, (batch, 1))).astype(np.int64)
    return {"input_ids": ids, "attention_mask": mask}


def proven(artifact: tuple[Path, Compiled, Aside]) -> Session:
    return BACKEND.prove(*artifact)


# Ahead of time.


def test_an_engine_is_compiled_without_a_gpu(build: Build, rtx: Flavour) -> None:
    folder, compiled, _ = build()
    assert {path.name for path in folder.iterdir()} == {"model.engine", "plan.json"}
    assert (folder / "model.engine").stat().st_size > 10_000
    assert compiled.requires == f"tensorrt_rtx {rtx.version}"
    assert not compiled.deferred
    assert compiled.settings["compute"] == "fp16"
    assert "8.6" in str(compiled.settings["compute_capabilities"])


def test_the_same_graph_gives_the_same_plan(build: Build) -> None:
    (first, one, _), (second, two, _) = build(), build()
    assert one == two
    assert read_plan(first).digest() == one.settings["plan"]
    assert (first / PLAN).read_bytes() == (second / PLAN).read_bytes()


def test_the_same_graph_gives_the_same_bytes_whatever_came_before(
    build: Build, graph: Graph, tmp_path: Path
) -> None:
    """torch counts through the life of a process; OpenVINO's converter moves its counters."""
    assert graph.program is not None
    first, one, _ = build(target=ORIN)
    graph.program.run_decompositions()
    TorchOriginal(Bag(), ("input_ids", "attention_mask")).graph(
        "text-classification", TextClassificationConfig(("a", "b", "c"), False, 0.5), tmp_path
    )
    onnx_export.onnx_from_graph(graph)
    second, two, _ = build(target=ORIN)
    assert (first / ONNX).read_bytes() == (second / ONNX).read_bytes()
    assert one == two
    assert b".py" not in (first / ONNX).read_bytes()  # no notes on where the code was


def test_what_changes_the_engine_changes_the_plan(build: Build) -> None:
    plans = [
        build(precision="fp32")[1],
        build()[1],
        build(max_batch=8)[1],
        build(best_length=16)[1],
        build(workspace=64)[1],
        build(optimization_level=0)[1],
        build(compute_capabilities=(8.6,))[1],
    ]
    assert len({each.settings["plan"] for each in plans}) == len(plans)


def test_the_plan_has_a_profile_for_one_text_and_one_for_many(build: Build) -> None:
    folder, _, _ = build()
    one, many = read_plan(folder).profiles
    assert one["input_ids"] == one["attention_mask"] == Range((1, 1), (1, 32), (1, 64))
    assert many["input_ids"] == Range((1, 1), (8, 64), (32, 64))
    single = read_plan(build(max_batch=1, best_batch=1)[0]).profiles
    assert single == (one,)


def test_the_network_has_the_graphs_names_types_and_shapes(
    build: Build, rtx: Flavour, graph: Graph
) -> None:
    _, _, aside = build(target=ORIN)
    assert aside.scratch
    folder, _, _ = build(target=ORIN)
    network = compiling.parse(rtx, folder / ONNX, read_plan(folder)).network
    trt = rtx.trt
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    assert [each.name for each in inputs] == [spec.name for spec in graph.inputs]
    assert all(each.dtype == trt.int64 and tuple(each.shape) == (-1, -1) for each in inputs)
    (output,) = [network.get_output(i) for i in range(network.num_outputs)]
    assert (output.name, output.dtype, tuple(output.shape)) == ("logits", trt.float32, (-1, 3))


@pytest.mark.parametrize(("precision", "share"), [("fp32", 1.0), ("auto", 0.5), ("int8", 0.25)])
def test_an_engine_of_fewer_bits_is_smaller(
    rtx: Flavour, tmp_path: Path, precision: Precision, share: float
) -> None:
    class Wide(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.embedding = torch.nn.Embedding(50, 1024)
            self.layers = torch.nn.Sequential(
                torch.nn.Linear(1024, 4096), torch.nn.GELU(), torch.nn.Linear(4096, 3)
            )

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
            kept = attention_mask.unsqueeze(-1).float()
            return self.layers((self.embedding(input_ids) * kept).sum(1) / kept.sum(1))

    wide = TorchOriginal(Wide(), ("input_ids", "attention_mask"))
    config = TextClassificationConfig(("a", "b", "c"), False, 0.5)
    made = wide.graph("text-classification", config, tmp_path)
    (tmp_path / "artifact").mkdir()
    quantization = Quantization([feeds(1, n) for n in range(3, 20)])
    BACKEND.build(
        made, RTX, precision, TensorRTOptions(), tmp_path / "artifact", quantization, Aside()
    )
    weights = 4 * (50 * 1024 + 1024 * 4096 + 4096 * 3)
    size = (tmp_path / "artifact" / "model.engine").stat().st_size
    assert size < weights * share + 1_500_000  # kernels


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("fp32", 1e-5), ("auto", 2e-3), ("fp16", 2e-3), ("bf16", 2e-2)]
)
def test_the_proof_answers_like_the_original(
    build: Build, original: TorchOriginal, precision: Precision, tolerance: float
) -> None:
    artifact = build(precision=precision)
    with proven(artifact) as session:
        assert str(session.details["through"]).startswith("onnxruntime ")
        assert session.details["compute"] == {"auto": "fp16"}.get(precision, precision)
        for shape in ((1, 1), (2, 9), (3, 17), (7, 64)):
            given = feeds(*shape)
            np.testing.assert_allclose(
                session.infer(given)["logits"], original.run(given)["logits"], atol=tolerance
            )


def test_compute_capabilities_are_the_recipes(build: Build) -> None:
    folder, compiled, _ = build(compute_capabilities=(8.6, "12.0"))
    assert compiled.settings["compute_capabilities"] == "8.6, 12.0"
    assert read_plan(folder).capabilities == ("8.6", "12.0")


def test_a_capability_that_the_library_does_not_know_is_refused(build: Build) -> None:
    with pytest.raises(BackendError, match=r"does not compile for compute capability 9\.0") as info:
        build(compute_capabilities=(9.0, 8.6))
    assert "7.5, 8.0, 8.6" in info.value.message
    assert "--target nvidia" in str(info.value.hint)


@pytest.mark.parametrize(("precision", "spoken"), [("fp32", "fp32"), ("bf16", "bf16")])
def test_turing_is_left_out_where_it_cannot_compute(
    build: Build, precision: Precision, spoken: str
) -> None:
    _, compiled, _ = build(precision=precision)
    assert str(compiled.settings["compute_capabilities"]).startswith("8.0")
    with pytest.raises(BackendError, match=rf"matrix products in fp16 only.* {spoken}"):
        build(precision=precision, compute_capabilities=(7.5,))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_batch": 0}, "max_batch is 0"),
        ({"best_batch": 64}, "best_batch is 64, more than max_batch, 32"),
        ({"workspace": 0}, "workspace is 0"),
        ({"optimization_level": 6}, "optimization_level is 6: it is a number from 0 to 5"),
        ({"compute_capabilities": ("SM86",)}, "'SM86'"),
        ({"capabilities": ("8.6",)}, "capabilities"),
    ],
)
def test_options_out_of_range_are_refused_with_their_value(
    options: dict[str, Any], message: str
) -> None:
    recipe = Recipe(name="m", source="x", backends={"tensorrt": options})
    with pytest.raises(RecipeError, match=message):
        recipe.options_of_backend("tensorrt")


# What the parser refuses, and what it cannot read.


def _unknown_operator(folder: Path) -> Graph:
    """A graph with an operator that no parser has."""
    value = onnx.helper.make_tensor_value_info
    ids = value("input_ids", onnx.TensorProto.INT64, ["batch", "length"])
    logits = value("logits", onnx.TensorProto.FLOAT, ["batch", 3])
    nodes = [
        onnx.helper.make_node("Cast", ["input_ids"], ["x"], to=1),
        onnx.helper.make_node("Frobnicate", ["x"], ["logits"], name="the-node", domain="else"),
    ]
    made = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "g", [ids], [logits]),
        opset_imports=[onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("else", 1)],
        ir_version=10,
    )
    onnx.save(made, folder / "unknown.onnx")
    return Graph(
        (TensorSpec("input_ids", "int64", ("batch", "length")),),
        (TensorSpec("logits", "float32", ("batch", 3)),),
        onnx=folder / "unknown.onnx",
    )


def test_an_operator_that_the_parser_refuses_is_named_with_its_node(
    build: Build, tmp_path: Path
) -> None:
    with pytest.raises(BackendError, match=r"Frobnicate \(node the-node\)") as info:
        build(made=_unknown_operator(tmp_path), precision="fp32")
    assert "tensorrt_rtx" in info.value.message
    assert info.value.hint


def test_a_graph_over_the_size_of_a_file_keeps_its_weights_beside_it(
    build: Build, original: TorchOriginal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_export, "MAX_FILE_BYTES", 100)
    artifact = build(target=ORIN)
    folder = artifact[0]
    assert {path.name for path in folder.iterdir()} == {ONNX, f"{ONNX}.data", PLAN}
    with proven(artifact) as session:
        given = feeds(2, 9)
        expected = original.run(given)["logits"]
        np.testing.assert_allclose(session.infer(given)["logits"], expected, atol=2e-3)
    other = build(target=ORIN)[0]
    assert read_plan(other).graph == read_plan(folder).graph
    data = bytearray((folder / f"{ONNX}.data").read_bytes())
    assert len(data) > 1000


# Deferred.


def test_a_jetson_elsewhere_gets_the_graph_and_its_plan(build: Build) -> None:
    folder, compiled, _ = build(target=ORIN)
    assert {path.name for path in folder.iterdir()} == {ONNX, PLAN}
    assert compiled.deferred
    assert compiled.requires == "tensorrt 10.3 or later"
    assert compiled.settings["flavour"] == "tensorrt"
    plan = read_plan(folder)
    assert plan.capabilities == ()
    assert plan.memory > 500 * MIB
    types = {tensor.data_type for tensor in onnx.load(folder / ONNX).graph.initializer}
    assert onnx.TensorProto.FLOAT16 in types


def test_more_memory_than_the_target_has_is_a_warning_with_both(build: Build) -> None:
    small = dataclasses.replace(ORIN, memory_budget=100 * MIB)
    with pytest.warns(LeptonWarning, match=r"take 7\d\d MiB at its peak.*budget is 100 MiB"):
        build(target=small)


def test_on_such_a_jetson_it_is_compiled_now(
    build: Build, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tree = tmp_path / "model"
    tree.write_bytes(b"nvidia,p3767-0005\0nvidia,tegra234\0")
    monkeypatch.setattr("lepton_edge.target._DEVICE_TREE", tree)
    with pytest.raises(BackendError, match="TensorRT is not installed") as info:
        build(target=ORIN)
    assert "JetPack" in str(info.value.hint)
    assert build(target=TARGETS["jetson-thor"])[1].deferred


def test_nvidia_needs_a_gpu_here_and_says_so(build: Build) -> None:
    if BACKEND.probe().devices:
        pytest.skip("this machine has a GPU")
    with pytest.raises(BackendError, match=r"on the GPU that it is for: .*driver") as info:
        build(target=TARGETS["nvidia"])
    assert "--target rtx" in str(info.value.hint)


def test_an_engine_is_not_opened_without_a_driver(build: Build) -> None:
    if BACKEND.probe().devices:
        pytest.skip("this machine has a GPU")
    folder, compiled, _ = build()
    with pytest.raises(BackendError, match="driver"):
        BACKEND.load(folder, compiled)
    assert any("driver" in remark for remark in BACKEND.probe().remarks)


def test_an_engine_of_another_version_is_refused_with_both(build: Build, rtx: Flavour) -> None:
    folder, compiled, _ = build()
    other = msgspec.structs.replace(compiled, requires="tensorrt_rtx 1.6.0.9")
    with pytest.raises(BackendError, match=r"compiled with tensorrt_rtx 1\.6\.0\.9") as info:
        BACKEND.load(folder, other)
    assert rtx.version in info.value.message


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff\xfe", b'{"schema": 1}'])
def test_a_damaged_plan_is_refused(build: Build, damage: bytes) -> None:
    folder, compiled, _ = build()
    (folder / PLAN).write_bytes(damage)
    with pytest.raises(BackendError, match="is no build plan"):
        BACKEND.load(folder, compiled)
    (folder / PLAN).unlink()
    with pytest.raises(BackendError, match="has no build plan"):
        BACKEND.load(folder, compiled)


def test_a_newer_plan_is_refused_with_its_schema(build: Build) -> None:
    folder, compiled, _ = build()
    newer = msgspec.json.decode((folder / PLAN).read_bytes()) | {"schema": 9, "more": 1}
    (folder / PLAN).write_bytes(msgspec.json.encode(newer))
    with pytest.raises(BackendError, match="has schema 9"):
        BACKEND.load(folder, compiled)


# The compilation itself: progress, ending it early, dying in it.


def test_progress_goes_from_nothing_to_all(build: Build, rtx: Flavour) -> None:
    folder, _, _ = build(target=ORIN)
    shares: list[tuple[float, str]] = []
    plan = read_plan(folder)
    compiling.engine_from_onnx(
        rtx, folder / ONNX, plan, lambda share, step: shares.append((share, step))
    )
    values = [share for share, _ in shares]
    assert len(values) > 5
    assert values == sorted(values)
    assert 0 <= values[0] < values[-1] <= 1
    assert all(step for _, step in shares)


class _EnoughError(Exception):
    pass


def test_an_exception_of_progress_ends_the_compilation(build: Build, rtx: Flavour) -> None:
    folder, _, _ = build(target=ORIN)

    def stop(share: float, step: str) -> None:
        raise _EnoughError

    with pytest.raises(_EnoughError):
        compiling.engine_from_onnx(rtx, folder / ONNX, read_plan(folder), stop)


def test_ctrl_c_ends_the_compilation(build: Build, rtx: Flavour, tmp_path: Path) -> None:
    folder, _, _ = build(target=ORIN)
    code = f"""
import os, signal, time
from pathlib import Path
from lepton_edge_tensorrt.compile import engine_from_onnx
from lepton_edge_tensorrt.library import flavour
from lepton_edge_tensorrt.plan import read_plan
folder = Path({str(folder)!r})
pressed = []
def progress(share, step):
    if not pressed:
        pressed.append(step)
        os.kill(os.getpid(), signal.SIGINT)
try:
    engine_from_onnx(flavour("tensorrt_rtx"), folder / "model.onnx", read_plan(folder), progress)
except KeyboardInterrupt:
    print("ended")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "ended\n", done.stderr


# Whole builds.


def test_one_bundle_for_three_kinds_of_device(
    tiny_bert: Path, tmp_path: Path, rtx: Flavour
) -> None:
    pytest.importorskip("lepton_edge_openvino", reason="the OpenVINO backend is not installed")
    bundle = lepton_edge.build(tiny_bert, target="intel-cpu,jetson,rtx", output=tmp_path)
    found = {each.target: each for each in bundle.manifest.artifacts}
    assert list(found) == ["intel-cpu", "jetson-thor", "rtx"]
    assert [each.compiled.deferred for each in found.values()] == [False, True, False]
    assert found["intel-cpu"].parity.through == ""
    for name in ("jetson-thor", "rtx"):
        assert found[name].parity.through.startswith("onnxruntime ")
        assert found[name].parity.mean_cosine > 0.999
    with lepton_edge.load(bundle.path) as model:
        assert model("the card is late").label
    with pytest.raises(BackendError, match="was not built for jetson-orin"):
        lepton_edge.load(bundle.path, "jetson-orin")
    if not BACKEND.probe().devices:
        with pytest.raises(BackendError, match="driver"):
            lepton_edge.load(bundle.path, "rtx")
        with pytest.raises(BackendError, match="TensorRT is not installed"):
            lepton_edge.load(bundle.path, "jetson")
        with pytest.raises(BackendError, match="cannot be compiled on this machine"):
            lepton_edge.finalize(bundle.path, "jetson")
        assert lepton_edge.finalize(bundle.path) is None  # the CPU's artifact opens here


def test_a_graph_that_answers_otherwise_fails_the_build(
    tiny_bert: Path, tmp_path: Path, rtx: Flavour, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = building.write_precision

    def wrong(model: Any, *arguments: Any) -> None:
        real(model, *arguments)
        for name, value in model.graph.initializers.items():
            if name.endswith("float16") and len(value.shape) == 2:
                value.const_value = ir.tensor(value.const_value.numpy() * np.float16(-1))

    monkeypatch.setattr(building, "write_precision", wrong)
    with pytest.raises(BuildError, match="does not answer like the original"):
        lepton_edge.build(tiny_bert, target="rtx", output=tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_inner_value_may_have_an_outputs_name(tmp_path: Path, rtx: Flavour) -> None:
    """As in every embedding model: torch names the result of its embeddings `embedding`."""
    folder = save_tiny("bert", tmp_path / "model", "AutoModel", num_hidden_layers=1)
    bundle = lepton_edge.build(
        folder, task="feature-extraction", target="rtx,jetson-orin", output=tmp_path
    )
    for artifact in bundle.manifest.artifacts:
        assert [spec.name for spec in artifact.compiled.outputs] == ["embedding"]
        assert artifact.parity.mean_cosine > 0.9999


@pytest.mark.parametrize("kind", ["float16", "large"])
def test_an_onnx_file_may_be_in_16_bits_or_have_its_weights_beside_it(
    build: Build, graph: Graph, original: TorchOriginal, tmp_path: Path, kind: str
) -> None:
    """As a large source is given to backends; a file in 16 bits becomes fp32 first."""
    model = onnx_export.onnx_from_graph(graph)
    file = tmp_path / "source.onnx"
    if kind == "float16":
        write_precision(model, "fp16")
        ir.save(model, file)
    else:
        ir.save(model, file, external_data="elsewhere.bin", size_threshold_bytes=0)
    given = feeds(3, 9)
    for precision in ("fp32", "auto"):
        artifact = build(
            made=dataclasses.replace(graph, program=None, onnx=file),
            target=ORIN,
            precision=precision,
        )
        assert {path.name for path in artifact[0].iterdir()} == {ONNX, PLAN}
        with proven(artifact) as session:
            found = session.infer(given)["logits"]
        np.testing.assert_allclose(found, original.run(given)["logits"], atol=4e-3)
        kinds = {each.data_type for each in onnx.load(artifact[0] / ONNX).graph.initializer}
        assert (onnx.TensorProto.FLOAT16 in kinds) == (precision == "auto")
