"""``python -m tests.benchmarks.precisions``: each real model at each precision, on one page.

Size, the task's metric on real data, latency and throughput; beside the original by torch and ONNX
Runtime, and beside the time that the matrix products alone take. Every way takes its turn in every
round, so ratios carry over from one machine to another better than milliseconds do.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from lepton_edge.benchmark.statistics import NOISY
from tests.benchmarks import document, machine
from tests.benchmarks.sources import SHARED, SOURCES, Source, build, texts_of
from tests.benchmarks.targets import Target, at_least, table
from tests.benchmarks.terminal import Terminal
from tests.benchmarks.workspace import REPOSITORY

OUTPUT = REPOSITORY / "docs" / "benchmarks" / "2026-11-precisions.json"
PRECISIONS = ("fp32", "auto", "int8", "int8-weights")
_BATCH = 32  # texts a call, as they come in the data
_SINGLE = 32  # texts, one a call
_ROUNDS = 7
_SECONDS = 4.0
# How many times as fast as each in batches.
_LEAST = {"torch fp32": 2.0, "torch bf16": 1.0, "ONNX Runtime fp32": 1.5}


class Speed(msgspec.Struct, frozen=True):
    """Of one way: the middle of its rounds, and its ratios to others, each with its ends.

    A ratio above 1 says how many times as fast the way is.
    """

    figure: float
    """Milliseconds of a call with one text, or texts a second."""
    ratios: dict[str, tuple[float, float, float]]
    """Beside another way: median, smallest and largest."""


class Row(msgspec.Struct, frozen=True):
    """One way to run one model."""

    name: str
    size: int | None
    score: float | None
    latency: Speed
    throughput: Speed


class Model(msgspec.Struct, frozen=True):
    """One model's rows; ``floor`` is the time of a batch's matrix products alone, by torch in
    bf16, in milliseconds, and ``batch`` of a whole batch at `auto`."""

    name: str
    metric: str
    data: str
    examples: int
    original: float
    tokens: int
    floor: float
    batch: float
    rows: tuple[Row, ...]


class Report(document.Page, frozen=True, kw_only=True):
    """The JSON document."""

    models: tuple[Model, ...]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.precisions")
    names = ", ".join(source.name for source in SOURCES)
    parser.add_argument("models", nargs="*", metavar="NAME", help=f"all where absent: {names}")
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="FILE.json")
    arguments = parser.parse_args()
    if not SHARED.is_dir():
        parser.error(f"the real models are not here: {SHARED}")
    wanted = arguments.models or [source.name for source in SOURCES]
    chosen = [source for source in SOURCES if source.name in wanted]
    terminal = Terminal()
    ended = document.begun((*machine.PACKAGES, "nncf"))
    with tempfile.TemporaryDirectory(prefix="lepton-edge-benchmarks-") as folder:
        os.environ["XDG_CACHE_HOME"] = str(Path(folder) / "cache")
        models = tuple(_model(source, Path(folder), terminal) for source in chosen)
    report = Report(
        **ended(),
        models=models,
        targets=tuple(target for model in models for target in _targets(model)),
    )
    document.save(report, page_of(report), arguments.output)
    terminal.console.print(f"wrote {arguments.output} and its page")


def _model(source: Source, folder: Path, terminal: Terminal) -> Model:
    from lepton_edge import load
    from lepton_edge.benchmark.originals import read_original

    terminal.console.rule(source.name)
    path = source.path
    bundles = {each: _built(source, each, folder, terminal) for each in PRECISIONS}
    with ExitStack() as stack:
        ours = {name: stack.enter_context(load(bundle.path)) for name, bundle in bundles.items()}
        originals = read_original(path, ("torch", "onnxruntime"), bundles["auto"].manifest)
        texts = texts_of(source)
        others = stack.enter_context(originals.opened(ours["auto"], machine.cores(), texts[:2]))
        ways = {**ours, **others}
        terminal.say("measuring one text at a time")
        single = [[text] for text in _spread(texts, _SINGLE)]
        latency = _speeds(ways, single, "p50")
        terminal.say(f"measuring {_BATCH} texts at a time")
        batches = [texts[i : i + _BATCH] for i in range(0, len(texts) - _BATCH + 1, _BATCH)]
        throughput = _speeds(ways, batches[:16], "throughput")
        encoder = ours["auto"].encoder
        padded = _BATCH * max(map(len, encoder.encode(batches[0])))
        floor = _floor(path, padded)
        batch = _time(lambda: ours["auto"](batches[0]))
    quality = bundles["auto"].manifest.artifacts[0].quality
    assert quality is not None
    rows = tuple(_row(name, bundles.get(name), latency[name], throughput[name]) for name in ways)
    return Model(
        source.name,
        quality.metric,
        quality.data,
        quality.examples,
        quality.original,
        padded,
        floor,
        batch,
        rows,
    )


def _built(source: Source, precision: str, folder: Path, terminal: Terminal) -> Any:
    terminal.say(f"building at {precision}, and scoring")
    return build(source, precision, folder)


def _targets(model: Model) -> list[Target]:
    """That the page is judged by: speed of batches, and what 8 bits cost."""
    rows = {row.name: row for row in model.rows}
    found = []
    for name in ("auto", "int8"):
        for other, least in _LEAST.items():
            ratio = rows[name].throughput.ratios[other]
            found.append(at_least(f"{model.name}: {name} beside {other}", least, ratio))
    int8 = rows["int8"]
    found.append(at_least(f"{model.name}: int8 beside auto", 1.0, int8.throughput.ratios["auto"]))
    assert int8.score is not None
    assert int8.size is not None
    assert rows["fp32"].size is not None
    points = (int8.score - model.original) * 100
    found.append(
        Target(
            f"{model.name}: {model.metric}, int8 beside the original",
            "at most 1.0 point lower",
            f"{points:+.2f} points",
            points >= -1.0,
        )
    )
    share = int8.size / rows["fp32"].size
    what = f"{model.name}: size of int8 beside fp32"
    found.append(Target(what, "at most 0.30x", f"{share:.3f}x", share <= 0.30))
    return found


def _spread(texts: Sequence[str], count: int) -> list[str]:
    return [texts[i * len(texts) // count] for i in range(count)]


def _speeds(ways: dict[str, Any], batches: Sequence[Any], objective: Any) -> dict[str, Speed]:
    from lepton_edge.benchmark.contest import Candidate, measure_in_turn
    from lepton_edge.benchmark.timing import Pace

    candidates = [Candidate.of(name, model) for name, model in ways.items()]
    pace = Pace(rounds=_ROUNDS, seconds=_SECONDS)
    found = measure_in_turn(candidates, batches, objective, pace=pace)
    standings = {each.name: each for each in found}
    better = (lambda a, b: b / a) if objective == "p50" else (lambda a, b: a / b)
    speeds = {}
    for name, standing in standings.items():
        ratios = {
            other: sorted(
                better(a, b) for a, b in zip(standing.figures, theirs.figures, strict=True)
            )
            for other, theirs in standings.items()
            if other != name
        }
        figure = standing.figure.median * (1000 if objective == "p50" else 1)
        ends = {other: (median(each), each[0], each[-1]) for other, each in ratios.items()}
        speeds[name] = Speed(figure, ends)
    return speeds


def _row(name: str, bundle: Any, latency: Speed, throughput: Speed) -> Row:
    if bundle is None:
        return Row(name, None, None, latency, throughput)
    artifact = bundle.manifest.artifacts[0]
    size = sum(
        file.size
        for path, file in bundle.manifest.files.items()
        if path.startswith(artifact.directory)
    )
    return Row(name, size, artifact.quality.score, latency, throughput)


def _floor(path: Path, tokens: int) -> float:
    """Milliseconds of a batch's matrix products with weights, by torch in bf16."""
    import torch

    config = msgspec.json.decode((path / "config.json").read_bytes())
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    shapes = [(hidden, hidden)] * 4 + [(hidden, inner), (inner, hidden)]
    weights = [torch.randn(a, b).bfloat16() for a, b in shapes]
    inputs = [torch.randn(tokens, a).bfloat16() for a, _ in shapes]

    def products() -> None:
        for _ in range(config["num_hidden_layers"]):
            for x, w in zip(inputs, weights, strict=True):
                x @ w

    with torch.no_grad():
        return _time(products)


def _time(call: Any, repeats: int = 20) -> float:
    for _ in range(3):
        call()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return median(seconds) * 1000


def page_of(report: Report) -> str:
    """The Markdown page."""
    lines = [
        "<!-- Written by `make precisions`: change tests/benchmarks/ and run it again. -->",
        "",
        "# Precisions of the real models",
        "",
        *document.heading(report),
        "",
        "*ms*: median time of `model(text)`, one text of the evaluation data a call. *texts/s*: "
        f"`model(texts)` with {_BATCH} texts a call, as they come in the data; the originals get "
        "the same list as one padded batch. Everything is counted, from text to result. A ratio is "
        "the median over rounds in which all ways took turns (smallest to largest), and above 1 "
        f"is faster than the way in its column; spreads beyond {NOISY:.0%} are marked ~.",
    ]
    lines += ["", "## Targets", "", *table(report.targets)]
    for model in report.models:
        lines += ["", f"## {model.name}", "", *_table(model), "", _remark(model)]
    return "\n".join([*lines, ""])


_BESIDE = ("torch fp32", "torch bf16", "ONNX Runtime fp32", "auto")


def _table(model: Model) -> list[str]:
    full = next(row.size for row in model.rows if row.name == "fp32")
    assert full is not None
    header = ["precision", "MB", "of fp32", model.metric, "points", "ms", "texts/s"]
    header += [f"texts/s beside {name}" for name in _BESIDE]
    lines = ["| " + " | ".join(header) + " |", "| --- |" + " ---: |" * (len(header) - 1)]
    for row in model.rows:
        beside = [_ratio(row.throughput.ratios.get(name)) for name in _BESIDE]
        cells = [
            row.name,
            "" if row.size is None else f"{row.size / 1e6:.1f}",
            "" if row.size is None else f"{row.size / full:.3f}",
            "" if row.score is None else f"{row.score:.4f}",
            "" if row.score is None else f"{(row.score - model.original) * 100:+.2f}",
            f"{row.latency.figure:.2f}",
            f"{row.throughput.figure:,.0f}",
            *beside,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _ratio(ratio: tuple[float, float, float] | None) -> str:
    if ratio is None:
        return ""
    middle, low, high = ratio
    noisy = "~" if (high - low) / middle > NOISY else ""
    return f"{noisy}{middle:.2f} ({low:.2f} to {high:.2f})"


def _remark(model: Model) -> str:
    return (
        f"{model.metric} on {model.examples:,} examples of {model.data}; the original in fp32: "
        f"{model.original:.4f}. The weights' matrix products of the first batch, as one padded "
        f"batch of {model.tokens:,} tokens, take {model.floor:.1f} ms by torch in bf16; "
        f"`model(texts)` at `auto` takes {model.batch:.1f} ms for that batch, "
        f"{model.batch / model.floor:.2f} times as long."
    )


if __name__ == "__main__":
    main()
