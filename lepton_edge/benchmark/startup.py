"""Fresh processes that open a bundle and answer: how long that takes, and how much memory.

Cold is the first run ever: an empty cache folder, so that every file is hashed and the model is
compiled, and the bundle's files dropped from the system's page cache where it lets us. Warm is
every later run.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lepton_edge.errors import BackendError

_SCRIPT = Path(__file__).parent / "scripts" / "start.py"
_PAGE = 4096

PageCache = Literal["dropped", "kept", "unknown"]


@dataclass(frozen=True)
class Start:
    """One fresh process. Times in seconds, memory in MiB (resident, library files that it maps
    included)."""

    process_seconds: float
    """From before the process was made until Python ran its first line."""
    import_seconds: float
    """`import lepton_edge` as far as the runtime needs it."""
    load_seconds: float
    """`lepton_edge.load(bundle)`, in which the backend's libraries are imported too."""
    first_seconds: float
    """The first answer, of one short input."""
    loaded_mib: float
    """Peak memory after `load`."""
    answered_mib: float
    """Peak memory after the first answer."""
    largest_mib: float
    """Peak memory after the largest of the batches that were measured."""

    @property
    def total_seconds(self) -> float:
        """From making the process to the first answer."""
        return self.process_seconds + self.import_seconds + self.load_seconds + self.first_seconds


@dataclass(frozen=True)
class Startup:
    """Repeated starts, cold and warm in turn."""

    cold: tuple[Start, ...]
    warm: tuple[Start, ...]
    page_cache: PageCache
    """Whether the system gave the bundle's files out of its page cache before each cold start.
    The libraries' files stayed in it."""


def measure_starts(
    bundle: Path,
    device: str | None,
    batches: Sequence[Sequence[str]],
    *,
    rounds: int = 3,
    progress: Callable[[str], None] = lambda step: None,
) -> Startup:
    """Start processes in turn: cold, warm, cold, warm …, after one that is not counted.

    ``batches`` are texts; inputs of the bundle's task are made of them. The first text of the
    first is what the first answer is for. Raises `BackendError` where a process fails.
    """
    files = [path for path in bundle.rglob("*") if path.is_file()]
    dropped: list[PageCache] = []
    cold, warm = [], []
    with tempfile.TemporaryDirectory(prefix="lepton-edge-bench-") as folder:
        kept = Path(folder) / "kept"
        task = {
            "bundle": str(bundle.resolve()),
            "device": device,
            "first": batches[0][0],
            "batches": [list(texts) for texts in batches],
        }
        progress("starting fresh processes: one that is not counted")
        _start(task, kept, Path(folder))
        for number in range(1, rounds + 1):
            progress(f"starting fresh processes: {number} of {rounds}, cold and warm")
            dropped.append(_drop_from_cache(files))
            cold.append(_start(task, Path(folder) / f"cold-{number}", Path(folder)))
            warm.append(_start(task, kept, Path(folder)))
    states = set(dropped)
    return Startup(tuple(cold), tuple(warm), states.pop() if len(states) == 1 else "unknown")


def _start(task: dict[str, Any], cache: Path, folder: Path) -> Start:
    asked, answer = folder / "task.json", folder / "result.json"
    answer.unlink(missing_ok=True)
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    asked.write_text(json.dumps({**task, "started": time.monotonic()}), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(_SCRIPT), str(asked), str(answer)],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if done.returncode or not answer.is_file():
        raise BackendError(
            f"a fresh process that opens {task['bundle']} ended with code {done.returncode}: "
            f"{_last_words(done.stderr)}",
            hint=f'try it by itself: lepton-edge run {task["bundle"]} "some text"',
        )
    return Start(**json.loads(answer.read_bytes()))


def _last_words(errors: bytes) -> str:
    """The exception of a traceback, without the lines of code above it."""
    lines = errors.decode(errors="replace").rstrip().splitlines()
    starts = [place for place, line in enumerate(lines) if line[:1].strip()]
    return " ".join(line.strip() for line in lines[starts[-1] :]) if starts else "no message"


def _drop_from_cache(files: Iterable[Path]) -> PageCache:
    """Ask the system to forget what it keeps of these files, and look whether it did."""
    states = set()
    for path in files:
        try:
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                states.add(_state(file.fileno(), path.stat().st_size))
        except (OSError, AttributeError):  # not allowed, or not a system that has it
            states.add("unknown")
    for state in ("kept", "unknown"):
        if state in states:
            return state
    return "dropped"


def _state(handle: int, size: int) -> str:
    """Whether the first, the middle or the last page of a file is in the page cache: a read that
    must not wait for the disk gives it then."""
    for offset in {0, size // 2, max(size - 1, 0)} if size else ():
        try:
            os.preadv(handle, [bytearray(1)], offset // _PAGE * _PAGE, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                continue
            return "unknown"
        return "kept"
    return "dropped"
