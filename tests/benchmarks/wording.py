"""How figures and verdicts are written, in the terminal and in the documents alike."""

from __future__ import annotations

from lepton_edge.benchmark.statistics import DISTURBED, NOISY, percentile
from lepton_edge.benchmark.wording import figure, times
from tests.benchmarks.results import Comparison, Detail, Result

LEFT = ("case", "beside", "target", "")


def comparison_header(result: Result) -> list[str]:
    return ["case", "beside", *result.columns, "ratio", "10–90 %", "target", ""]


def comparison(entry: Comparison) -> list[str]:
    """The cells of `comparison_header`."""
    ratio = entry.ratio
    ours, theirs = percentile(entry.ours, 0.5), percentile(entry.theirs, 0.5)
    limit = f"{entry.limit.relation} {entry.limit.value:.2f}x" if entry.limit else ""
    return [
        entry.case,
        entry.other,
        f"{figure(ours)} {entry.unit}",
        f"{figure(theirs)} {entry.unit}",
        times(ratio.median),
        f"{times(ratio.low)} – {times(ratio.high)}",
        limit,
        verdict(entry.met),
    ]


def detail(entry: Detail) -> str:
    return f"{figure(entry.value)} {entry.unit}".strip()


def disturbances(result: Result) -> list[str]:
    """What says that the machine was busy with something else; empty where nothing does."""
    found = []
    noisy = [entry for entry in result.comparisons if entry.ratio.spread > NOISY]
    if noisy:
        worst = max(noisy, key=lambda entry: entry.ratio.spread)
        found.append(
            f"{len(noisy)} of {len(result.comparisons)} ratios spread over more than {NOISY:.0%} "
            f"of their median (the widest, {worst.case} beside {worst.other}, over "
            f"{worst.ratio.spread:.0%})"
        )
    if result.others > DISTURBED:
        found.append(f"other processes took {result.others:.0%} of the processors' time meanwhile")
    return found


def verdict(met: bool | None) -> str:
    return {True: "met", False: "missed", None: ""}[met]


def size_verdict(result: Result) -> str:
    """The target of a benchmark of sizes, and whether it is met."""
    if result.size_limit is None:
        return ""
    limit = result.size_limit
    return f"{limit.relation} {limit.value:.0f} MB: {verdict(limit.met(result.total))}"
