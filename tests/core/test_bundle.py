"""Opening a bundle folder and verifying the whole of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from lepton_edge import Bundle, open_bundle
from lepton_edge.bundle import describe_files, files_below
from lepton_edge.bundle.archive import pack
from lepton_edge.errors import BundleError, IntegrityError, SchemaError
from tests.core.disks import unprivileged_folder
from tests.core.parts import flip_byte, rewrite

Bundles = Callable[..., Bundle]


def fault(path: object) -> BundleError:
    with pytest.raises(BundleError) as caught:
        open_bundle(str(path))
    return caught.value


def damage(bundle: Bundle) -> IntegrityError:
    with pytest.raises(IntegrityError) as caught:
        bundle.verify()
    return caught.value


# Opening


def test_a_bundle_is_opened_by_its_folder(fake_bundle: Bundles) -> None:
    bundle = fake_bundle(name="one")
    for path in (bundle.path, str(bundle.path), f"{bundle.path}/"):
        assert open_bundle(path) == bundle
    assert bundle.manifest.name == "fake"


def test_opening_reads_the_manifest_alone(fake_bundle: Bundles) -> None:
    bundle = fake_bundle()
    for name in bundle.manifest.files:
        (bundle.path / name).unlink()
    assert open_bundle(bundle.path).manifest == bundle.manifest


def test_a_missing_bundle_says_how_to_make_one(tmp_path: Path) -> None:
    error = fault(tmp_path / "none")
    assert error.message == f"there is no bundle at {tmp_path}/none"
    assert error.hint == "lepton-edge build makes one; lepton-edge recipes lists what to build"


def test_the_folder_above_a_bundle_names_it(fake_bundle: Bundles) -> None:
    bundle = fake_bundle()
    error = fault(bundle.path.parent)
    assert error.message == f"{bundle.path.parent} is not a bundle: it has no manifest.json"
    assert error.hint == f"did you mean {bundle.path}?"


def test_a_file_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("{}")
    error = fault(tmp_path / "file")
    assert error.message == f"{tmp_path}/file is not a bundle: it has no manifest.json"
    assert "there is no bundle" in fault(tmp_path / "file" / "below").message


def test_an_archive_says_how_to_unpack_it(fake_bundle: Bundles, tmp_path: Path) -> None:
    archive = pack(fake_bundle().path, tmp_path / "a.lepton")
    error = fault(archive)
    assert error.message == f"{archive} is packed"
    assert error.hint == f"lepton-edge unpack {archive}"


def test_a_folder_named_like_an_archive_is_opened(fake_bundle: Bundles, tmp_path: Path) -> None:
    bundle = fake_bundle()
    bundle.path.rename(tmp_path / "b.lepton")
    assert open_bundle(tmp_path / "b.lepton").manifest == bundle.manifest


def test_a_text_in_place_of_the_path_is_an_error() -> None:
    """As where the bundle was forgotten on the command line."""
    error = fault("where is my new card? " * 50)
    assert error.message.endswith("cannot be read: File name too long")


def test_a_manifest_that_is_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").mkdir()
    assert fault(tmp_path).message == f"{tmp_path}/manifest.json cannot be read: Is a directory"


def test_a_manifest_that_may_not_be_read_is_an_error() -> None:
    with unprivileged_folder() as folder:
        (folder / "manifest.json").write_text("{}")
        (folder / "manifest.json").chmod(0)
        assert fault(folder).message.endswith("manifest.json cannot be read: Permission denied")
        folder.chmod(0)
        assert fault(folder / "below").message.endswith("cannot be read: Permission denied")
        folder.chmod(0o700)


def test_faults_of_the_manifest_name_the_file(fake_bundle: Bundles) -> None:
    bundle = fake_bundle()
    file = bundle.path / "manifest.json"
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    assert fault(bundle.path).message.startswith(f"{file} is not a valid manifest: ")
    file.write_bytes(data.replace(b'"schema": 1', b'"schema": 2'))
    with pytest.raises(SchemaError, match="has schema 2"):
        open_bundle(bundle.path)


# Verifying


def test_a_whole_bundle_passes(fake_bundle: Bundles) -> None:
    bundle = fake_bundle()
    told: list[int] = []
    bundle.verify(progress=told.append)
    assert sum(told) == bundle.size == sum(file.size for file in bundle.manifest.files.values())


def test_every_file_is_verified(fake_bundle: Bundles) -> None:
    bundle = fake_bundle()
    for name in bundle.manifest.files:
        data = (bundle.path / name).read_bytes()
        flip_byte(bundle.path / name)
        assert damage(bundle).message.startswith(f"{name} has SHA-256 ")
        (bundle.path / name).write_bytes(data)
    bundle.verify()


@pytest.mark.parametrize("name", ["added", ".hidden", "artifacts/fake/added", "new/added"])
@pytest.mark.parametrize("verify", ["cached", "always"])
def test_an_added_file_is_refused(fake_bundle: Bundles, name: str, verify: str) -> None:
    bundle = fake_bundle()
    bundle.verify()
    (bundle.path / name).parent.mkdir(exist_ok=True)
    (bundle.path / name).write_bytes(b"")
    with pytest.raises(IntegrityError) as caught:
        bundle.verify(verify)  # type: ignore[arg-type]
    assert caught.value.message == (
        f"{bundle.path} has 1 file(s) that its manifest does not list: {name}"
    )
    assert "remove them" in str(caught.value.hint)


def test_many_added_files_are_counted(fake_bundle: Bundles) -> None:
    bundle = fake_bundle()
    for n in range(9):
        (bundle.path / f"added-{n}").write_bytes(b"")
    message = damage(bundle).message
    assert "has 9 file(s)" in message
    assert "added-4" in message
    assert "added-5" not in message


@pytest.mark.parametrize("target", ["nowhere", "/etc", "artifacts"])
def test_an_added_link_is_refused(fake_bundle: Bundles, target: str) -> None:
    bundle = fake_bundle()
    (bundle.path / "link").symlink_to(target)
    assert damage(bundle).message.endswith("does not list: link")


def test_a_folder_that_became_a_link_is_refused(fake_bundle: Bundles, tmp_path: Path) -> None:
    bundle = fake_bundle()
    (bundle.path / "artifacts").rename(tmp_path / "elsewhere")
    (bundle.path / "artifacts").symlink_to(tmp_path / "elsewhere")
    assert damage(bundle).message.endswith("does not list: artifacts")


def test_an_empty_folder_is_harmless(fake_bundle: Bundles) -> None:
    bundle = fake_bundle()
    (bundle.path / "empty").mkdir()
    bundle.verify()


def test_an_artifacts_digest_is_verified(fake_bundle: Bundles) -> None:
    bundle = fake_bundle()
    (artifact,) = bundle.manifest.artifacts
    other = rewrite(bundle, artifacts=(msgspec.structs.replace(artifact, sha256="0" * 64),))
    assert "the artifact for intel-cpu is not that of its files" in damage(other).message


def test_files_of_an_artifact_are_those_below_its_folder(fake_bundle: Bundles) -> None:
    bundle = fake_bundle()
    (artifact,) = bundle.manifest.artifacts
    assert list(bundle.files_of(artifact)) == ["artifacts/fake/fake.json"]
    near = msgspec.structs.replace(artifact, directory="artifacts/fak")
    assert bundle.files_of(near) == {}


# Describing


def test_files_are_described_by_their_paths_in_order(tmp_path: Path) -> None:
    for name in ("b", "a/z", "a/b/c", ".hidden"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("a")
    assert files_below(tmp_path) == {"b", "a/z", "a/b/c", ".hidden", "link"}
    os.unlink(tmp_path / "link")
    described = describe_files(tmp_path)
    assert list(described) == [".hidden", "a/b/c", "a/z", "b"]
    assert described["a/b/c"].size == 5
    assert list(describe_files(tmp_path, "a")) == ["a/b/c", "a/z"]
