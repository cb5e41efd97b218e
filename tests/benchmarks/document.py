"""The Markdown pages, made from the JSON files alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec

from lepton_edge.benchmark.machine import Machine, Watch, describe, versions
from lepton_edge.benchmark.statistics import DISTURBED
from tests.benchmarks import machine, results, wording
from tests.benchmarks.results import Report, Result
from tests.benchmarks.targets import Target
from tests.benchmarks.workspace import REPOSITORY

_MADE = "<!-- Written by `{}`: change tests/benchmarks/ and run it again. -->"


def write(path: Path) -> Path:
    """The page of one JSON file, beside it, and the index of all in its folder."""
    page = path.with_suffix(".md")
    page.write_text(_page(results.read(path), path), encoding="utf-8")
    write_index(path.parent)
    return page


def write_index(folder: Path) -> None:
    """The page that lists the others."""
    (folder / "README.md").write_text(_index(folder), encoding="utf-8")


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """What the file of a page with a document of its own begins with."""

    date: str
    commit: str
    machine: Machine
    versions: dict[str, str]
    load: tuple[float, float, float]
    """Load averages at the start."""
    others: float
    """Share of the processors' time that other processes took meanwhile, 0 to 1."""
    targets: tuple[Target, ...]


def begun(packages: Sequence[str]) -> Callable[[], dict[str, Any]]:
    """Call it at the start, and what it gives at the end: the fields of a `Page`, less targets."""
    load, watch = os.getloadavg(), Watch()

    def ended() -> dict[str, Any]:
        return {
            "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "commit": machine.commit(REPOSITORY),
            "machine": describe(),
            "versions": versions(packages),
            "load": tuple(round(each, 2) for each in load),
            "others": round(watch.others, 3),
        }

    return ended


def save(page: Page, text: str, path: Path) -> None:
    """The JSON file, its page beside it, and the index."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(page), indent=2) + b"\n")
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    write_index(path.parent)


def heading(report: Page) -> list[str]:
    """When, what, where, and how busy the machine was: two paragraphs."""
    on = report.machine
    busy = " **The machine was busy: trust ratios, not milliseconds.**"
    return [
        f"{report.date[:10]}, commit {report.commit}: {on.processor}, {on.cores} cores "
        f"({', '.join(on.features)}), {on.memory_gib:.0f} GiB, {on.python}; "
        + ", ".join(f"{name} {each}" for name, each in sorted(report.versions.items()))
        + ".",
        "",
        f"Load average before: {report.load[0]:.2f}; other processes took "
        f"{report.others:.1%} of the processors' time meanwhile."
        + (busy if report.others > DISTURBED else ""),
    ]


class _Headed(msgspec.Struct):
    """What every page's file has; `targets` are what a page with a document of its own lists."""

    date: str
    machine: Machine
    targets: tuple[Target, ...] | None = None


def _index(folder: Path) -> str:
    rows = []
    for path in sorted(folder.glob("*.json"), reverse=True):
        head = msgspec.json.decode(path.read_bytes(), type=_Headed)
        if head.targets is None:
            met = [verdict for _, verdict in _verdicts(results.read(path))]
        else:
            met = [target.met for target in head.targets]
        rows.append(
            [
                f"[{path.stem}]({path.stem}.md)",
                head.date[:10],
                f"{head.machine.processor}, {head.machine.cores} cores",
                f"{sum(met)} of {len(met)}",
            ]
        )
    return "\n".join(
        [
            _MADE.format("make bench"),
            "",
            "# Benchmarks",
            "",
            "Speed, size and accuracy of lepton-edge, beside other ways to run the same models. "
            "`make bench`, `make precisions`, `make gains`, `make engines` and `make generation` "
            "measure again (a quarter of an hour each, the last one half an hour; a quiet machine "
            "helps) and write these pages. Each page has a JSON file of the same name with every "
            "raw figure.",
            "",
            "Ratios carry over from one machine to another better than seconds do, so the targets "
            "are ratios, and both sides of a ratio are measured in turn in the same run.",
            "",
            *_table(["page", "date", "machine", "targets met"], rows),
            "",
        ]
    )


def _page(report: Report, path: Path) -> str:
    lines = [
        _MADE.format(report.made),
        "",
        f"# {path.stem}",
        "",
        f"{report.model} on {report.date[:10]}, at commit {report.commit}. "
        f"Raw figures: [{path.name}]({path.name}).",
        "",
        *(line for remark in report.remarks for line in (remark, "")),
        *_summary(report),
        "",
        "## Machine",
        "",
        *_machine(report),
    ]
    for result in report.results:
        lines += ["", f"## {result.title}", "", result.how, "", *_result(result)]
    return "\n".join([*lines, ""])


def _verdicts(report: Report) -> list[tuple[list[str], bool]]:
    """Every target with its cells for the table, and whether it is met."""
    found: list[tuple[list[str], bool]] = []
    for result in report.results:
        for entry in result.comparisons:
            if entry.limit is not None:
                what = f"{result.title}: {entry.case}, beside {entry.other}"
                target = f"{entry.limit.relation} {entry.limit.value:.2f}x"
                met = bool(entry.met)
                found.append(([what, target, wording.times(entry.ratio.median)], met))
        if result.size_limit is not None:
            target = f"{result.size_limit.relation} {result.size_limit.value:.0f} MB"
            cells = [result.title, target, f"{result.total:.0f} MB"]
            found.append((cells, result.size_limit.met(result.total)))
    return found


def _summary(report: Report) -> list[str]:
    rows = [[*cells, f"**{wording.verdict(met)}**"] for cells, met in _verdicts(report)]
    lines = _table(["target", "limit", "measured", ""], rows)
    missed = [
        f"- {entry.case}, beside {entry.other}: {wording.times(entry.ratio.median)}, and the "
        f"target is {entry.limit.relation} {entry.limit.value:.2f}x."
        + (f" Why: {entry.if_missed}." if entry.if_missed else "")
        for result in report.results
        for entry in result.comparisons
        if entry.limit and not entry.met
    ]
    missed += [
        f"- {result.title}: {result.total:.0f} MB, and the target is {result.size_limit.relation} "
        f"{result.size_limit.value:.0f} MB. Why: {result.if_missed}."
        for result in report.results
        if result.size_limit and not result.size_limit.met(result.total)
    ]
    return [*lines, "", "Missed:", "", *missed] if missed else lines


def _machine(report: Report) -> list[str]:
    machine: Machine = report.machine
    virtual = " (a virtual machine)" if machine.virtual else ""
    load = ", ".join(f"{value:.2f}" for value in report.load)
    return [
        f"- {machine.processor}, {machine.cores} cores{virtual}; {', '.join(machine.features)}",
        f"- {machine.memory_gib} GiB of memory; {machine.system}; {machine.python}",
        f"- load averages at the start: {load}; {report.threads} threads everywhere",
        "- " + ", ".join(f"{name} {version}" for name, version in report.versions.items()),
    ]


def _result(result: Result) -> list[str]:
    lines: list[str] = []
    if result.comparisons:
        header = [name or "verdict" for name in wording.comparison_header(result)]
        rows = [wording.comparison(entry) for entry in result.comparisons]
        lines += _table(header, rows)
        counts = {len(entry.ours) for entry in result.comparisons}
        pairs = f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
        lines += [
            "",
            f"Medians of {pairs} pairs; the ratio is {result.columns[0]} over the "
            f"{result.columns[1]}, with its 10th and 90th percentile.",
        ]
    if result.sizes:
        rows = [
            [size.name, size.version, f"{size.megabytes:.1f}", size.required_by]
            for size in result.sizes
        ]
        rows.append(["**total**", "", f"**{result.total:.1f}**", wording.size_verdict(result)])
        lines += _table(["package", "version", "MB", "required by"], rows)
    if result.details:
        rows = [[entry.what, wording.detail(entry)] for entry in result.details]
        lines += ["", *_table(["", "figure"], rows)]
    lines += ["", f"Took {result.seconds:.0f} s."]
    disturbances = wording.disturbances(result)
    if disturbances:
        lines[-1] += f" Noisy: {'; '.join(disturbances)}."
    return lines


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(header)} |",
        f"| {' | '.join('---' for _ in header)} |",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
