"""``python -m tests.benchmarks.gains``: what `tune` and the model cache gain on this machine."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from statistics import median

import msgspec

from lepton_edge.benchmark.startup import Startup, measure_starts
from lepton_edge.tuning import wording
from lepton_edge.tuning.report import Tuning
from tests.benchmarks import document, machine
from tests.benchmarks.sources import SHARED, SOURCES, Source, build, texts_of
from tests.benchmarks.targets import Target, at_least, at_most, table, times
from tests.benchmarks.terminal import Terminal
from tests.benchmarks.workspace import REPOSITORY

OUTPUT = REPOSITORY / "docs" / "benchmarks" / "2026-11-gains.json"
_NAMES = ("all-MiniLM-L6-v2", "sst2-minilm")
_OBJECTIVES = ("latency", "throughput")
_LOADS = 9
_STARTS = 5


class Gains(msgspec.Struct, frozen=True):
    """Of one model."""

    name: str
    first: tuple[float, ...]
    """Seconds of `load` with an empty cache, in a process that opened the bundle before."""
    second: tuple[float, ...]
    """Seconds of the `load` after it, with what the first left."""
    startup: Startup
    tunings: tuple[Tuning, ...]

    @property
    def ratio(self) -> tuple[float, float, float]:
        """Second load beside the first: median, smallest, largest."""
        found = [b / a for a, b in zip(self.first, self.second, strict=True)]
        return median(found), min(found), max(found)


class Report(document.Page, frozen=True, kw_only=True):
    """The JSON document."""

    models: tuple[Gains, ...]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gains")
    parser.add_argument("models", nargs="*", metavar="NAME", help=f"default: {', '.join(_NAMES)}")
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="FILE.json")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each tuning")
    arguments = parser.parse_args()
    if not SHARED.is_dir():
        parser.error(f"the real models are not here: {SHARED}")
    wanted = arguments.models or _NAMES
    terminal = Terminal()
    ended = document.begun(machine.PACKAGES)
    with tempfile.TemporaryDirectory(prefix="lepton-edge-benchmarks-") as folder:
        models = tuple(
            _gains(source, Path(folder), arguments.seconds, terminal)
            for source in SOURCES
            if source.name in wanted
        )
    report = Report(
        **ended(),
        models=models,
        targets=tuple(target for each in models for target in _targets(each)),
    )
    document.save(report, page_of(report), arguments.output)
    terminal.console.print(f"wrote {arguments.output} and its page")


def _gains(source: Source, folder: Path, seconds: float, terminal: Terminal) -> Gains:
    from lepton_edge.tuning.tune import tune

    terminal.console.rule(source.name)
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    terminal.say("building")
    bundle = build(source, "auto", folder, score=False)
    texts = texts_of(source)
    terminal.say("starting processes")
    startup = measure_starts(bundle.path, None, [texts[:1]], rounds=_STARTS)
    terminal.say("loading twice, in turn")
    first, second = _loads(bundle.path, folder)
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    tunings = []
    for objective in _OBJECTIVES:
        terminal.say(f"tuning for {objective}")
        found = tune(bundle.path, objective, texts=texts, seconds=seconds, dry_run=True)
        tunings.append(found)
    return Gains(source.name, first, second, startup, tuple(tunings))


def _loads(bundle: Path, folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Two loads with a cache that is empty before each pair; one pair is not counted."""
    found = []
    for number in range(_LOADS + 1):
        os.environ["XDG_CACHE_HOME"] = str(folder / f"loads-{number}")
        found.append((_load(bundle), _load(bundle)))
    first, second = zip(*found[1:], strict=True)
    return first, second


def _load(bundle: Path) -> float:
    from lepton_edge import load

    start = time.perf_counter()
    model = load(bundle)
    taken = time.perf_counter() - start
    model.close()
    return taken


def _targets(gains: Gains) -> list[Target]:
    found = [at_most(f"{gains.name}: second load beside the first", 0.5, gains.ratio)]
    for tuning in gains.tunings:
        what = f"{gains.name}: tuned for {tuning.objective}, beside the default"
        found.append(at_least(what, 1.0, _gain(tuning)))
    return found


def _gain(tuning: Tuning) -> tuple[float, float, float]:
    """Of the run-off; 1 where the default stays."""
    if tuning.winner == "default":
        return 1.0, 1.0, 1.0
    best = next(trial for trial in tuning.candidates if trial.name == tuning.winner)
    assert best.ratio is not None
    return best.ratio.median, best.ratio.low, best.ratio.high


def page_of(report: Report) -> str:
    """The Markdown page."""
    lines = [
        "<!-- Written by `make gains`: change tests/benchmarks/ and run it again. -->",
        "",
        "# What tuning and the model cache gain",
        "",
        *document.heading(report),
        "",
        *table(report.targets),
    ]
    for each in report.models:
        lines += ["", f"## {each.name}", "", _opening(each)]
        for tuning in each.tunings:
            lines += ["", f"### {tuning.objective}", "", *_trials(tuning)]
    return "\n".join([*lines, ""])


def _opening(gains: Gains) -> str:
    cold = [start.total_seconds for start in gains.startup.cold]
    warm = [start.total_seconds for start in gains.startup.warm]
    beside = [b / a for a, b in zip(cold, warm, strict=True)]
    return (
        f"`load` with an empty cache takes {median(gains.first) * 1000:.0f} ms and the next one "
        f"{median(gains.second) * 1000:.0f} ms, {times(gains.ratio)} in {len(gains.first)} pairs "
        "(one process, libraries loaded). A fresh process, from its start to the first answer, "
        f"takes {median(cold):.2f} s with an empty cache and {median(warm):.2f} s later, "
        f"{times((median(beside), min(beside), max(beside)))} in {len(cold)} pairs."
    )


def _trials(tuning: Tuning) -> list[str]:
    header, rows = wording.table(tuning)
    lines = [
        f"On {tuning.texts}. Took {tuning.took_seconds:.0f} s; other processes took "
        f"{tuning.others:.1%} of the processors meanwhile. The {wording.verdict(tuning)}.",
        "",
        "| " + " | ".join(header) + " |",
        "| --- |" + " ---: |" * (len(header) - 2) + " --- |",
    ]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    warned = [f"- {warning}" for warning in wording.warnings_of(tuning)]
    return [*lines, "", *warned] if warned else lines


if __name__ == "__main__":
    main()
