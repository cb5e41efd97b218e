"""Engines compiled on this device: found whole or not at all, written by one at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("lepton_edge_tensorrt", reason="needs the TensorRT backend")

from lepton_edge_tensorrt.cache import EngineCache

from lepton_edge.errors import StorageError
from tests.core.disks import run_on_disk, unprivileged_folder

ENGINE = bytes(range(256)) * 40


@pytest.fixture
def place(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "cache", "a" * 64, "NVIDIA Orin", "8.7", "tensorrt 10.3.0")


def files(place: EngineCache) -> set[str]:
    return {path.name for path in place.folder.iterdir()}


# What is found.


def test_what_is_kept_is_found(place: EngineCache) -> None:
    assert place.find() is None
    assert place.keep(ENGINE) == place.engine
    assert place.find() == place.engine
    assert place.engine.read_bytes() == ENGINE
    assert replace(place).find() == place.engine  # as another process has it
    assert files(place) == {"model.engine", "engine.json"}


def test_a_later_engine_takes_the_place_of_an_earlier_one(place: EngineCache) -> None:
    place.keep(ENGINE)
    place.keep(ENGINE[:100])
    found = place.find()
    assert found is not None
    assert found.read_bytes() == ENGINE[:100]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("plan", "b" * 64),
        ("plan", "a" * 16 + "b" * 48),
        ("gpu", "NVIDIA Thor"),
        ("gpu", "nvidia orin"),
        ("gpu", "NVIDIA-Orin"),
        ("capability", "11.0"),
        ("library", "tensorrt 10.3.1"),
        ("library", "tensorrt_rtx 10.3.0"),
    ],
)
def test_another_plan_gpu_or_library_has_none(place: EngineCache, name: str, value: str) -> None:
    """Those too whose folder has the same name."""
    place.keep(ENGINE)
    changes: dict[str, Any] = {name: value}
    other = replace(place, **changes)
    assert other.find() is None
    assert place.find() == place.engine
    other.keep(ENGINE[::-1])
    found = other.find()
    assert found is not None
    assert found.read_bytes() == ENGINE[::-1]


@settings(deadline=None, max_examples=60)
@given(gpu=st.text(max_size=30), library=st.text(max_size=30))
def test_any_name_of_a_gpu_gives_one_folder_below_the_cache(gpu: str, library: str) -> None:
    place = EngineCache(Path("/cache"), "a" * 64, gpu, "8.7", library)
    assert place.folder.parent == Path("/cache")
    assert place.folder.resolve().parent == Path("/cache")
    assert place.folder.name.isascii()


# What is damaged.


def _cut(place: EngineCache) -> None:
    place.engine.write_bytes(ENGINE[:-1])


def _emptied(place: EngineCache) -> None:
    place.engine.write_bytes(b"")


def _one_bit(place: EngineCache) -> None:
    place.engine.write_bytes(ENGINE[:5000] + bytes([ENGINE[5000] ^ 1]) + ENGINE[5001:])


def _longer(place: EngineCache) -> None:
    place.engine.write_bytes(ENGINE + b"\0")


def _gone(place: EngineCache) -> None:
    place.engine.unlink()


def _no_record(place: EngineCache) -> None:
    (place.folder / "engine.json").unlink()


def _record(data: bytes) -> Callable[[EngineCache], None]:
    def write(place: EngineCache) -> None:
        (place.folder / "engine.json").write_bytes(data)

    return write


def _record_of_another_plan(place: EngineCache) -> None:
    other = replace(place, plan="a" * 16 + "b" * 48)
    assert other.folder == place.folder
    other.keep(ENGINE)


DAMAGES = [
    _cut,
    _emptied,
    _one_bit,
    _longer,
    _gone,
    _no_record,
    _record_of_another_plan,
    _record(b""),
    _record(b"{"),
    _record(b"\xff\xfe"),
    _record(b"[]"),
    _record(b'{"plan": 3}'),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_not_found_and_a_new_one_mends_it(
    place: EngineCache, damage: Callable[[EngineCache], None]
) -> None:
    place.keep(ENGINE)
    damage(place)
    assert place.find() is None
    place.keep(ENGINE)
    assert place.find() == place.engine


def test_a_folder_in_the_place_of_the_engine_is_not_found(place: EngineCache) -> None:
    place.keep(ENGINE)
    place.engine.unlink()
    place.engine.mkdir()
    assert place.find() is None
    with pytest.raises(StorageError, match="cannot be written: Is a directory"):
        place.keep(ENGINE)
    assert place.find() is None


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_other_record_is_not_taken(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    place = EngineCache(tmp_path_factory.mktemp("cache"), "a" * 64, "GPU", "8.7", "tensorrt 10.3")
    place.keep(ENGINE)
    file = place.folder / "engine.json"
    record = msgspec.json.decode(file.read_bytes())
    name = data.draw(st.sampled_from(sorted(record)))
    value = data.draw(st.none() | st.integers() | st.text(max_size=9))
    file.write_bytes(msgspec.json.encode({**record, name: value}))
    assert (place.find() is None) == (value != record[name])


# What was measured of kernels.


def test_timings_are_kept_and_none_are_there_at_first(place: EngineCache) -> None:
    assert place.timings() is None
    place.keep_timings(b"measured")
    assert place.timings() == b"measured"
    assert place.find() is None
    place.keep(ENGINE)
    assert place.timings() == b"measured"


# A process that ends in the middle.

OPENED = """
import os, signal, sys
from pathlib import Path
from lepton_edge_tensorrt.cache import EngineCache
place = EngineCache(Path(sys.argv[1]), "a" * 64, "NVIDIA Orin", "8.7", "tensorrt 10.3.0")
def say(line):
    print(line, flush=True)
"""
# Killed as it writes file number sys.argv[2]: half of it is on disk, under no name yet.
KILLED = (
    OPENED
    + """
from lepton_edge_tensorrt import cache as module
real, written = module.write_atomically, []
def write(path, data):
    if len(written) == int(sys.argv[2]):
        def die(handle):
            os.ftruncate(handle, len(data) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        os.fsync = die
    written.append(path)
    real(path, data)
module.write_atomically = write
with place.locked(lambda: say("waiting")):
    place.keep(bytes(9) * 1000)
"""
)


@pytest.mark.parametrize("earlier", [False, True], ids=["first", "over another"])
@pytest.mark.parametrize("at", [0, 1], ids=["engine", "record"])
def test_a_process_that_is_killed_as_it_writes_leaves_nothing_that_is_found(
    place: EngineCache, at: int, earlier: bool
) -> None:
    if earlier:
        place.keep(ENGINE)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(place.root), str(at)],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert place.find() is None
    left = {name for name in files(place) if name.startswith(".lepton-")}
    assert len(left) == 1
    with place.locked(lambda: pytest.fail("nobody has the lock")):
        assert not left & files(place)
        assert place.find() is None
        place.keep(ENGINE)
    assert place.find() == place.engine
    assert files(place) == {"model.engine", "engine.json"}


# One at a time.

HOLDER = (
    OPENED
    + """
with place.locked(lambda: say("waiting")):
    say("locked")
    command = sys.stdin.readline()
    if command == "keep\\n":
        place.keep(bytes(range(256)) * 40)
say("left")
"""
)
FOLLOWER = (
    OPENED
    + """
with place.locked(lambda: say("waiting")):
    found = place.find()
    say("found" if found else "nothing")
"""
)


@contextmanager
def child(code: str, place: EngineCache) -> Iterator[subprocess.Popen[str]]:
    running = subprocess.Popen(
        [sys.executable, "-c", code, str(place.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


def line(running: subprocess.Popen[str]) -> str:
    assert running.stdout is not None
    return running.stdout.readline().strip()


def tell(running: subprocess.Popen[str], text: str) -> None:
    assert running.stdin is not None
    running.stdin.write(f"{text}\n")
    running.stdin.flush()


def test_a_second_process_is_told_waits_and_finds_the_engine_of_the_first(
    place: EngineCache,
) -> None:
    with child(HOLDER, place) as first:
        assert line(first) == "locked"
        with child(FOLLOWER, place) as second:
            assert line(second) == "waiting"
            tell(first, "keep")
            assert line(first) == "left"
            assert line(second) == "found"
            assert second.wait(60) == 0


def test_the_lock_goes_with_a_process_that_is_killed(place: EngineCache) -> None:
    with child(HOLDER, place) as first:
        assert line(first) == "locked"
        with child(FOLLOWER, place) as second:
            assert line(second) == "waiting"
            os.kill(first.pid, signal.SIGKILL)
            assert line(second) == "nothing"


def test_the_lock_is_given_back_after_an_error(place: EngineCache) -> None:
    with pytest.raises(KeyboardInterrupt), place.locked(lambda: None):
        raise KeyboardInterrupt
    with place.locked(lambda: pytest.fail("nobody has the lock")):
        pass


def test_engines_of_different_plans_are_compiled_at_once(place: EngineCache) -> None:
    other = replace(place, plan="b" * 64)
    with (
        place.locked(lambda: pytest.fail("nobody has the lock")),
        other.locked(lambda: pytest.fail("it is another's")),
    ):
        other.keep(ENGINE)
        assert place.find() is None


def test_a_file_system_without_locks_is_no_obstacle(
    place: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(handle: int, options: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", flock)
    with place.locked(lambda: pytest.fail("nobody has a lock")):
        place.keep(ENGINE)
    assert place.find() == place.engine


# Disks.


def test_a_folder_that_is_read_only_is_an_error_with_its_name() -> None:
    with unprivileged_folder() as folder:
        place = EngineCache(folder / "cache", "a" * 64, "GPU", "8.7", "tensorrt 10.3.0")
        place.keep(ENGINE)
        place.folder.chmod(0o555)
        try:
            assert place.find() == place.engine
            with pytest.raises(StorageError, match="cannot be written: Permission denied"):
                place.keep(ENGINE)
            with pytest.raises(StorageError, match="cannot be written: Permission denied"):
                place.keep_timings(b"measured")
        finally:
            place.folder.chmod(0o755)
        folder.chmod(0o555)
        other = replace(place, root=folder / "other")
        with pytest.raises(StorageError, match="other cannot be written: Permission denied"):
            other.keep(ENGINE)
        with (
            pytest.raises(StorageError, match="other cannot be written: Permission denied"),
            other.locked(lambda: None),
        ):
            pytest.fail("it is locked")


FULL = """
import sys
from pathlib import Path
from lepton_edge.errors import StorageError
from lepton_edge_tensorrt.cache import EngineCache
place = EngineCache(Path(sys.argv[1]), "a" * 64, "GPU", "8.7", "tensorrt 10.3.0")
first = bytes(400_000)
with place.locked(lambda: None):
    place.keep(first)
    for write in (place.keep, place.keep_timings):
        try:
            write(bytes(4_000_000))
        except StorageError as error:
            print(error.message)
    print(place.find())
    print([path.name for path in place.folder.iterdir() if path.name.startswith(".")])
    place.keep(first[:1000])
    print(place.find() == place.engine)
"""


def test_a_full_disk_is_an_error_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    engine, timings, found, left, after = run_on_disk(tmp_path, FULL).splitlines()
    assert engine.startswith(f"the disk is full: {tmp_path}")
    assert "model.engine could not be written" in engine
    assert engine.endswith("MiB free)")
    assert "timing.cache could not be written" in timings
    assert (found, left, after) == ("None", "[]", "True")


def test_a_file_in_place_of_the_cache_is_an_error(place: EngineCache) -> None:
    place.root.write_bytes(b"")
    assert place.find() is None
    assert place.timings() is None
    with pytest.raises(StorageError, match="cannot be written: Not a directory"):
        place.keep(ENGINE)
    with pytest.raises(StorageError), place.locked(lambda: None):
        pytest.fail("it is locked")
