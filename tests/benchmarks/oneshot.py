"""A whole process that answers one text."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import structs

from lepton_edge.benchmark.statistics import summarize
from tests.benchmarks import texts
from tests.benchmarks.results import Comparison, Detail, Limit, Result

if TYPE_CHECKING:
    from tests.benchmarks.terminal import Terminal
    from tests.benchmarks.workspace import Workspace

ROUNDS = 7

_STAGE_RUNS = 5
_SCRIPTS = Path(__file__).parent / "scripts"
_WALL, _MEMORY = Limit("at most", 0.10), Limit("at most", 0.35)
_HOW = (
    "`lepton-edge run BUNDLE TEXT` from start to exit beside other whole programs, in turn "
    "(A B A B …) after one warm-up run each, which reads the files into the system's cache and "
    "compiles Python's bytecode. Memory is the peak resident size of the process, library files "
    "that it maps included. `transformers`: a script with AutoTokenizer, AutoModel and mean "
    "pooling, as the model card shows it. `pipeline`: `transformers.pipeline`. `OpenVINO and "
    "tokenizers`: a script that compiles the bundle's own IR. The first run ever is `lepton-edge "
    "run` with an empty cache folder: it hashes every file and compiles the model; later runs find "
    "both done."
)
_WALL_IF_MISSED = (
    "what is left is Python's start, the imports of numpy, OpenVINO and tokenizers, opening the "
    "compiled model and its first inference: the figures under the table say how long each takes, "
    "and the row beside OpenVINO and tokenizers what they take without lepton-edge"
)
_MEMORY_IF_MISSED = (
    "the peak is the libraries of Python, numpy, OpenVINO and tokenizers, and the model's weights "
    "twice: as the file has them, and as OpenVINO lays them out for the processor. The row beside "
    "OpenVINO and tokenizers says what these take without lepton-edge"
)


@dataclass(frozen=True)
class _Pair:
    """lepton-edge, with the caches of earlier runs or as the first run ever, and another."""

    command: list[str]
    first_run: bool
    wall: Comparison
    memory: Comparison

    @classmethod
    def of(cls, other: str, command: list[str], first_run: bool = False) -> _Pair:
        note = ", first run ever" if first_run else ""
        return cls(
            command,
            first_run,
            Comparison(f"time{note}", other, "s", [], []),
            Comparison(f"peak memory{note}", other, "MiB", [], []),
        )


def measure(work: Workspace, rounds: int, terminal: Terminal) -> Result:
    """``rounds`` rounds; in each, lepton-edge and every other program in turn."""
    ours = [_console_script(), "run", str(work.bundle.path), texts.SHORT]
    transformers = _script("mean_pooling.py", work.model)
    pairs = [
        _Pair.of("transformers", transformers),
        _Pair.of("pipeline", _script("pipeline.py", work.model)),
        _Pair.of(
            "OpenVINO and tokenizers",
            _script("openvino_tokenizers.py", work.ir, work.tokenizer_file),
        ),
        _Pair.of("transformers", transformers, first_run=True),
    ]
    environment = _environment(work.folder)
    _forget(work.bundle.path)
    _forget(work.model)
    with terminal.steps((rounds + 1) * len(pairs) * 2) as step:
        for number in range(rounds + 1):
            for pair in pairs:
                step(f"lepton-edge: {pair.wall.case}")
                seconds, peak = (_first_run if pair.first_run else _run)(ours, environment)
                step(pair.wall.other)
                other_seconds, other_peak = _run(pair.command, environment)
                if number:  # the first round warms up
                    pair.wall.ours.append(seconds)
                    pair.wall.theirs.append(other_seconds)
                    pair.memory.ours.append(peak)
                    pair.memory.theirs.append(other_peak)
    wall, memory = [pair.wall for pair in pairs], [pair.memory for pair in pairs]
    wall[0] = structs.replace(wall[0], limit=_WALL, if_missed=_WALL_IF_MISSED)
    memory[0] = structs.replace(memory[0], limit=_MEMORY, if_missed=_MEMORY_IF_MISSED)
    return Result(
        name="oneshot",
        title="One text, the whole process",
        how=_HOW,
        comparisons=[*wall, *memory],
        details=_stages(work, environment),
    )


def _first_run(command: list[str], environment: Mapping[str, str]) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as cache:
        return _run(command, {**environment, "XDG_CACHE_HOME": cache})


def _stages(work: Workspace, environment: Mapping[str, str]) -> list[Detail]:
    """Where the time and memory of one process go, stage by stage; medians of several."""
    command = [sys.executable, str(_SCRIPTS / "stages.py"), str(work.bundle.path), texts.SHORT]
    runs: list[dict[str, tuple[float, float]]] = []
    for _ in range(_STAGE_RUNS):
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        runs.append(json.loads(done.stdout))
    empty = [_run([sys.executable, "-c", "pass"], environment)[0] for _ in runs]
    details = [Detail("Python's own start and exit", summarize(empty).median * 1000, "ms")]
    for stage in runs[0]:
        seconds = summarize([run[stage][0] for run in runs]).median
        peak = summarize([run[stage][1] for run in runs]).median
        details.append(Detail(stage, round(seconds * 1000, 1), f"ms; peak {peak:.0f} MiB by then"))
    return details


def _run(command: list[str], environment: Mapping[str, str]) -> tuple[float, float]:
    """Seconds, and peak memory in MiB."""
    with tempfile.NamedTemporaryFile("r", encoding="utf-8", errors="replace") as errors:
        launch = [sys.executable, "-I", "-S", str(_SCRIPTS / "launch.py"), errors.name, *command]
        done = subprocess.run(launch, env=environment, check=True, capture_output=True, text=True)
        measured = json.loads(done.stdout)
        if measured["code"]:
            raise SystemExit(f"{' '.join(command)} failed:\n{errors.read()[-2000:]}")
    return round(measured["seconds"], 4), round(measured["peak_kib"] / 1024, 1)


def _forget(folder: Path) -> None:
    """Drop a folder's files from the system's cache, so that the next reader brings them back as
    after the machine's start. A file that was just written is cached in larger pieces, and a
    process that maps it counts up to 4 MiB more of it as its own."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _environment(folder: Path) -> dict[str, str]:
    """This process's, with a home of its own in which OpenVINO's usage reports are declined, and
    with Python's bytecode kept, as it is in an installation."""
    home = folder / "home"
    consent = home / "intel" / "openvino_telemetry"
    consent.parent.mkdir(parents=True, exist_ok=True)
    consent.write_text("0", encoding="utf-8")
    environment = {**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return environment


def _script(name: str, *arguments: Path) -> list[str]:
    return [sys.executable, str(_SCRIPTS / name), *map(str, arguments), texts.SHORT]


def _console_script() -> str:
    found = shutil.which("lepton-edge", path=str(Path(sys.executable).parent))
    if found is None:
        raise SystemExit("the command lepton-edge is not installed beside this Python: make dev")
    return found
