"""`build`: what it writes, what it refuses, and what is left when it does not end well."""

from __future__ import annotations

import getpass
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import lepton_edge
from lepton_edge import Recipe, TorchSource, builder
from lepton_edge.bundle import describe_files
from lepton_edge.bundle.manifest import FILE_NAME
from lepton_edge.errors import (
    BackendError,
    BuildError,
    BundleError,
    LeptonError,
    RecipeError,
    SourceError,
    StorageError,
)
from lepton_edge.recipe import Source
from lepton_edge.target import GIB, TARGETS, Target
from lepton_edge.testing import write_fake_distribution
from tests.builder.parts import TEXTS, left_behind, refused
from tests.core.disks import run_on_disk
from tests.tiny import LABELS, save_tiny, tokenizer

ROOT = Path(__file__).parents[2]
EPOCH = "1700000000"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go, to see that none stay."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


class Steps(list[str]):
    """A build's progress; ``stop_at`` is raised in the step of that number."""

    def __init__(self, stop_at: int | None = None, error: BaseException | None = None) -> None:
        self._stop_at = stop_at
        self._error = error

    def __call__(self, step: str) -> None:
        if len(self) == self._stop_at and self._error:
            raise self._error
        self.append(step)


def recipe_for(folder: Path, **changes: Any) -> Recipe:
    return Recipe(name="tiny", source=Source(path=str(folder)), **changes)


def in_process(code: str, *arguments: object, **environment: str) -> str:
    """What a fresh Python prints."""
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, **environment},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


# What a build tells, and writes.


def test_a_build_tells_its_steps(tiny_bert: Path, out: Path, scratch: Path) -> None:
    steps = Steps()
    bundle = lepton_edge.build(tiny_bert, output=out, progress=steps)
    assert steps == [
        "reading the model",
        "exporting the graph",
        "compiling for intel-cpu (auto)",
        "comparing intel-cpu (auto) with the original",
        "writing the manifest",
    ]
    assert bundle.path == out / "tiny-bert-1.0.0"
    assert left_behind(out) == ["tiny-bert-1.0.0"]
    assert left_behind(scratch) == []


def test_the_bundle_returned_is_the_one_on_disk(tiny_bert: Path, out: Path) -> None:
    bundle = lepton_edge.build(tiny_bert, output=out)
    assert lepton_edge.open_bundle(bundle.path) == bundle
    bundle.verify()


def test_the_recipe_is_in_the_manifest(tiny_bert: Path, out: Path) -> None:
    recipe = recipe_for(
        tiny_bert,
        version="2.1.0",
        description="three moods",
        license="Apache-2.0",
        task="text-classification",
        task_options={"labels": ["bad", "so-so", "good"], "multi_label": True, "threshold": 0.25},
        precision="bf16",
        text={"max_length": 16, "on_long_text": "refuse", "max_characters": 99},
        backends={"openvino": {"performance_hint": "throughput", "threads": 1}},
        parity={"sample": ["the card", "my bank"], "equal_labels": 0},
    )
    manifest = lepton_edge.build(recipe, output=out).manifest
    assert (manifest.name, manifest.version) == ("tiny", "2.1.0")
    assert (manifest.description, manifest.license) == ("three moods", "Apache-2.0")
    assert manifest.task_config == {
        "labels": ["bad", "so-so", "good"],
        "multi_label": True,
        "threshold": 0.25,
    }
    text = manifest.text
    assert (text.max_length, text.on_long_text, text.max_characters) == (16, "refuse", 99)
    (artifact,) = manifest.artifacts
    assert artifact.parity.texts == 2
    assert artifact.compiled.settings == {
        "compute": "bf16",
        "performance_hint": "throughput",
        "threads": 1,
    }


@pytest.mark.parametrize(
    ("precision", "weights"),
    [("fp32", "fp32"), ("fp16", "fp16"), ("auto", "fp16")],
)
def test_precision_is_of_the_stored_weights(
    tiny_bert: Path, out: Path, precision: Any, weights: str
) -> None:
    recipe = recipe_for(tiny_bert, precision=precision, parity={"equal_labels": 0})
    bundle = lepton_edge.build(recipe, output=out)
    (artifact,) = bundle.manifest.artifacts
    assert artifact.compiled.precision == weights
    size = bundle.manifest.files["artifacts/intel-cpu/model.bin"].size
    original = (tiny_bert / "model.safetensors").stat().st_size
    assert 0.8 < size / original * (2 if weights == "fp16" else 1) < 1.2


def test_several_targets_share_one_bundle(
    tiny_bert: Path, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made from one export; the device that opens it may choose."""
    points_to = "tests.builder.crooked:Crooked"  # which bends nothing
    write_fake_distribution(tmp_path / "plugins", backend="crooked", points_to=points_to)
    monkeypatch.syspath_prepend(str(tmp_path / "plugins"))
    other = Target("other", "crooked", "CPU", "none", GIB, "for tests")
    monkeypatch.setitem(TARGETS, "other", other)
    steps = Steps()
    bundle = lepton_edge.build(
        tiny_bert, output=out, target="other, intel-cpu,other", progress=steps
    )
    assert [artifact.target for artifact in bundle.manifest.artifacts] == ["other", "intel-cpu"]
    assert steps.count("exporting the graph") == 1
    for target, opened in (("other", "_Bent"), ("intel-cpu", "OpenVINOSession"), (None, "_Bent")):
        with lepton_edge.load(bundle.path, device=target) as model:
            assert type(model.session).__name__ == opened
            assert len(model(list(TEXTS))) == len(TEXTS)


def test_the_manifest_tells_nothing_of_the_machine(tmp_path: Path, tiny_bert: Path) -> None:
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "private" / "model"))
    bundle = lepton_edge.build(folder, output=tmp_path / "elsewhere")
    files = [path for path in bundle.path.rglob("*") if path.is_file()]
    assert len(files) == 4
    for path in files:
        data = path.read_bytes()
        for secret in (tmp_path, ROOT, Path.home(), Path(tempfile.gettempdir()), sys.prefix):
            assert os.fsencode(secret) + b"/" not in data, f"{path} names {secret}"
    words = set(re.findall(r"[\w.-]+", (bundle.path / FILE_NAME).read_text()))
    assert not words & {socket.gethostname(), getpass.getuser()}
    assert bundle.manifest.source.name == "model"


# The same inputs, the same bytes.


class Recurrent(torch.nn.Module):
    """A recurrent classifier."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = torch.nn.Embedding(64, 16)
        self.layer = torch.nn.LSTM(16, 24, batch_first=True, bidirectional=True)
        self.linear = torch.nn.Linear(48, 3)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.linear(self.layer(self.embedding(input_ids))[0][:, -1])
        return logits


def from_folder(folder: Path, output: Path) -> None:
    lepton_edge.build(folder / "model", output=output)


def from_sliding_window(folder: Path, output: Path) -> None:
    if not (folder / "window").exists():
        save_tiny("modernbert", folder / "window", "AutoModel", num_hidden_layers=2)
    lepton_edge.build(folder / "window", output=output)


def from_module(folder: Path, output: Path) -> None:
    source = TorchSource(
        Recurrent(), tokenizer().backend_tokenizer, "text-classification", LABELS, ("input_ids",)
    )
    lepton_edge.build(source, recipe=Recipe(name="model"), output=output)


def from_onnx(folder: Path, output: Path) -> None:
    from tests.builder.test_onnx import bag

    file = bag(folder / "onnx", output="token_vectors")
    lepton_edge.build(file, output=output, task="feature-extraction")


BUILDS = (from_folder, from_sliding_window, from_module, from_onnx)
ELSEWHERE = """
import sys
from pathlib import Path

import torch

from tests.builder.test_build import BUILDS

torch.set_num_threads(2)
for build in BUILDS:
    build(Path(sys.argv[1]), Path(sys.argv[2]) / build.__name__)
"""


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """What another process, with another hash seed and more threads, built of a copy."""
    folder = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(tiny_bert, folder / "model")
    in_process(ELSEWHERE, folder, folder / "out", PYTHONHASHSEED="7", SOURCE_DATE_EPOCH=EPOCH)
    return folder / "out"


@pytest.mark.parametrize("build", BUILDS)
def test_builds_of_the_same_give_the_same_bytes(
    tmp_path: Path,
    tiny_bert: Path,
    elsewhere: Path,
    monkeypatch: pytest.MonkeyPatch,
    build: Callable[[Path, Path], None],
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", EPOCH)
    shutil.copytree(tiny_bert, tmp_path / "model")
    build(tmp_path, tmp_path / "one")
    build(tmp_path, tmp_path / "two")
    first = describe_files(tmp_path / "one")
    assert len(first) == 4
    assert describe_files(tmp_path / "two") == first
    assert describe_files(elsewhere / build.__name__) == first


def test_the_time_of_the_build_is_what_source_date_epoch_says(
    tiny_bert: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", EPOCH)
    assert lepton_edge.build(tiny_bert, output=out).manifest.created == "2023-11-14T22:13:20Z"


def test_without_it_manifests_differ_in_the_time_alone(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    manifests = []
    for name in ("one", "two"):
        bundle = lepton_edge.build(tiny_bert, output=tmp_path / name)
        manifests.append(json.loads((bundle.path / FILE_NAME).read_text()))
    for manifest in manifests:
        created = datetime.strptime(manifest.pop("created"), "%Y-%m-%dT%H:%M:%SZ")
        age = datetime.now(timezone.utc) - created.replace(tzinfo=timezone.utc)
        assert timedelta(seconds=-2) < age < timedelta(minutes=10)
    assert manifests[0] == manifests[1]


@pytest.mark.parametrize("stamp", ["soon", "", "1.5", "99999999999999999999"])
def test_an_invalid_source_date_epoch_is_refused_at_once(
    tiny_bert: Path, out: Path, monkeypatch: pytest.MonkeyPatch, stamp: str
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", stamp)
    steps = Steps()
    error = refused(BuildError, tiny_bert, out, progress=steps)
    assert f"SOURCE_DATE_EPOCH is {stamp!r}" in error.message
    assert "seconds since 1970" in error.message
    assert steps == []


# Where it goes.


def test_paths_may_be_relative(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_bert, tmp_path / "model")
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mine.yaml").write_text("name: mine\nsource: ../model\n")
    monkeypatch.chdir(tmp_path)
    bundle = lepton_edge.build("model", output="out")
    assert bundle.path == Path("out/model-1.0.0")
    assert lepton_edge.build("recipes/mine.yaml").path == Path("bundles/mine-1.0.0")
    assert lepton_edge.build("./model/", output=".").path == Path("model-1.0.0")
    with lepton_edge.load(bundle.path) as model:
        assert len(model(list(TEXTS))) == len(TEXTS)


def test_paths_may_have_any_characters(tiny_bert: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(tiny_bert, tmp_path / "it's 100 % 模型 «Ü»"))
    bundle = lepton_edge.build(source, output=tmp_path / "å b\n'c'")
    assert bundle.path == tmp_path / "å b\n'c'" / "it-s-100-1.0.0"
    with lepton_edge.load(bundle.path) as model:
        assert len(model(list(TEXTS))) == len(TEXTS)


@given(st.text(min_size=1, max_size=80))
@settings(deadline=None, max_examples=200)
@example("模型")
@example(".Hidden_Model.v2")
@example("x" * 100)
def test_any_folders_name_makes_a_name(folder: str) -> None:
    assert Recipe(name=builder._slug(folder)).name


def test_an_existing_bundle_is_refused_before_the_work(tiny_bert: Path, out: Path) -> None:
    bundle = lepton_edge.build(tiny_bert, output=out)
    before = describe_files(out)
    steps = Steps()
    with pytest.raises(StorageError, match="already exists") as caught:
        lepton_edge.build(tiny_bert, output=out, progress=steps)
    assert str(bundle.path) in caught.value.message
    assert "--force" in str(caught.value.hint)
    assert steps == []
    assert describe_files(out) == before


def test_force_replaces_it(tiny_bert: Path, out: Path) -> None:
    lepton_edge.build(recipe_for(tiny_bert, description="old"), output=out)
    (out / "tiny-1.0.0" / "note.txt").write_text("not part of the bundle")
    lepton_edge.build(recipe_for(tiny_bert, description="new"), output=out, force=True)
    assert left_behind(out) == ["tiny-1.0.0"]
    bundle = lepton_edge.open_bundle(out / "tiny-1.0.0")
    assert bundle.manifest.description == "new"
    bundle.verify()


def test_an_output_that_is_a_file_is_refused(tiny_bert: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="file"):
        lepton_edge.build(tiny_bert, output=tmp_path / "file")
    assert (tmp_path / "file").read_text() == "in the way"


# What cannot be built.


@pytest.mark.parametrize(
    ("options", "kind", "message", "hint"),
    [
        ({"target": "jetsen"}, RecipeError, "unknown target 'jetsen'", "did you mean jetson?"),
        ({"target": " , "}, RecipeError, "no target given", "lepton-edge targets"),
        (
            {"target": "jetson"},
            BackendError,
            "the backend 'tensorrt' is not installed",
            "pip install 'lepton-edge[tensorrt]'",
        ),
        ({"target": "intel-cpu,jetson"}, BackendError, "'tensorrt' is not installed", "tensorrt"),
        ({"task": "summarisation"}, RecipeError, "unknown 'summarisation'", "recipes --schema"),
        ({"precision": "int3"}, RecipeError, "precision is 'int3'", "recipes --schema"),
        ({"revision": "main"}, RecipeError, "the revision 'main' goes with a hub model", "leave"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_wrong_options_are_refused_before_the_work(
    without_tensorrt: None,
    tiny_bert: Path,
    out: Path,
    options: dict[str, Any],
    kind: type[LeptonError],
    message: str,
    hint: str,
) -> None:
    steps = Steps()
    error = refused(kind, tiny_bert, out, progress=steps, **options)
    assert message in error.message
    assert hint in str(error.hint)
    assert steps == []


@pytest.mark.parametrize(
    "block",
    [{"performance_hint": "fastest"}, {"thread": 1}, {"threads": "two"}],
    ids=str,
)
def test_wrong_backend_options_are_refused_before_the_work(
    tiny_bert: Path, out: Path, block: dict[str, Any]
) -> None:
    steps = Steps()
    recipe = recipe_for(tiny_bert, backends={"openvino": block})
    error = refused(RecipeError, recipe, out, progress=steps)
    assert f"backends.openvino.{next(iter(block))}" in error.message
    assert steps == []


def test_wrong_task_options_are_refused(tiny_bert: Path, out: Path) -> None:
    recipe = recipe_for(tiny_bert, task="text-classification", task_options={"pooling": "mean"})
    error = refused(RecipeError, recipe, out)
    assert "task_options.pooling" in error.message


@pytest.mark.parametrize("source", ["no-such-thing", "models/none", "a/b/c", "", "https://x/y"])
def test_a_source_that_is_nothing_lists_the_recipes(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    error = refused(SourceError, source, out)
    assert f"{source!r} is no recipe, model folder, ONNX file or hub id" in error.message
    assert "demo-intents" in str(error.hint)


def test_a_missing_recipe_is_named(out: Path, tmp_path: Path) -> None:
    error = refused(RecipeError, tmp_path / "none.yaml", out)
    assert f"there is no recipe at {tmp_path / 'none.yaml'}" in error.message


def test_a_recipe_without_source_is_refused(out: Path) -> None:
    error = refused(RecipeError, Recipe(name="empty"), out)
    assert "the recipe empty names no source" in error.message


def test_without_the_extra_the_command_is_named(
    tiny_bert: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builder.find_spec
    gone = {"onnx", "transformers"}
    monkeypatch.setattr(builder, "find_spec", lambda name: None if name in gone else real(name))
    error = refused(BuildError, tiny_bert, out)
    assert error.message == "building needs transformers, onnx, not installed here"
    assert error.hint == "pip install 'lepton-edge[build]'"


# Builds that do not end well.


@pytest.mark.parametrize(
    ("step", "error"),
    [*((step, KeyboardInterrupt()) for step in range(5)), (3, ZeroDivisionError("in a step"))],
    ids=repr,
)
def test_whatever_ends_a_build_early_leaves_nothing(
    tiny_bert: Path, out: Path, scratch: Path, step: int, error: BaseException
) -> None:
    with pytest.raises(type(error)):
        lepton_edge.build(tiny_bert, output=out, progress=Steps(step, error))
    assert left_behind(out) == []
    assert left_behind(scratch) == []


KILLED = """
import os, signal, sys
from pathlib import Path

from lepton_edge import builder
from lepton_edge.builder import huggingface, torch_model
import openvino, torch, transformers

model, out = sys.argv[1:]
torch.set_num_threads(1)  # threads do not survive a fork
# Done once, so that the forks need not: the first export imports for seconds.
torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(2, 2),), strict=False)
transformers.AutoModelForSequenceClassification, transformers.BertForSequenceClassification


def killed(moment, output):
    def die(*args, **options):
        os.kill(os.getpid(), signal.SIGKILL)

    def progress(step):
        if step.startswith(moment):
            die()

    if moment == "before the name":
        os.rename = die
    elif moment == "after the name":
        rename = os.rename
        os.rename = lambda *names: (rename(*names), die())
    elif moment == "files on disk":
        os.fsync = die
    elif moment == "half an artifact":
        save = openvino.save_model

        def half(model, path, **options):
            save(model, path, **options)
            weights = Path(path).with_suffix(".bin")
            os.truncate(weights, weights.stat().st_size // 2)
            die()

        openvino.save_model = half
    builder.build(model, output=output, progress=progress, force=True)


for moment in sys.stdin.read().splitlines():
    child = os.fork()
    if not child:
        killed(moment.partition("/")[2], Path(out) / moment)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(moment, os.waitstatus_to_exitcode(status), sep=":")
"""
NEW = ("exporting", "half an artifact", "files on disk", "before the name")
REPLACING = ("compiling", "half an artifact", "before the name", "after the name")


def test_a_killed_build_leaves_nothing_that_loads(tiny_bert: Path, tmp_path: Path) -> None:
    """Killed outright, at several moments: there is then no bundle, or a whole one."""
    out = tmp_path / "out"
    name = "tiny-bert-1.0.0"
    recipe = Recipe(name="tiny-bert", source=Source(path=str(tiny_bert)), description="old")
    old = lepton_edge.build(recipe, output=tmp_path / "before")
    for moment in REPLACING:
        shutil.copytree(old.path, out / "replacing" / moment / name)
    moments = [f"new/{moment}" for moment in NEW] + [f"replacing/{moment}" for moment in REPLACING]
    result = subprocess.run(
        [sys.executable, "-c", KILLED, str(tiny_bert), str(out)],
        input="\n".join(moments),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert result.stdout.splitlines() == [f"{m}:{-signal.SIGKILL}" for m in moments], result.stderr
    for moment in moments:
        loadable = {f.name: _description(f) for f in (out / moment).glob("*") if _loads(f)}
        if moment == "replacing/after the name":
            assert loadable == {name: ""}
        elif moment.startswith("replacing") and not moment.endswith("before the name"):
            assert loadable == {name: "old"}, moment
        else:
            assert loadable == {}, moment


def _loads(folder: Path) -> bool:
    try:
        lepton_edge.load(folder).close()
    except BundleError:
        return False
    return True


def _description(folder: Path) -> str:
    bundle = lepton_edge.open_bundle(folder)
    bundle.verify()
    return bundle.manifest.description


FULL = """
import json, shutil, sys
from pathlib import Path

import lepton_edge

disk, model = map(Path, sys.argv[1:])
whole = lepton_edge.build(model, output=disk / "whole").size
found = []
for share in (0, 0.02, 0.4, 0.9):
    filler = disk / "filler"
    filler.write_bytes(bytes(int(shutil.disk_usage(disk).free - whole * share)))
    try:
        lepton_edge.build(model, output=disk / "out")
        error = None
    except lepton_edge.LeptonError as caught:
        error = [type(caught).__name__, caught.message, caught.hint]
    left = [str(path.relative_to(disk)) for path in (disk / "out").rglob("*")]
    filler.unlink()
    found.append([error, left])
lepton_edge.build(model, output=disk / "out").verify()
print(json.dumps(found))
"""


def test_a_full_disk_is_told_and_nothing_stays(tiny_bert: Path, tmp_path: Path) -> None:
    """At every part of the build: the first file, the graph, the weights, the manifest."""
    disk = tmp_path / "disk"
    disk.mkdir()
    for error, left in json.loads(run_on_disk(disk, FULL, tiny_bert)):
        kind, message, hint = error
        assert kind == "StorageError", message
        assert f"the disk is full: {disk / 'out' / 'tiny-bert-1.0.0'}" in message
        assert "MiB free" in message
        assert "free some space" in hint
        assert left == []
