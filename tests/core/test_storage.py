"""Writing to disk: all of a thing or none of it, whatever goes wrong."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from lepton_edge import storage
from lepton_edge.errors import StorageError
from lepton_edge.storage import (
    cache_directory,
    free_space,
    new_directory,
    new_file,
    refuse_existing,
    storage_errors,
    write_atomically,
)
from tests.core.disks import run_on_disk, unprivileged_folder

Maker = Callable[..., AbstractContextManager[Path]]


def fill(work: Path, text: str = "new") -> None:
    """Something at ``work``: a file in the folder, or the file itself."""
    if work.is_dir():
        (work / "sub").mkdir()
        (work / "sub" / "data").write_text(text)
    else:
        work.write_text(text)


def content(final: Path) -> str:
    return (final / "sub" / "data" if final.is_dir() else final).read_text()


def _fail_inside(make: Maker, final: Path, error: BaseException, replace: bool = False) -> None:
    with make(final, replace=replace) as work:
        fill(work)
        raise error


@pytest.fixture(params=[new_directory, new_file], ids=["folder", "file"])
def make(request: pytest.FixtureRequest) -> Maker:
    maker: Maker = request.param
    return maker


@pytest.fixture
def final(tmp_path: Path) -> Path:
    return tmp_path / "out" / "thing"


def test_it_appears_when_the_block_ends_well(make: Maker, final: Path) -> None:
    with make(final) as work:
        fill(work)
        assert not final.exists()
        assert work.parent == final.parent, "a rename needs the same file system"
    assert content(final) == "new"
    assert os.listdir(final.parent) == ["thing"]


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit, MemoryError])
def test_whatever_ends_the_block_early_leaves_nothing(
    make: Maker, final: Path, kind: type[BaseException]
) -> None:
    with pytest.raises(kind):
        _fail_inside(make, final, kind())
    assert os.listdir(final.parent) == []


def test_what_exists_is_refused_before_any_work(make: Maker, final: Path) -> None:
    final.parent.mkdir()
    final.write_text("old")
    with pytest.raises(StorageError, match="thing already exists") as caught, make(final):
        pytest.fail("the block ran")
    assert "--force replaces it" in str(caught.value.hint)
    assert content(final) == "old"
    assert os.listdir(final.parent) == ["thing"]


def test_a_link_to_nowhere_exists_too(make: Maker, final: Path) -> None:
    final.parent.mkdir()
    final.symlink_to("nowhere")
    with pytest.raises(StorageError, match="already exists"), make(final):
        pytest.fail("the block ran")


def test_replacing_puts_the_new_in_place_of_the_old(make: Maker, final: Path) -> None:
    for text in ("old", "new"):
        with make(final, replace=True) as work:
            fill(work, text)
    assert content(final) == "new"
    assert os.listdir(final.parent) == ["thing"]


def test_a_failed_replacement_keeps_the_old(make: Maker, final: Path) -> None:
    with make(final) as work:
        fill(work, "old")
    with pytest.raises(RuntimeError):
        _fail_inside(make, final, RuntimeError(), replace=True)
    assert content(final) == "old"
    assert os.listdir(final.parent) == ["thing"]


def test_a_failed_last_step_keeps_the_old(
    make: Maker, final: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rename itself can fail: the folder that stepped aside comes back."""
    with make(final) as work:
        fill(work, "old")
    name = "rename" if make is new_directory else "replace"
    real = getattr(os, name)
    failed = []

    def fail(source: Path, target: Path) -> None:
        if Path(target) == final and not failed:
            failed.append(source)
            raise OSError(errno.EIO, "input/output error")
        real(source, target)

    monkeypatch.setattr(storage.os, name, fail)
    with pytest.raises(OSError, match="input/output error"), make(final, replace=True) as work:
        fill(work, "new")
    assert failed
    assert content(final) == "old"
    assert os.listdir(final.parent) == ["thing"]


def test_an_old_folder_that_cannot_step_aside_stays(
    final: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with new_directory(final) as work:
        fill(work, "old")

    def fail(source: Path, target: Path) -> None:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(storage.os, "replace", fail)
    with pytest.raises(OSError, match="input/output"), new_directory(final, replace=True) as work:
        fill(work, "new")
    assert content(final) == "old"
    assert os.listdir(final.parent) == ["thing"]


def test_a_folder_does_not_replace_a_file_nor_a_link(final: Path) -> None:
    final.parent.mkdir()
    final.write_text("old")
    with (
        pytest.raises(StorageError, match="thing is not a folder"),
        new_directory(final, replace=True),
    ):
        pytest.fail("the block ran")
    assert final.read_text() == "old"
    link = final.parent / "link"
    link.symlink_to(final.parent, target_is_directory=True)
    with (
        pytest.raises(StorageError, match="link is not a folder"),
        new_directory(link, replace=True),
    ):
        pytest.fail("the block ran")


def test_a_file_does_not_replace_a_folder(final: Path) -> None:
    final.mkdir(parents=True)
    with pytest.raises(StorageError, match="thing is a folder"), new_file(final, replace=True):
        pytest.fail("the block ran")
    assert final.is_dir()


def test_what_appears_meanwhile_is_not_replaced(make: Maker, final: Path) -> None:
    """Two that make the same thing: the first to end wins, the second says so."""
    with pytest.raises(StorageError, match="thing already exists"), make(final) as slow:  # noqa: PT012
        fill(slow, "slow")
        with make(final) as fast:
            fill(fast, "fast")
    assert content(final) == "fast"
    assert os.listdir(final.parent) == ["thing"]


def test_a_replacement_of_what_is_gone_meanwhile_appears(make: Maker, final: Path) -> None:
    with make(final) as work:
        fill(work, "old")
    with make(final, replace=True) as work:
        fill(work, "new")
        final.rename(final.parent / "moved")
    assert content(final) == "new"


def test_many_processes_that_replace_one_folder_leave_one_whole(final: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from lepton_edge.errors import StorageError
from lepton_edge.storage import new_directory
final, me = Path({str(final)!r}), sys.argv[1]
done = 0
for _ in range(30):
    try:
        with new_directory(final, replace=True) as work:
            for n in range(5):
                (work / f"file-{{n}}").write_text(me)
    except StorageError:  # another was faster
        continue
    done += 1
assert done, "none of this process's folders arrived"
"""
    processes = [subprocess.Popen([sys.executable, "-c", code, str(n)]) for n in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert os.listdir(final.parent) == ["thing"]
    assert len(os.listdir(final)) == 5
    assert len({path.read_text() for path in final.iterdir()}) == 1


@contextmanager
def _stopped_inside(make: Maker, final: Path, replace: bool) -> Iterator[subprocess.Popen[str]]:
    """A process that waits inside the block, with something written."""
    code = f"""
import sys, time
from pathlib import Path
from lepton_edge.storage import new_directory, new_file
with {make.__name__}(Path({str(final)!r}), replace={replace}) as work:
    target = work / "data" if work.is_dir() else work
    with target.open("w") as file:
        file.write("half")
        file.flush()
        print("ready", flush=True)
        time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_leaves_nothing_under_the_name(
    make: Maker, final: Path, number: signal.Signals
) -> None:
    with _stopped_inside(make, final, replace=False) as process:
        process.send_signal(number)
        assert process.wait(10) == -number
    assert not final.exists()
    with make(final) as work:
        fill(work)
    assert content(final) == "new"


def test_a_killed_process_that_was_replacing_leaves_the_old(make: Maker, final: Path) -> None:
    with make(final) as work:
        fill(work, "old")
    with _stopped_inside(make, final, replace=True) as process:
        process.kill()
        process.wait(10)
    assert content(final) == "old"


def test_an_interrupt_from_the_keyboard_leaves_nothing(make: Maker, final: Path) -> None:
    with _stopped_inside(make, final, replace=False) as process:
        process.send_signal(signal.SIGINT)
        assert process.wait(10) != 0
    assert os.listdir(final.parent) == []


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_what_is_made_can_be_read_by_all(make: Maker, final: Path, umask: int) -> None:
    final.parent.mkdir()
    before = os.umask(umask)
    try:
        with make(final) as work:
            assert work.stat().st_mode & 0o077 == 0, "nobody else looks at what is not done"
    finally:
        os.umask(before)
    assert final.stat().st_mode & 0o777 == (0o755 if final.is_dir() else 0o644)


# Disks and names that cannot be written

_ON_DISK = """
import os, sys
from pathlib import Path
from lepton_edge.errors import StorageError
from lepton_edge import storage
disk = Path(sys.argv[1])
make = getattr(storage, sys.argv[2])
try:
    with make(disk / "thing", replace=True) as work:
        target = work / "data" if work.is_dir() else work
        with target.open("wb") as file:
            for _ in range(64):
                file.write(bytes(65536))
except StorageError as error:
    print(type(error.__cause__).__name__, error)
print(sorted(os.listdir(disk)))
"""


def test_a_full_disk_is_an_error_and_leaves_nothing(make: Maker, tmp_path: Path) -> None:
    printed = run_on_disk(tmp_path, _ON_DISK, make.__name__)
    message, hint, left = printed.splitlines()
    assert message.startswith(f"OSError the disk is full: {tmp_path}/thing could not be written (")
    assert message.endswith(" MiB free)")
    assert "free some space" in hint
    assert left == "[]"


def test_a_full_disk_keeps_what_was_to_be_replaced(make: Maker, tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from lepton_edge import storage
with getattr(storage, sys.argv[2])(Path(sys.argv[1]) / "thing") as work:
    (work / "old" if work.is_dir() else work).write_text("old")
{_ON_DISK}
thing = disk / "thing"
print((thing / "old" if thing.is_dir() else thing).read_text())
"""
    printed = run_on_disk(tmp_path, code, make.__name__).splitlines()
    assert printed[0].startswith("OSError the disk is full")
    assert printed[-2:] == ["['thing']", "old"]


def test_a_read_only_disk_is_an_error(make: Maker, tmp_path: Path) -> None:
    printed = run_on_disk(tmp_path, _ON_DISK, make.__name__, options="ro")
    message, hint, left = printed.splitlines()
    assert message.startswith(f"OSError {tmp_path}/")
    assert message.endswith("cannot be written: Read-only file system")
    assert "choose another output folder" in hint
    assert left == "[]"


def test_a_folder_without_permission_is_an_error(make: Maker) -> None:
    with unprivileged_folder() as folder:
        folder.chmod(0o555)
        with (
            pytest.raises(StorageError, match="Permission denied") as caught,
            make(folder / "thing"),
        ):
            pytest.fail("the block ran")
        assert "change its permissions" in str(caught.value.hint)
        assert os.listdir(folder) == []


def test_a_parent_that_is_a_file_is_an_error(make: Maker, final: Path) -> None:
    final.parent.write_text("a file")
    with pytest.raises(StorageError, match="out is in the way"), make(final):
        pytest.fail("the block ran")
    with pytest.raises(StorageError, match="out"), make(final / "below"):
        pytest.fail("the block ran")
    assert final.parent.read_text() == "a file"


def test_a_name_that_is_too_long_is_an_error(make: Maker, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="File name too long"), make(tmp_path / ("x" * 300)):
        pytest.fail("the block ran")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, StorageError),
        (errno.EDQUOT, StorageError),
        (errno.EACCES, StorageError),
        (errno.EROFS, StorageError),
        (errno.EFBIG, StorageError),
        (errno.EIO, OSError),
        (errno.ENOENT, FileNotFoundError),
    ],
)
def test_only_errors_of_space_permission_and_names_are_storage_errors(
    tmp_path: Path, number: int, kind: type[Exception]
) -> None:
    with pytest.raises(kind) as caught, storage_errors(tmp_path / "a" / "b"):
        raise OSError(number, os.strerror(number))
    if kind is StorageError:
        assert str(tmp_path) in str(caught.value)
        assert isinstance(caught.value.__cause__, OSError)


def test_free_space_is_told_of_what_does_not_exist_yet(tmp_path: Path) -> None:
    assert free_space(tmp_path / "a" / "b").endswith(" MiB free")
    assert free_space(Path("not-there")).endswith(" MiB free")


def test_refuse_existing_lets_a_free_name_pass(tmp_path: Path) -> None:
    refuse_existing(tmp_path / "free", replace=False)
    refuse_existing(tmp_path, replace=True)
    with pytest.raises(StorageError, match="already exists"):
        refuse_existing(tmp_path, replace=False)


# Single files, and where caches live


def test_write_atomically_replaces_a_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    for data in (b"old", b"new"):
        write_atomically(file, data)
        assert file.read_bytes() == data
    assert os.listdir(tmp_path) == ["file"]


def test_a_failed_atomic_write_leaves_nothing_of_itself(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path / "folder", b"data")
    assert os.listdir(tmp_path) == ["folder"]
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "none" / "file", b"data")


def test_the_cache_is_where_xdg_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "lepton-edge"
    for value in ("", "relative/path"):  # the standard says to ignore a relative one
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_directory() == tmp_path / ".cache" / "lepton-edge"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_directory() == tmp_path / ".cache" / "lepton-edge"


# What killed processes left


def _abandoned(final: Path, age: float = 3600) -> Path:
    left = final.parent / f".lepton-{final.name}-abcd1234"
    left.mkdir()
    (left / "half").write_bytes(b"written")
    then = time.time() - age
    os.utime(left, (then, then))
    return left


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    final = tmp_path / "thing"
    left = _abandoned(final)
    of_another = _abandoned(tmp_path / "other")
    with new_directory(final) as work:
        assert not left.exists()
        (work / "file").write_bytes(b"new")
    assert of_another.is_dir()


def test_a_folder_that_a_process_works_in_is_left_alone(tmp_path: Path) -> None:
    final = tmp_path / "thing"
    with new_directory(final) as work:
        os.utime(work, (0, 0))
        with new_directory(final):
            assert work.is_dir()
        shutil.rmtree(final)
    assert final.is_dir()


def test_a_folder_made_a_moment_ago_is_left_alone(tmp_path: Path) -> None:
    final = tmp_path / "thing"
    young = _abandoned(final, age=1)
    with new_directory(final):
        assert young.is_dir()
