"""lepton-edge bench --compare: a bundle beside the model that it was built from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import lepton_edge
from lepton_edge import BenchSettings, TorchSource
from lepton_edge.benchmark.report import Report
from lepton_edge.bundle import Bundle
from lepton_edge.errors import InputError, SourceError
from tests.core.parts import invoke
from tests.tiny import LABELS, save_tiny, tokenizer

SHORT = BenchSettings(batches=(2,), lengths=(8,), rounds=2, seconds=0.01, starts=0)
OPTIONS = ("--batch", 2, "--length", 8, "--rounds", 2, "--seconds", 0.01, "--starts", 0)
TORCH, ONNX = ["torch fp32", "torch bf16"], ["ONNX Runtime fp32"]


@pytest.fixture(scope="module")
def bundle(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return lepton_edge.build(tiny_bert, output=tmp_path_factory.mktemp("bundles"))


def ways(report: Report) -> list[str]:
    (case,) = report.cases
    return [each.name for each in case.others]


def test_the_original_runs_beside_the_bundle(
    bundle: Bundle, tiny_bert: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    result = invoke(
        *("bench", bundle.path, *OPTIONS, "--compare", "torch,onnxruntime"),
        *("--original", tiny_bert, "--html", page),
    )
    assert result.exit_code == 0
    start = result.stdout.index(f"times as fast as the original ({tiny_bert}):")
    header, row = result.stdout[start:].splitlines()[1:3]
    assert header.split("  ")[-1].strip() == "ONNX Runtime fp32"
    assert row.count("x (") == 3
    assert "exporting the original …" in result.stderr
    assert "Beside torch bf16" in page.read_text()


def test_every_round_has_a_ratio(bundle: Bundle, tiny_bert: Path) -> None:
    threads = torch.get_num_threads()
    report = lepton_edge.bench(bundle.path, SHORT, compare=["torch"], original=tiny_bert)
    assert ways(report) == TORCH
    (case,) = report.cases
    for other in case.others:
        assert len(other.ratios) == len(other.rounds) == 2
        for ours, theirs, ratio in zip(case.ours.rounds, other.rounds, other.ratios, strict=True):
            assert ratio == pytest.approx(ours / theirs, rel=1e-3)  # both are texts a second
        assert other.ratio is not None
        assert other.ratio.low <= other.ratio.median <= other.ratio.high
    assert report.original == str(tiny_bert)
    assert report.versions["torch"] == torch.__version__
    assert torch.get_num_threads() == threads


def test_another_model_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    other = save_tiny("bert", tmp_path / "other", num_hidden_layers=1, intermediate_size=32)
    result = invoke("bench", bundle.path, "--compare", "torch", "--original", other)
    assert result.exit_code == 1
    assert f"{other} is not the model that tiny-bert 1.0.0 was built from" in result.stderr
    assert bundle.manifest.source.sha256 in result.stderr
    assert "fresh process" not in result.stderr, "it was refused before anything was measured"
    nowhere = invoke("bench", bundle.path, "--compare", "torch", "--original", "/nowhere")
    assert "there is no model folder at /nowhere" in nowhere.stderr


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # torch's own, in its exporter
def test_an_onnx_file_runs_in_onnx_runtime_alone(
    tiny_bert: Path, tmp_path: Path, bundle: Bundle
) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    file = _as_onnx(tiny_bert, folder)
    made = lepton_edge.build(file, output=tmp_path / "bundles", task="text-classification")
    with pytest.raises(InputError, match="torch cannot run the original") as caught:
        lepton_edge.bench(made.path, SHORT, compare=["torch"], original=file)
    assert caught.value.hint == "--compare onnxruntime"
    report = lepton_edge.bench(made.path, SHORT, compare=["onnxruntime"], original=file)
    assert ways(report) == ONNX
    other = folder / "other.onnx"
    other.write_bytes(file.read_bytes() + b"\x12\x01x")  # a producer's name at the end
    with pytest.raises(SourceError, match="is not the model that"):
        lepton_edge.bench(made.path, SHORT, compare=["onnxruntime"], original=other)


def _as_onnx(model: Path, folder: Path) -> Path:
    from transformers import AutoModelForSequenceClassification

    original = AutoModelForSequenceClassification.from_pretrained(model).eval()
    example = tuple(torch.ones(2, 9, dtype=torch.long) for _ in range(2))
    file = folder / "model.onnx"
    names = ["input_ids", "attention_mask"]
    axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    torch.onnx.export(
        *(original, example, str(file)),
        dynamo=True,
        input_names=names,
        output_names=["logits"],
        dynamic_shapes=dict.fromkeys(names, axes),
        external_data=False,
        verbose=False,
    )
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((model / name).read_bytes())
    return file


def test_a_torch_module_is_compared_in_python(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.EmbeddingBag(64, 16, mode="mean"), torch.nn.Linear(16, 3))
    source = TorchSource(
        module, tokenizer()._tokenizer, "text-classification", LABELS, inputs=("input_ids",)
    )
    recipe = lepton_edge.Recipe(name="bag")
    made = lepton_edge.build(source, recipe=recipe, output=tmp_path)
    report = lepton_edge.bench(made.path, SHORT, compare=["torch"], original=source)
    assert ways(report) == TORCH
    assert report.original == "a torch module, Sequential"


@pytest.mark.parametrize(
    ("task", "head"),
    [
        ("feature-extraction", "AutoModel"),
        ("question-answering", "AutoModelForQuestionAnswering"),
    ],
)
def test_other_tasks_are_compared_too(task: str, head: str, tmp_path: Path) -> None:
    model = save_tiny("bert", tmp_path / "model", head, num_hidden_layers=1)
    made = lepton_edge.build(model, output=tmp_path / "bundles", task=task)
    report = lepton_edge.bench(made.path, SHORT, compare=["torch"], original=model)
    assert ways(report) == TORCH
    (case,) = report.cases
    # A question comes on top of its context.
    assert (case.tokens > 8) is (task == "question-answering")
