"""A report as a self-contained HTML page."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lepton_edge import page, plots
from lepton_edge.benchmark import wording
from lepton_edge.benchmark.report import Case, Report, Timing
from lepton_edge.benchmark.startup import Start, Startup
from lepton_edge.benchmark.statistics import extent, percentile
from lepton_edge.page import Markup
from lepton_edge.plots import Range, Series


def page_of(report: Report) -> str:
    """The whole page: the figures that matter most, plots, tables, and what they hold."""
    subject = report.subject
    warnings = wording.warnings_of(report)
    parts = [
        page.tiles(_tiles(report)),
        *([page.notice("warning", page.bullets(warnings))] if warnings else []),
        *([_comparison(report)] if wording.is_compared(report) else []),
        _latency(report),
        _throughput(report),
        *([_start(report.startup)] if report.startup else []),
        page.section("All figures", _all_figures(report)),
        page.section("What each figure holds", page.bullets(report.notes)),
        page.section("Bundle, machine and versions", page.facts(_facts(report))),
    ]
    return page.page(
        f"{subject.name} {subject.version}: benchmark",
        *parts,
        subtitle=f"{wording.how_it_runs(report)} · {report.machine.processor} · "
        f"{report.created[:10]}",
    )


def _tiles(report: Report) -> list[tuple[str, str, str]]:
    fastest = max(report.cases, key=lambda case: case.ours.inputs_per_second)
    first = report.cases[0]
    tiles = [
        (
            f"p50 latency, {_case(first)}",
            f"{wording.figure(first.ours.p50_ms)} ms",
            f"p99 {wording.figure(first.ours.p99_ms)} ms",
        ),
        (
            "most texts a second",
            wording.figure(fastest.ours.inputs_per_second),
            _case(fastest),
        ),
    ]
    if report.startup:
        warm = extent([start.total_seconds for start in report.startup.warm])
        cold = extent([start.total_seconds for start in report.startup.cold])
        memory = extent([start.largest_mib for start in report.startup.warm])
        tiles += [
            (
                "new process to first answer",
                f"{wording.figure(warm.median)} s",
                f"the first time ever {wording.figure(cold.median)} s",
            ),
            ("peak memory", f"{wording.figure(memory.median)} MiB", "after the largest batch"),
        ]
    for name in [timing.name for timing in first.others]:
        tiles.append(_ratio_tile(report.cases, name))
    return tiles


def _ratio_tile(cases: Sequence[Case], name: str) -> tuple[str, str, str]:
    """The middle of the cases' ratios, and the least and the most of them."""
    medians = [
        timing.ratio.median
        for case in cases
        for timing in case.others
        if timing.name == name and timing.ratio
    ]
    span = f"{wording.times(min(medians))} to {wording.times(max(medians))} by case"
    return f"beside {name}", wording.times(percentile(medians, 0.5)), f"as fast; {span}"


def _comparison(report: Report) -> Markup:
    drawings = []
    for place, name in enumerate(timing.name for timing in report.cases[0].others):
        rows = [
            Range(_short(case), each.ratio.median, each.ratio.low, each.ratio.high)
            for case in report.cases
            for each in case.others
            if each.name == name and each.ratio
        ]
        drawings.append(
            plots.ranges(
                f"Beside {name}",
                rows,
                x="times as fast",
                unit="x",
                write=wording.times,
                reference=1.0,
                colour=place + 1,
            )
        )
    header, rows_ = wording.ratios_table(report.cases)
    return page.section(
        "How many times as fast as the original",
        page.paragraph(
            "A row is a call of so many texts x tokens. Its dot is the median of the rounds, its "
            "line runs from the smallest to the largest. To the right of the dashed line "
            "lepton-edge is faster."
        ),
        page.side_by_side(*drawings),
        page.table(header, rows_, numbers=range(len(header))),
    )


def _latency(report: Report) -> Markup:
    batch = min(case.batch for case in report.cases)
    cases = [case for case in report.cases if case.batch == batch]
    what = "one text" if batch == 1 else f"{batch} texts"
    series = [
        Series(
            name,
            [timing.p50_ms for timing in timings],
            [timing.p50_ms for timing in timings],
            [timing.p99_ms for timing in timings],
        )
        for name, timings in _by_way(cases)
    ]
    header, rows = wording.calls_table(cases)
    keep = [1, 2, 3, 4, 5]
    return page.section(
        "Latency",
        page.side_by_side(
            plots.lines(
                f"A call with {what}, by length",
                [_tokens(case) for case in cases],
                series,
                x="tokens of a text",
                y="ms",
                logarithmic=True,
                remark="Dots are medians; the lines above them end at p99. Logarithmic.",
            ),
            page.table(
                [header[column] for column in keep],
                [[row[column] for column in keep] for row in rows],
                numbers=range(len(keep)),
                caption=f"lepton-edge, {what} a call",
            ),
        ),
    )


def _throughput(report: Report) -> Markup:
    drawings = []
    for length in dict.fromkeys(case.length for case in report.cases):
        cases = [case for case in report.cases if case.length == length]
        series = []
        for name, timings in _by_way(cases):
            low_high = [_rates(case, timing) for case, timing in zip(cases, timings, strict=True)]
            series.append(
                Series(
                    name,
                    [timing.inputs_per_second for timing in timings],
                    [low for low, _ in low_high],
                    [high for _, high in low_high],
                )
            )
        what = f"texts of {length} tokens" if length else "texts of one's own"
        drawings.append(
            plots.bars(
                f"Throughput, {what}",
                [str(case.batch) for case in cases],
                series,
                x="texts a call",
                y="texts/s",
            )
        )
    return page.section(
        "Throughput",
        page.side_by_side(*drawings),
        page.small("Bars are of all calls; whiskers run from the slowest to the fastest round."),
    )


def _rates(case: Case, timing: Timing) -> tuple[float, float]:
    """The slowest and the fastest round's throughput. A round of single calls has its median."""
    rates = [
        1000 * case.batch / value if case.objective == "p50" else value for value in timing.rounds
    ]
    return min(rates), max(rates)


def _start(startup: Startup) -> Markup:
    ways = {"cold": startup.cold, "warm": startup.warm}
    stages: dict[str, Callable[[Start], float]] = {
        "interpreter": lambda start: start.process_seconds,
        "import": lambda start: start.import_seconds,
        "load": lambda start: start.load_seconds,
        "first answer": lambda start: start.first_seconds,
    }
    times = [
        Series(stage, [extent([value(start) for start in way]).median for way in ways.values()])
        for stage, value in stages.items()
    ]
    levels = ("load", "first answer", "largest batch")
    peaks: list[list[float]] = [
        [extent(values).median for values in zip(*map(_levels, way), strict=True)]
        for way in ways.values()
    ]
    header, rows = wording.start_table(startup)
    return page.section(
        "Start and memory of a fresh process",
        page.side_by_side(
            plots.stacks("From nothing to the first answer", list(ways), times, x="seconds"),
            plots.bars(
                "Peak memory",
                levels,
                [Series(name, peak) for name, peak in zip(ways, peaks, strict=True)],
                x="peak after",
                y="MiB",
            ),
        ),
        page.table(header, rows, numbers=(1, 2)),
    )


def _levels(start: Start) -> tuple[float, float, float]:
    return start.loaded_mib, start.answered_mib, start.largest_mib


def _all_figures(report: Report) -> Markup:
    header, rows = wording.all_calls_table(report.cases)
    table = page.table(header, rows, numbers=range(1, len(header)))
    return page.folded(f"{len(rows)} rows: every way in every case", table)


def _facts(report: Report) -> list[tuple[str, page.Part]]:
    subject, machine, settings = report.subject, report.machine, report.settings
    session = ", ".join(f"{name} {value}" for name, value in subject.session.items())
    facts: list[tuple[str, page.Part]] = [
        ("bundle", f"{subject.name} {subject.version}, {subject.size_mib:g} MiB"),
        ("manifest.json", page.code(subject.manifest_sha256)),
        ("built from", f"{subject.source}, for {subject.target}, with {subject.requires}"),
        ("its weights", page.code(subject.source_sha256)),
        ("session", f"{subject.device} ({subject.backend}): {session or 'as it is'}"),
        ("machine", wording.machine_line(report)),
        ("instruction sets", ", ".join(machine.features) or "not known"),
        ("system", f"{machine.system}; {machine.python}"),
        ("versions", ", ".join(f"{name} {each}" for name, each in report.versions.items())),
        ("texts", report.texts),
        (
            "settings",
            f"{settings.rounds} rounds, {settings.seconds:g} s a way and case, "
            f"{settings.starts} starts",
        ),
        (
            "meanwhile",
            f"load average {report.load_average:.2f} at the start; other processes took "
            f"{report.others:.0%} of the processors' time; {report.took_seconds:.0f} s in all",
        ),
    ]
    if subject.profile:
        tuned = f"tuned for {subject.profile.objective} on this machine"
        facts.insert(5, ("profile", tuned))
    if report.original:
        facts.insert(4, ("original", report.original))
    return facts


def _by_way(cases: Sequence[Case]) -> list[tuple[str, list[Timing]]]:
    """Each way's timings over the cases, the bundle's first."""
    columns = zip(*((case.ours, *case.others) for case in cases), strict=True)
    return [(timings[0].name, list(timings)) for timings in columns]


def _case(case: Case) -> str:
    return wording.describe_case(case.batch, case.length)


def _short(case: Case) -> str:
    return f"{case.batch} x {_tokens(case)}"


def _tokens(case: Case) -> str:
    return str(case.length or f"{case.tokens:.0f} on average")
