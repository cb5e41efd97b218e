"""Opening a bundle: what is chosen, what is verified first, and what each fault says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lepton_edge import LeptonError, load, registry
from lepton_edge.bundle import TOKENIZER, Bundle, describe_files
from lepton_edge.bundle import hashing as hashes
from lepton_edge.bundle.archive import pack
from lepton_edge.bundle.hashing import digest_of
from lepton_edge.bundle.manifest import File
from lepton_edge.errors import BackendError, BundleError, IntegrityError, SchemaError
from lepton_edge.runtime.choice import candidates
from lepton_edge.testing import FakeBackend, FakeSession, write_fake_distribution
from tests.core.parts import flip_byte, rewrite

Bundles = Callable[..., Bundle]
ARTIFACT = "artifacts/fake/fake.json"


def _with_second_artifact(bundle: Bundle, target: str = "rtx", backend: str = "fake") -> Bundle:
    """The bundle with an artifact of another seed for another target, so answers differ."""
    folder = bundle.path / "artifacts" / "second"
    folder.mkdir()
    (folder / "fake.json").write_text('{"seed": 5}', encoding="utf-8")
    files = describe_files(bundle.path)
    del files["manifest.json"]
    first = bundle.manifest.artifacts[0]
    own = {name: file for name, file in files.items() if name.startswith("artifacts/second/")}
    second = msgspec.structs.replace(
        first,
        target=target,
        backend=backend,
        directory="artifacts/second",
        sha256=digest_of(own),
    )
    return rewrite(bundle, artifacts=(first, second), files=files)


def _fault(kind: type[LeptonError], *arguments: Any, **options: Any) -> LeptonError:
    with pytest.raises(kind) as caught:
        load(*arguments, **options)
    return caught.value


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were hashed, in order."""
    names: list[str] = []
    real = hashes.sha256

    def spy(path: Path, *more: Any) -> str:
        names.append(path.name)
        return real(path, *more)

    monkeypatch.setattr(hashes, "sha256", spy)
    return names


def test_a_path_may_be_a_string(fake_bundle: Bundles) -> None:
    with load(str(fake_bundle().path)) as model:
        assert model("w1").label in ("a", "b", "c")


def test_a_missing_path_says_how_bundles_are_made(tmp_path: Path) -> None:
    error = _fault(BundleError, tmp_path / "nowhere")
    assert error.message == f"there is no bundle at {tmp_path / 'nowhere'}"
    assert "lepton-edge build" in str(error.hint)


def test_a_folder_that_is_no_bundle_says_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    error = _fault(BundleError, tmp_path)
    assert error.message == f"{tmp_path} is not a bundle: it has no manifest.json"
    assert "lepton-edge build" in str(error.hint)


def test_the_folder_above_a_bundle_points_to_it(fake_bundle: Bundles) -> None:
    bundle = fake_bundle("my-bundle")
    error = _fault(BundleError, bundle.path.parent)
    assert error.hint == f"did you mean {bundle.path}?"


def test_a_file_in_place_of_a_folder_is_no_bundle(fake_bundle: Bundles) -> None:
    bundle = fake_bundle()
    error = _fault(BundleError, bundle.path / "manifest.json")
    assert "is not a bundle" in error.message


def test_a_packed_bundle_says_how_to_unpack_it(fake_bundle: Bundles, tmp_path: Path) -> None:
    archive = pack(fake_bundle().path, tmp_path / "one.lepton")
    error = _fault(BundleError, archive)
    assert error.message == f"{archive} is packed"
    assert error.hint == f"lepton-edge unpack {archive}"


def test_a_newer_schema_says_to_upgrade(fake_bundle: Bundles) -> None:
    bundle = fake_bundle()
    file = bundle.path / "manifest.json"
    file.write_text(file.read_text().replace('"schema": 1', '"schema": 99', 1))
    error = _fault(SchemaError, bundle.path)
    assert "has schema 99; this lepton-edge reads up to 1" in error.message
    assert error.hint == "pip install --upgrade lepton-edge"


def test_an_unknown_task_names_those_there_are(fake_bundle: Bundles) -> None:
    bundle = rewrite(fake_bundle(), task="image-classification")
    error = _fault(BundleError, bundle.path)
    assert "no task 'image-classification'; it has text-classification, " in error.message
    assert error.hint == "pip install --upgrade lepton-edge"


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({"labels": ["a", "b", "c"]}, "multi_label"),
        ({"labels": "abc", "multi_label": False, "threshold": 0.5}, "labels"),
        ({"labels": ["a"], "multi_label": "no", "threshold": 0.5}, "multi_label"),
        ({"pooling": "mean", "normalize": True}, "labels"),
    ],
)
def test_a_task_config_that_does_not_fit_names_the_field(
    fake_bundle: Bundles, config: dict[str, Any], fault: str
) -> None:
    bundle = rewrite(fake_bundle(), task_config=config)
    error = _fault(BundleError, bundle.path)
    assert "the manifest's task_config does not fit text-classification" in error.message
    assert fault in error.message
    assert error.hint == "build or copy the bundle again"


def test_a_bundle_without_artifacts_is_refused(fake_bundle: Bundles) -> None:
    error = _fault(BundleError, rewrite(fake_bundle(), artifacts=()).path)
    assert "has no artifact" in error.message


@pytest.mark.parametrize("kept", [TOKENIZER, ARTIFACT])
def test_files_that_the_manifest_must_list_are_missed(fake_bundle: Bundles, kept: str) -> None:
    """The manifest's list is what gets verified: nothing that it leaves out is opened."""
    bundle = fake_bundle()
    bundle = rewrite(bundle, files={kept: bundle.manifest.files[kept]})
    error = _fault(BundleError, bundle.path)
    assert error.message == f"{bundle.path} lists no files for intel-cpu"


def test_an_artifact_folder_of_a_like_name_does_not_count(fake_bundle: Bundles) -> None:
    bundle = fake_bundle()
    artifact = msgspec.structs.replace(bundle.manifest.artifacts[0], directory="artifacts/fak")
    assert (
        "lists no files" in _fault(BundleError, rewrite(bundle, artifacts=(artifact,)).path).message
    )


@pytest.fixture
def only_fake(fake_backend: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that has none of our backends."""
    entries = registry.entries
    monkeypatch.setattr(
        registry, "entries", lambda: tuple(each for each in entries() if each.name == "fake")
    )


@pytest.mark.parametrize("backend", ["openvino", "tensorrt"])
def test_a_backend_that_is_not_installed_says_how_to_install_it(
    fake_bundle: Bundles, only_fake: None, backend: str
) -> None:
    bundle = fake_bundle()
    artifact = msgspec.structs.replace(bundle.manifest.artifacts[0], backend=backend)
    error = _fault(BackendError, rewrite(bundle, artifacts=(artifact,)).path)
    assert f"the backend '{backend}' is not installed (installed: fake)" in error.message
    assert f"pip install 'lepton-edge[{backend}]'" in error.message
    assert error.hint == "lepton-edge doctor shows what this machine has"


def test_a_backend_of_strangers_has_no_made_up_command(fake_bundle: Bundles) -> None:
    bundle = fake_bundle()
    artifact = msgspec.structs.replace(bundle.manifest.artifacts[0], backend="acme")
    error = _fault(BackendError, rewrite(bundle, artifacts=(artifact,)).path)
    assert "the backend 'acme' is not installed" in error.message
    assert "pip install" not in str(error)


@pytest.mark.parametrize(
    ("points_to", "reason"),
    [
        ("lepton_edge_no_such_module:Backend", "ModuleNotFoundError"),
        ("lepton_edge.testing:NoSuchClass", "AttributeError"),
        ("lepton_edge.backend:Backend", "TypeError"),
    ],
)
def test_a_backend_that_does_not_import_gives_the_reason(
    fake_bundle: Bundles, fake_backend: Path, points_to: str, reason: str
) -> None:
    write_fake_distribution(fake_backend, backend="broken", points_to=points_to)
    bundle = fake_bundle()
    artifact = msgspec.structs.replace(bundle.manifest.artifacts[0], backend="broken")
    error = _fault(BackendError, rewrite(bundle, artifacts=(artifact,)).path)
    assert "the backend 'broken' (lepton-edge-broken 1.0) cannot be imported" in error.message
    assert reason in error.message
    assert "pip install --force-reinstall lepton-edge-broken" in error.message


def test_every_artifact_that_failed_gives_its_reason(fake_bundle: Bundles, only_fake: None) -> None:
    bundle = _with_second_artifact(fake_bundle(), "rtx", "tensorrt")
    error = _fault(BackendError, bundle.path, "NPU")
    assert f"{bundle.path} cannot be opened on this machine" in error.message
    assert "intel-cpu (fake): the fake backend has no device 'NPU'" in error.message
    assert "rtx (tensorrt): the backend 'tensorrt' is not installed" in error.message


def test_the_first_artifact_that_opens_is_used(fake_bundle: Bundles) -> None:
    bundle = _with_second_artifact(fake_bundle())
    first = bundle.manifest.artifacts[0]
    missing = msgspec.structs.replace(first, target="jetson-orin", backend="tensorrt")
    bundle = rewrite(bundle, artifacts=(missing, *bundle.manifest.artifacts))
    with load(bundle.path) as model, load(bundle.path, "intel-cpu") as named:
        assert model("w1") == named("w1")


def test_a_target_chooses_its_artifact(fake_bundle: Bundles) -> None:
    bundle = _with_second_artifact(fake_bundle())
    with load(bundle.path, "intel-cpu") as first, load(bundle.path, "rtx") as second:
        assert first("w1") != second("w1")


def test_a_device_of_the_backend_is_passed_on(fake_bundle: Bundles) -> None:
    with load(fake_bundle().path, "FAKE") as model:
        assert model.session.device == "FAKE"


def test_a_device_that_is_not_there_gives_the_backends_reason(fake_bundle: Bundles) -> None:
    error = _fault(BackendError, fake_bundle().path, "NPU")
    assert "intel-cpu (fake): the fake backend has no device 'NPU'\n  use FAKE" in error.message


@pytest.mark.parametrize("name", [TOKENIZER, ARTIFACT])
def test_a_flipped_bit_is_found_before_any_parser_reads_it(
    fake_bundle: Bundles, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parser(*_: Any) -> None:
        raise AssertionError("a file was parsed before it was verified")

    bundle = fake_bundle()
    flip_byte(bundle.path / name)
    monkeypatch.setattr(FakeBackend, "load", parser)
    monkeypatch.setattr("lepton_edge.runtime.TextEncoder", parser)
    error = _fault(IntegrityError, bundle.path)
    assert error.message.startswith(f"{name} has SHA-256 ")
    assert bundle.manifest.files[name].sha256 in error.message
    assert "copy or build the bundle again" in str(error.hint)


@pytest.mark.parametrize("name", [TOKENIZER, ARTIFACT])
def test_a_file_cut_short_or_gone_is_an_integrity_error(fake_bundle: Bundles, name: str) -> None:
    bundle = fake_bundle()
    file = bundle.path / name
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:-3])
    error = _fault(IntegrityError, bundle.path)
    assert error.message == f"{name} has {size - 3:,} bytes; the manifest says {size:,}"
    file.unlink()
    assert _fault(IntegrityError, bundle.path).message == f"{name} is missing from the bundle"
    file.symlink_to("/etc/hostname")
    assert _fault(IntegrityError, bundle.path).message == f"{name} is not a regular file"
    file.unlink()
    file.mkdir()
    assert _fault(IntegrityError, bundle.path).message == f"{name} is not a regular file"


def test_damage_is_not_passed_over_for_another_artifact(fake_bundle: Bundles) -> None:
    """A damaged file may be an attack: it is never a reason to try the next artifact quietly."""
    bundle = _with_second_artifact(fake_bundle())
    flip_byte(bundle.path / ARTIFACT)
    assert _fault(IntegrityError, bundle.path).message.startswith(ARTIFACT)


def test_only_the_files_that_will_be_read_are_hashed(
    fake_bundle: Bundles, hashed: list[str]
) -> None:
    bundle = _with_second_artifact(fake_bundle())
    flip_byte(bundle.path / "artifacts" / "second" / "fake.json")
    hashed.clear()
    load(bundle.path).close()
    assert sorted(hashed) == ["fake.json", "tokenizer.json"]
    error = _fault(IntegrityError, bundle.path, "rtx")
    assert error.message.startswith("artifacts/second/fake.json has SHA-256")


def test_files_are_hashed_once_and_each_time_when_told(
    fake_bundle: Bundles, hashed: list[str]
) -> None:
    bundle = fake_bundle()
    hashed.clear()
    load(bundle.path).close()
    assert sorted(hashed) == ["fake.json", "tokenizer.json"]
    load(bundle.path).close()
    assert len(hashed) == 2
    load(bundle.path, verify="always").close()
    assert len(hashed) == 4


def test_a_change_after_the_first_load_is_found(fake_bundle: Bundles) -> None:
    bundle = fake_bundle()
    load(bundle.path).close()
    flip_byte(bundle.path / ARTIFACT)
    assert _fault(IntegrityError, bundle.path).message.startswith(ARTIFACT)


def test_a_file_that_the_manifest_does_not_list_is_left_alone(fake_bundle: Bundles) -> None:
    """Loading opens the listed files only; `verify` is what finds others."""
    bundle = fake_bundle()
    (bundle.path / "notes.txt").write_text("mine")
    load(bundle.path).close()
    with pytest.raises(IntegrityError, match=r"does not list: notes\.txt"):
        bundle.verify()


def test_a_listed_file_that_is_not_needed_may_be_gone(fake_bundle: Bundles) -> None:
    bundle = fake_bundle()
    files = {**bundle.manifest.files, "report.json": File(3, "0" * 64)}
    load(rewrite(bundle, files=files).path).close()


def test_a_tokenizer_that_cannot_be_parsed_closes_the_session(
    fake_bundle: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[FakeSession] = []

    def close(session: FakeSession) -> None:
        closed.append(session)

    monkeypatch.setattr(FakeSession, "close", close)
    bundle = fake_bundle()
    (bundle.path / TOKENIZER).write_text("{}")
    files = describe_files(bundle.path)
    del files["manifest.json"]
    error = _fault(BundleError, rewrite(bundle, files=files).path)
    assert "is not a tokenizer that can be read" in error.message
    assert len(closed) == 1


def test_a_cache_that_cannot_be_written_is_no_fault(
    fake_bundle: Bundles, cache: Path, hashed: list[str]
) -> None:
    bundle = fake_bundle()
    (cache / "lepton-edge").write_text("a file in the way")
    hashed.clear()
    for _ in range(2):
        load(bundle.path).close()
    assert len(hashed) == 4


def _calls(bundle: Bundle, **options: Any) -> int:
    with load(bundle.path, **options) as model:
        assert isinstance(model.session, FakeSession)
        return len(model.session.calls)


def test_a_model_warms_up_when_asked_and_encoders_not_by_default(fake_bundle: Bundles) -> None:
    bundle = fake_bundle()
    assert _calls(bundle) == 0
    assert _calls(bundle, warm_up=False) == 0
    assert _calls(bundle, warm_up=True) == 1


def test_a_task_may_warm_up_by_default(
    fake_bundle: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lepton_edge.tasks.text_classification import TextClassification

    monkeypatch.setattr(TextClassification, "warm_up", True)
    bundle = fake_bundle()
    assert _calls(bundle) == 1
    assert _calls(bundle, warm_up=False) == 0


def test_loading_imports_nothing_of_a_build(fake_bundle: Bundles, fake_backend: Path) -> None:
    code = (
        "import sys, lepton_edge\n"
        "with lepton_edge.load(sys.argv[1]) as model: model(['w1', 'w2 w3'])\n"
        "heavy = {'torch', 'transformers', 'pydantic', 'yaml', 'rich', 'onnx', 'onnxruntime',\n"
        "         'huggingface_hub', 'lepton_edge.builder', 'lepton_edge.recipe', 'openvino'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(fake_bundle().path)],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(fake_backend), "PATH": "", "HOME": "/nonexistent"},
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_the_registry_opens_only_the_backend_of_the_bundle(
    fake_bundle: Bundles, fake_backend: Path
) -> None:
    write_fake_distribution(fake_backend, backend="broken", points_to="no_such_module:Backend")
    assert {"broken", "fake"} <= {entry.name for entry in registry.entries()}
    load(fake_bundle().path).close()


def test_a_target_that_the_bundle_was_not_built_for_is_named(
    fake_bundle: Bundles,
) -> None:
    path = fake_bundle().path
    with pytest.raises(BackendError, match="was not built for jetson; it has intel-cpu") as caught:
        load(path, "jetson")
    assert caught.value.hint == "lepton-edge build … --target jetson"


def test_a_warm_up_that_fails_closes_the_session(
    fake_bundle: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = []
    monkeypatch.setattr(FakeSession, "infer", lambda self, feeds: 1 / 0)
    monkeypatch.setattr(FakeSession, "close", lambda self: closed.append(True))
    with pytest.raises(ZeroDivisionError):
        load(fake_bundle().path, warm_up=True)
    assert closed == [True]


def test_a_folder_that_is_a_link_is_refused(fake_bundle: Bundles, tmp_path: Path) -> None:
    bundle = fake_bundle()
    (bundle.path / "artifacts").rename(tmp_path / "elsewhere")
    (bundle.path / "artifacts").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IntegrityError, match="folder artifacts is a link"):
        load(bundle.path)


@pytest.mark.parametrize(
    ("chip", "target"), [("tegra234", "jetson-orin"), ("tegra264", "jetson-thor")]
)
def test_an_alias_takes_this_machines_own_artifact_first(
    fake_bundle: Bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chip: str, target: str
) -> None:
    tree = tmp_path / "compatible"
    tree.write_bytes(f"maker,board\0nvidia,{chip}\0".encode())
    monkeypatch.setattr("lepton_edge.target._DEVICE_TREE", tree)
    first, second = _with_second_artifact(fake_bundle()).manifest.artifacts
    names = (("jetson-thor", first), ("jetson-orin", second))
    artifacts = tuple(msgspec.structs.replace(each, target=name) for name, each in names)
    bundle = rewrite(fake_bundle("both"), artifacts=artifacts)
    found = candidates(bundle, "jetson")
    assert found[0].target == target
    assert len(found) == 2
