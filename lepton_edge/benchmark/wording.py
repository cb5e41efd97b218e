"""How figures are written, in the terminal and in the HTML page alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from lepton_edge.benchmark.statistics import DISTURBED, NOISY, Summary, extent
from lepton_edge.benchmark.timing import LONG, Pace

if TYPE_CHECKING:
    from lepton_edge.benchmark.report import BenchSettings, Case, Report, Timing
    from lepton_edge.benchmark.startup import Start, Startup

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]

_FEW_CALLS = 100
_NAMED = 4


def figure(value: float) -> str:
    """Three digits that count, and no fewer than the whole number has."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def times(ratio: float) -> str:
    return f"{ratio:.3f}x" if ratio < 0.2 else f"{ratio:.2f}x"


def between(summary: Summary, shown: Callable[[float], str] = figure) -> str:
    """A median and its range."""
    return f"{shown(summary.median)} ({shown(summary.low)} – {shown(summary.high)})"


def describe_case(batch: int, length: int | None) -> str:
    """``8 texts of 128 tokens``."""
    texts = "1 text" if batch == 1 else f"{batch} texts"
    return f"{texts} of {length} tokens" if length else f"{texts} of one's own"


def is_compared(report: Report) -> bool:
    """Whether something was measured beside the bundle."""
    return any(case.others for case in report.cases)


def calls_table(cases: Sequence[Case]) -> Table:
    """Latency and throughput of the bundle, a row a case."""
    header = ("batch", "tokens", "calls", "p50 ms", "p90 ms", "p99 ms", "texts/s", "tokens/s")
    return header, [(str(case.batch), _tokens(case.tokens), *_timing(case.ours)) for case in cases]


def all_calls_table(cases: Sequence[Case]) -> Table:
    """The same of every way that was measured."""
    header, _ = calls_table(())
    rows = [
        (timing.name, str(case.batch), _tokens(case.tokens), *_timing(timing))
        for case in cases
        for timing in (case.ours, *case.others)
    ]
    return ("way", *header), rows


def ratios_table(cases: Sequence[Case]) -> Table:
    """How many times as fast as each other way the bundle was, a row a case."""
    names = [timing.name for timing in cases[0].others]
    rows = []
    for case in cases:
        ratios = [between(timing.ratio, times) if timing.ratio else "-" for timing in case.others]
        rows.append((str(case.batch), _tokens(case.tokens), *ratios))
    return ("batch", "tokens", *names), rows


def start_table(startup: Startup) -> Table:
    """Fresh processes: times in seconds, memory in MiB; medians with the range of all."""
    rows: list[tuple[str, Callable[[Start], float]]] = [
        ("process to first answer, s", lambda start: start.total_seconds),
        ("  interpreter", lambda start: start.process_seconds),
        ("  import", lambda start: start.import_seconds),
        ("  load", lambda start: start.load_seconds),
        ("  first answer", lambda start: start.first_seconds),
        ("peak memory after load, MiB", lambda start: start.loaded_mib),
        ("  after the first answer", lambda start: start.answered_mib),
        ("  after the largest batch", lambda start: start.largest_mib),
    ]
    return ("start", "cold", "warm"), [
        (
            name,
            between(extent([value(start) for start in startup.cold])),
            between(extent([value(start) for start in startup.warm])),
        )
        for name, value in rows
    ]


def headline(report: Report) -> str:
    """The bundle and what it ran on, in a line."""
    return f"{report.subject.name} {report.subject.version}, {how_it_runs(report)}"


def how_it_runs(report: Report) -> str:
    """The task, the number formats and the device, in a line."""
    subject = report.subject
    compute = f" computing in {subject.compute}" if subject.compute else ""
    return (
        f"{subject.task}, {subject.weights} weights{compute} on {subject.device} "
        f"({subject.backend})"
    )


def machine_line(report: Report) -> str:
    """The machine and the processors that were used, in a line."""
    machine, cpus = report.machine, report.settings.cpus or ()
    listed = ", ".join(map(str, cpus))
    virtual = ", virtual" if machine.virtual else ""
    governor = f", governor {machine.governor}" if machine.governor else ""
    return (
        f"{machine.processor}{virtual}, {len(cpus)} processors ({listed}){governor}, "
        f"{machine.memory_gib:g} GiB"
    )


def warnings_of(report: Report) -> list[str]:
    """What says that the machine was busy with something else; empty where nothing does."""
    found = []
    if report.noise:
        worst = [f"{each.figure} ({each.spread:.0%})" for each in report.noise[:_NAMED]]
        more = len(report.noise) - len(worst)
        rest = f" and {more} more" if more else ""
        found.append(
            f"This machine is noisy: repetitions differ by more than {NOISY:.0%} of their median "
            f"for {', '.join(worst)}{rest}. Measure again when it is quiet."
        )
    if report.others > DISTURBED:
        found.append(f"Other processes took {report.others:.0%} of the processors' time meanwhile.")
    return found


def notes_of(
    settings: BenchSettings, startup: Startup | None, compare: Sequence[str]
) -> tuple[str, ...]:
    """What each figure holds and what it leaves out."""
    return tuple(_notes(settings, startup, compare))


def _notes(
    settings: BenchSettings, startup: Startup | None, compare: Sequence[str]
) -> Iterator[str]:
    yield (
        "A call is timed from its texts to its results, tokenization and post-processing "
        "included, in one process and one calling thread. Tokens are those that an input has in "
        "fact, with those that the tokenizer adds and without padding; padding is computed, and "
        "so it is in the time."
    )
    pace = Pace()
    yield (
        f"Each case has {settings.rounds} rounds, with {settings.seconds:g} s of timed calls in "
        "all for each way (a call a round at least). Before them come "
        f"{pace.warm_up:g} s of warm-up, and turns start with {pace.settle * 1000:g} ms of calls "
        f"that are not counted where a call takes less than {pace.settle * LONG:g} s; Python's "
        f"garbage collector is paused. With fewer than {_FEW_CALLS} calls, p99 is close to the "
        "slowest."
    )
    if startup:
        pages = {
            "dropped": "the bundle's files are dropped from the system's page cache",
            "kept": "the system kept the bundle's files in its page cache",
            "unknown": "whether the bundle's files are in the system's page cache is not known",
        }[startup.page_cache]
        yield (
            f"A start is a new process, {settings.starts} cold and {settings.starts} warm in turn "
            "after one that does not count. Cold: an empty cache folder, so that every file is "
            f"hashed and the model compiled; {pages}, and the libraries' stay in it. Warm: what "
            "an earlier process left in the cache folder is used. Memory is the peak of what is "
            "resident, files that the process maps included; the largest batch is "
            f"{max(settings.batches)} of the longest texts, or the first of one's own."
        )
    if compare:
        yield (
            "The original runs in the same process, in turn with the bundle (A B A B …), on the "
            "same inputs and with a thread a processor. It has lepton-edge's own tokenization "
            "and results, so that inference alone differs, and takes each batch as it comes, "
            "padded to its longest text; lepton-edge cuts a batch into micro-batches of like "
            "length. A ratio says how many times as fast the bundle is, round by round (the "
            "median call of single texts, the throughput of batches): the median, with the "
            "smallest and the largest."
        )
    if "torch" in compare:
        yield "torch runs the transformers model itself, under torch.inference_mode()."
    if "onnxruntime" in compare:
        yield "ONNX Runtime runs the original's ONNX file, or torch.onnx.export(dynamo=True) of it."


def _timing(timing: Timing) -> tuple[str, ...]:
    return (
        f"{timing.calls:,}",
        figure(timing.p50_ms),
        figure(timing.p90_ms),
        figure(timing.p99_ms),
        figure(timing.inputs_per_second),
        f"{timing.tokens_per_second:,.0f}",
    )


def _tokens(tokens: float) -> str:
    return f"{tokens:.1f}".removesuffix(".0")
