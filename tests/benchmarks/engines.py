"""``python -m tests.benchmarks.engines``: what building for NVIDIA takes, and what it gives.

Without a GPU: engines are compiled ahead of time with TensorRT for RTX, and scored through ONNX
Runtime on their typed graphs.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from tests.benchmarks import document, machine
from tests.benchmarks.sources import SHARED, SOURCES, Source, build
from tests.benchmarks.targets import Target
from tests.benchmarks.terminal import Terminal
from tests.benchmarks.workspace import REPOSITORY

OUTPUT = REPOSITORY / "docs" / "benchmarks" / "2026-11-engines.json"
_SCRIPT = Path(__file__).parent / "scripts" / "compile_engine.py"
_PRECISIONS = ("fp32", "auto", "bf16", "int8")
_MIB = 1024 * 1024
_TARGETS = ("intel-cpu", "jetson", "rtx")


class Compilation(msgspec.Struct, frozen=True):
    """By TensorRT alone, in a process of its own."""

    seconds: float
    peak: int
    """Resident bytes at the most."""
    estimate: int
    """Bytes that the build plan says."""
    size: int


class Row(msgspec.Struct, frozen=True):
    """A model at a precision."""

    precision: str
    graph: int
    """Bytes of the deferred artifact for a Jetson."""
    engine: int
    """Bytes of the artifact for rtx."""
    seconds: float
    """From the exported graph to the artifact for rtx: ONNX, calibration, precision, engine."""
    compilation: Compilation
    metric: str
    original: float
    score: float
    max_error: float
    mean_cosine: float


class Engines(msgspec.Struct, frozen=True):
    """Of one model."""

    name: str
    rows: tuple[Row, ...]


class Report(document.Page, frozen=True, kw_only=True):
    """The JSON document."""

    models: tuple[Engines, ...]
    remark: str = ""
    """What a reader has to know of how this run was made."""
    together: dict[str, float]
    """One bundle for three targets, of the first model: seconds of each step's target, and of all.
    """
    sizes: dict[str, int]
    """Bytes of each of its artifacts."""


class _Clock:
    """When each step of a build began."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, float]] = []

    def __call__(self, step: str) -> None:
        self.steps.append((step, time.perf_counter()))

    def between(self, begin: str, end: str) -> float:
        """Seconds from the first step that begins so to the first later one that does."""
        start = next(at for step, at in self.steps if step.startswith(begin))
        return next(at for step, at in self.steps if step.startswith(end) and at > start) - start


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.engines")
    names = [source.name for source in SOURCES]
    parser.add_argument("models", nargs="*", metavar="NAME", help=f"default: {', '.join(names)}")
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="FILE.json")
    arguments = parser.parse_args()
    if not SHARED.is_dir():
        parser.error(f"the real models are not here: {SHARED}")
    wanted = [source for source in SOURCES if source.name in (arguments.models or names)]
    terminal = Terminal()
    ended = document.begun(machine.PACKAGES)
    with tempfile.TemporaryDirectory(prefix="lepton-edge-benchmarks-") as name:
        folder = Path(name)
        models = tuple(_engines(source, folder, terminal) for source in wanted)
        together, sizes = _together(wanted[0], folder, terminal)
    report = Report(
        **ended(),
        models=models,
        together=together,
        sizes=sizes,
        targets=tuple(target for each in models for target in _kept(each)),
    )
    document.save(report, page_of(report), arguments.output)
    terminal.console.print(f"wrote {arguments.output} and its page")


def _engines(source: Source, folder: Path, terminal: Terminal) -> Engines:
    terminal.console.rule(source.name)
    rows = []
    for precision in _PRECISIONS:
        terminal.say(f"building at {precision}")
        rows.append(_row(source, precision, folder))
        shutil.rmtree(folder)
        folder.mkdir()
    return Engines(source.name, tuple(rows))


def _row(source: Source, precision: str, folder: Path) -> Row:
    clock = _Clock()
    bundle = build(source, precision, folder, target="rtx,jetson", progress=clock)
    rtx, jetson = bundle.manifest.artifacts
    compilation = _compiled(bundle.path / jetson.directory)
    return Row(
        precision=precision,
        graph=sum(file.size for file in bundle.files_of(jetson).values()),
        engine=sum(file.size for file in bundle.files_of(rtx).values()),
        seconds=clock.between("compiling for rtx", "comparing rtx"),
        compilation=compilation,
        metric=rtx.quality.metric,
        original=rtx.quality.original,
        score=rtx.quality.score,
        max_error=rtx.parity.max_error,
        mean_cosine=rtx.parity.mean_cosine,
    )


def _compiled(folder: Path) -> Compilation:
    done = subprocess.run(
        [sys.executable, _SCRIPT, folder], capture_output=True, text=True, check=True
    )
    return msgspec.json.decode(done.stdout, type=Compilation)


def _together(
    source: Source, folder: Path, terminal: Terminal
) -> tuple[dict[str, float], dict[str, int]]:
    terminal.say("one bundle for three targets")
    clock = _Clock()
    start = time.perf_counter()
    bundle = build(source, "auto", folder, score=False, target=",".join(_TARGETS), progress=clock)
    seconds = {"all": time.perf_counter() - start}
    sizes = {}
    for artifact in bundle.manifest.artifacts:
        name = artifact.target
        seconds[name] = clock.between(f"compiling for {name}", f"comparing {name}")
        sizes[name] = sum(file.size for file in bundle.files_of(artifact).values())
    return seconds, sizes


def _kept(engines: Engines) -> list[Target]:
    """What a quality gate asks: at most a point of the metric."""
    return [
        Target(
            f"{engines.name}, {row.precision}: {row.metric}",
            "at most 1 point lost",
            f"{(row.original - row.score) * 100:.2f} points",
            (row.original - row.score) * 100 <= 1,
        )
        for row in engines.rows
    ]


def page_of(report: Report) -> str:
    """The Markdown page."""
    lines = [
        "<!-- Written by `make engines`: change tests/benchmarks/ and run it again. -->",
        "",
        "# Engines for NVIDIA GPUs",
        "",
        *document.heading(report),
        "",
        "No GPU was used. Engines are compiled ahead of time by TensorRT for RTX for every compute "
        "capability that it has for the precision; accuracy is of the typed graph through ONNX "
        "Runtime. How fast engines are on a device is not on this page.",
        *(["", report.remark] if report.remark else []),
    ]
    for each in report.models:
        first = each.rows[0]
        lines += [
            "",
            f"## {each.name}",
            "",
            f"{first.metric} of the original: {first.original:.4f}.",
            "",
            f"| precision | graph for a Jetson | engine for rtx | beside fp32 | {first.metric} | "
            "points lost | largest error | mean cosine | export to engine | TensorRT alone | its "
            "peak memory | the plan's estimate |",
            f"| --- |{' ---: |' * 11}",
        ]
        lines += [_line(row, first) for row in each.rows]
    lines += ["", "## One bundle for three targets", "", *_bundle(report)]
    return "\n".join([*lines, ""])


def _line(row: Row, first: Row) -> str:
    cells = [
        row.precision,
        f"{row.graph / 1e6:.1f} MB",
        f"{row.engine / 1e6:.1f} MB",
        f"{row.engine / first.engine:.2f}x",
        f"{row.score:.4f}",
        f"{(row.original - row.score) * 100:.2f}",
        f"{row.max_error:g}",
        f"{row.mean_cosine:.6f}",
        f"{row.seconds:.1f} s",
        f"{row.compilation.seconds:.1f} s",
        f"{row.compilation.peak / _MIB:.0f} MiB",
        f"{row.compilation.estimate / _MIB:.0f} MiB",
    ]
    return f"| {' | '.join(cells)} |"


def _bundle(report: Report) -> list[str]:
    name = report.models[0].name
    lines = [
        f"{name}, `auto`, `--target {','.join(_TARGETS)}`: {report.together['all']:.1f} s in all, "
        "from the model's folder to the bundle.",
        "",
        "| target | size | export to artifact |",
        "| --- | ---: | ---: |",
    ]
    return lines + [
        f"| {target} | {size / 1e6:.1f} MB | {report.together[target]:.1f} s |"
        for target, size in report.sizes.items()
    ]


if __name__ == "__main__":
    main()
