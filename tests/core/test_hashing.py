"""Hashing: every damage is found, and a file that is as it was is not read again."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_edge.bundle import describe_files, hashing
from lepton_edge.bundle.hashing import Verify, check_file, check_files, digest_of, sha256
from lepton_edge.bundle.manifest import File
from lepton_edge.errors import BundleError, IntegrityError
from tests.core.disks import unprivileged_folder
from tests.core.parts import flip_byte

NAMES = ("model.bin", "sub/tokenizer.json", "sub/empty")
BOTH: tuple[Verify, ...] = ("cached", "always")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files: one of several chunks, a small one, an empty one."""
    path = tmp_path / "bundle"
    (path / "sub").mkdir(parents=True)
    (path / "model.bin").write_bytes(bytes(range(256)) * 10_000)
    (path / "sub" / "tokenizer.json").write_text("{}")
    (path / "sub" / "empty").write_bytes(b"")
    return path


@pytest.fixture
def files(folder: Path) -> dict[str, File]:
    return describe_files(folder)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch, files: dict[str, File]) -> list[str]:
    """The names of the files that were hashed since the fixtures were made, in order."""
    names: list[str] = []
    real = hashing.sha256

    def spy(path: Path, progress: Callable[[int], None] | None = None) -> str:
        names.append(path.name)
        return real(path, progress)

    monkeypatch.setattr(hashing, "sha256", spy)
    return names


def fault(folder: Path, files: dict[str, File], verify: Verify = "cached") -> IntegrityError:
    with pytest.raises(IntegrityError) as caught:
        check_files(folder, files, verify)
    return caught.value


def wait_for_the_clock(folder: Path) -> None:
    """Until a change gets other times than what was written before: clocks of files tick."""
    probe = folder.parent / "probe"
    probe.write_bytes(b"")
    first = probe.stat().st_ctime_ns
    while probe.stat().st_ctime_ns == first:
        time.sleep(0.001)
        probe.write_bytes(b"")


# The digest


@settings(deadline=None, max_examples=30)
@given(st.binary(max_size=100), st.integers(0, 3), st.integers(-1, 1))
def test_sha256_is_the_standards(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, chunks: int, rest: int
) -> None:
    """Around the size of a chunk, too."""
    data = data + bytes(max(0, chunks * hashing._CHUNK + rest))
    file = tmp_path_factory.mktemp("hash") / "file"
    file.write_bytes(data)
    told: list[int] = []
    assert sha256(file, told.append) == hashlib.sha256(data).hexdigest()
    assert sum(told) == len(data)


def test_digest_of_files_is_that_of_the_public_tool(files: dict[str, File]) -> None:
    """``sha256sum FILES | sha256sum``, in the order of the names."""
    listing = "".join(f"{files[name].sha256}  {name}\n" for name in sorted(files))
    assert digest_of(files) == hashlib.sha256(listing.encode()).hexdigest()
    assert digest_of(dict(reversed(files.items()))) == digest_of(files)
    renamed = {**files, "other": files["model.bin"]}
    del renamed["model.bin"]
    assert digest_of(renamed) != digest_of(files)


# Damage


@pytest.mark.parametrize("verify", BOTH)
def test_whole_files_pass(folder: Path, files: dict[str, File], verify: Verify) -> None:
    for _ in range(2):
        check_files(folder, files, verify)


@pytest.mark.parametrize("verify", BOTH)
def test_a_flipped_bit_is_found(folder: Path, files: dict[str, File], verify: Verify) -> None:
    flip_byte(folder / "model.bin")
    error = fault(folder, files, verify)
    assert error.message.startswith("model.bin has SHA-256 ")
    assert error.message.endswith(f"the manifest says {files['model.bin'].sha256}")
    assert "copy or build the bundle again" in str(error.hint)


@pytest.mark.parametrize("verify", BOTH)
@pytest.mark.parametrize(("size", "change"), [(2_559_999, -1), (2_560_001, 1), (0, -2_560_000)])
def test_another_size_is_found_without_hashing(
    folder: Path,
    files: dict[str, File],
    hashed: list[str],
    verify: Verify,
    size: int,
    change: int,
) -> None:
    os.truncate(folder / "model.bin", 2_560_000 + change)
    error = fault(folder, files, verify)
    assert error.message == f"model.bin has {size:,} bytes; the manifest says 2,560,000"
    assert "model.bin" not in hashed


@pytest.mark.parametrize("verify", BOTH)
def test_a_missing_file_is_found(folder: Path, files: dict[str, File], verify: Verify) -> None:
    (folder / "sub" / "empty").unlink()
    error = fault(folder, files, verify)
    assert error.message == "sub/empty is missing from the bundle"
    assert "copy or build it again" in str(error.hint)


def test_a_missing_folder_is_found(folder: Path, files: dict[str, File]) -> None:
    for name in ("tokenizer.json", "empty"):
        (folder / "sub" / name).unlink()
    (folder / "sub").rmdir()
    assert "is missing from the bundle" in fault(folder, files).message
    (folder / "sub").write_text("a file where the folder was")
    assert "is missing from the bundle" in fault(folder, files).message


@pytest.mark.parametrize("verify", BOTH)
@pytest.mark.parametrize("kind", ["link", "dangling", "folder", "pipe"])
def test_what_is_no_regular_file_is_refused_unread(
    folder: Path, files: dict[str, File], hashed: list[str], verify: Verify, kind: str
) -> None:
    """A link to the very same bytes, too: what it points to can change without the bundle."""
    file = folder / "model.bin"
    file.rename(folder.parent / "elsewhere")
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to(folder.parent / ("elsewhere" if kind == "link" else "nowhere"))
    assert fault(folder, files, verify).message == "model.bin is not a regular file"
    assert "model.bin" not in hashed


def test_a_file_that_may_not_be_read_is_an_error() -> None:
    with unprivileged_folder() as folder:
        file = folder / "model.bin"
        file.write_bytes(b"weights")
        known = describe_files(folder)
        file.chmod(0)
        with pytest.raises(BundleError, match=r"model\.bin cannot be read: Permission denied"):
            check_files(folder, known, "always")
        file.chmod(0o600)
        folder.chmod(0o600)
        with pytest.raises(BundleError, match=r"model\.bin cannot be read: Permission denied"):
            check_file(file, "model.bin", known["model.bin"])
        folder.chmod(0o700)


def test_a_name_that_no_disk_has_is_an_error(folder: Path, files: dict[str, File]) -> None:
    with pytest.raises(BundleError, match="cannot be read: File name too long"):
        check_files(folder, {"x" * 300: files["model.bin"]}, "cached")


# The memory


def test_a_file_that_was_right_is_not_hashed_again(
    folder: Path, files: dict[str, File], hashed: list[str]
) -> None:
    check_files(folder, files, "cached")
    assert sorted(hashed) == ["empty", "model.bin", "tokenizer.json"]
    hashed.clear()
    check_files(folder, files, "cached")
    assert hashed == []


def test_always_hashes_each_time_and_remembers(
    folder: Path, files: dict[str, File], hashed: list[str]
) -> None:
    for _ in range(2):
        check_files(folder, files, "always")
    assert len(hashed) == 2 * len(files)
    hashed.clear()
    check_files(folder, files, "cached")
    assert hashed == []


def test_progress_is_told_what_is_hashed_and_no_more(folder: Path, files: dict[str, File]) -> None:
    told: list[int] = []
    check_files(folder, files, "cached", told.append)
    assert sum(told) == sum(file.size for file in files.values())
    told.clear()
    check_files(folder, files, "cached", told.append)
    assert told == []


def test_only_the_file_that_changed_is_hashed_again(
    folder: Path, files: dict[str, File], hashed: list[str]
) -> None:
    check_files(folder, files, "cached")
    hashed.clear()
    os.utime(folder / "model.bin", ns=(1, 1))
    check_files(folder, files, "cached")
    assert hashed == ["model.bin"]
    hashed.clear()
    check_files(folder, files, "cached")
    assert hashed == []


def test_a_copy_over_the_file_is_hashed_again(
    folder: Path, files: dict[str, File], hashed: list[str]
) -> None:
    """The same bytes, size and time, and another inode."""
    check_files(folder, files, "cached")
    hashed.clear()
    file = folder / "model.bin"
    times = (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    other = folder.parent / "other"
    other.write_bytes(file.read_bytes())
    os.utime(other, ns=times)
    other.replace(file)
    check_files(folder, files, "cached")
    assert hashed == ["model.bin"]


@pytest.mark.parametrize("verify", BOTH)
def test_a_flipped_bit_behind_restored_times_is_found(
    folder: Path, files: dict[str, File], verify: Verify
) -> None:
    """Size and mtime can be put back; the time of the change cannot."""
    check_files(folder, files, "cached")
    wait_for_the_clock(folder)
    file = folder / "model.bin"
    before = file.stat()
    flip_byte(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert "model.bin has SHA-256" in fault(folder, files, verify).message


def test_always_trusts_no_memory(
    folder: Path, files: dict[str, File], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where every stamp is the same, as on a file system without such times."""
    monkeypatch.setattr(hashing, "_stamp", lambda status, digest: (0, 0, 0, 0, digest))
    check_files(folder, files, "cached")
    flip_byte(folder / "model.bin")
    check_files(folder, files, "cached")
    assert "model.bin has SHA-256" in fault(folder, files, "always").message


def test_another_manifest_is_not_answered_from_memory(folder: Path, files: dict[str, File]) -> None:
    check_files(folder, files, "cached")
    wrong = {**files, "model.bin": File(files["model.bin"].size, "0" * 64)}
    assert fault(folder, wrong).message.endswith(f"the manifest says {'0' * 64}")


def test_a_copy_of_the_folder_has_its_own_memory(
    folder: Path, files: dict[str, File], hashed: list[str]
) -> None:
    check_files(folder, files, "cached")
    hashed.clear()
    copy = shutil.copytree(folder, folder.parent / "copy")
    check_files(copy, files, "cached")
    assert len(hashed) == len(files)
    hashed.clear()
    check_files(folder, files, "cached")
    check_files(copy, files, "cached")
    assert hashed == [], "one bundle's memory took the place of the other's"


def test_a_failed_check_is_not_remembered(folder: Path, files: dict[str, File]) -> None:
    flip_byte(folder / "model.bin")
    for _ in range(2):
        fault(folder, files)


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"model.bin": 5}', b'{"model.bin": [1, 2]}'],
)
def test_a_damaged_memory_means_hashing_again(
    folder: Path, files: dict[str, File], hashed: list[str], cache: Path, damage: bytes
) -> None:
    check_files(folder, files, "cached")
    (memory,) = [path for path in cache.rglob("*") if path.is_file()]
    memory.write_bytes(damage)
    hashed.clear()
    check_files(folder, files, "cached")
    assert len(hashed) == len(files)
    hashed.clear()
    check_files(folder, files, "cached")
    assert hashed == [], "the memory was not written again"


def test_a_memory_that_cannot_be_read_hides_no_damage(
    folder: Path, files: dict[str, File], cache: Path
) -> None:
    """A folder where the memory should be is one that cannot be read or written."""
    check_files(folder, files, "cached")
    (memory,) = [path for path in cache.rglob("*") if path.is_file()]
    memory.unlink()
    memory.mkdir()
    flip_byte(folder / "model.bin")
    assert "model.bin has SHA-256" in fault(folder, files).message


def test_a_cache_that_cannot_be_written_costs_time_only(
    folder: Path,
    files: dict[str, File],
    hashed: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "cache"))
    for _ in range(2):
        check_files(folder, files, "cached")
    assert len(hashed) == 2 * len(files)
    flip_byte(folder / "model.bin")
    assert "model.bin has SHA-256" in fault(folder, files).message


def test_a_cache_without_permission_costs_time_only(monkeypatch: pytest.MonkeyPatch) -> None:
    with unprivileged_folder() as folder:
        (folder / "cache").mkdir(mode=0o500)
        (folder / "bundle").mkdir()
        (folder / "bundle" / "model.bin").write_bytes(b"weights")
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        known = describe_files(folder / "bundle")
        for _ in range(2):
            check_files(folder / "bundle", known, "cached")
        assert os.listdir(folder / "cache") == []
