"""Fresh processes that open a bundle: cold and warm, and what they leave alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lepton_edge.benchmark import startup
from lepton_edge.benchmark.startup import Start, Startup, measure_starts
from lepton_edge.bundle import Bundle
from lepton_edge.errors import BackendError
from tests.core.parts import flip_byte

Bundles = Callable[..., Bundle]
BATCHES = [["w1 w2"], ["w1 " * 20] * 8]


@pytest.fixture
def bundle(fake_bundle: Bundles, fake_backend: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """One that a process of its own can open too."""
    monkeypatch.setenv("PYTHONPATH", str(fake_backend))
    return fake_bundle()


def test_starts_are_timed_and_weighed(bundle: Bundle, cache: Path) -> None:
    steps: list[str] = []
    found = measure_starts(bundle.path, None, BATCHES, rounds=2, progress=steps.append)
    assert (len(found.cold), len(found.warm)) == (2, 2)
    for start in (*found.cold, *found.warm):
        times = (start.process_seconds, start.import_seconds, start.load_seconds)
        assert all(seconds > 0 for seconds in (*times, start.first_seconds))
        assert start.total_seconds == sum(times) + start.first_seconds
        assert 5 < start.loaded_mib <= start.answered_mib <= start.largest_mib
    assert found.page_cache in ("dropped", "kept", "unknown")
    assert len(steps) == 3
    assert list(cache.iterdir()) == [], "the user's own cache is not touched"


def test_cold_starts_find_no_cache_and_warm_ones_find_theirs(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    caches: list[tuple[str, bool]] = []
    real = startup._start

    def start(task: dict[str, object], cache: Path, folder: Path) -> Start:
        caches.append((cache.name, cache.exists()))
        return real(task, cache, folder)

    monkeypatch.setattr(startup, "_start", start)
    measure_starts(bundle.path, None, BATCHES, rounds=1)
    assert caches == [("kept", False), ("cold-1", False), ("kept", True)]


def test_a_process_that_fails_is_an_error_with_its_last_words(bundle: Bundle) -> None:
    flip_byte(bundle.path / "tokenizer" / "tokenizer.json")
    with pytest.raises(BackendError, match="ended with code 1") as caught:
        measure_starts(bundle.path, None, BATCHES, rounds=1)
    assert "IntegrityError: tokenizer/tokenizer.json has SHA-256" in caught.value.message
    assert "lepton-edge run" in str(caught.value)


def test_a_device_is_passed_on(bundle: Bundle) -> None:
    measure_starts(bundle.path, "FAKE", BATCHES[:1], rounds=1)
    with pytest.raises(BackendError):
        measure_starts(bundle.path, "NPU", BATCHES[:1], rounds=1)


def test_files_leave_the_page_cache_or_are_said_to_stay(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(100_000))
    assert startup._drop_from_cache([file]) in ("dropped", "kept", "unknown")
    empty = tmp_path / "empty"
    empty.touch()
    assert startup._drop_from_cache([empty]) == "dropped"
    assert startup._drop_from_cache([tmp_path / "gone"]) == "unknown"


def test_a_file_that_was_just_read_is_in_the_page_cache(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 100_000)
    file.read_bytes()
    with file.open("rb") as stream:
        assert startup._state(stream.fileno(), 100_000) in ("kept", "unknown")


def test_one_file_that_stays_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / name for name in "abc"]
    for file in files:
        file.write_bytes(b"x")
    states = iter(["dropped", "unknown", "kept"])
    monkeypatch.setattr(startup, "_state", lambda handle, size: next(states))
    assert startup._drop_from_cache(files) == "kept"


def test_a_start_adds_up() -> None:
    start = Start(0.1, 0.2, 0.3, 0.4, 1.0, 2.0, 3.0)
    assert start.total_seconds == pytest.approx(1.0)
    assert Startup((start,), (), "kept").cold == (start,)
