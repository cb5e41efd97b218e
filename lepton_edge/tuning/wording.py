"""What tuning found, in words and tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lepton_edge.benchmark.statistics import DISTURBED, NOISY
from lepton_edge.runtime.profile import Kept
from lepton_edge.tuning.objective import Objective

if TYPE_CHECKING:
    from lepton_edge.tuning.report import Trial, Tuning

# A 99th percentile of fewer calls is about their slowest.
_FEW_CALLS = 100


def headline(tuning: Tuning) -> str:
    return f"{tuning.bundle} for {tuning.target}, tuned for {tuning.objective}: {tuning.texts}"


def table(tuning: Tuning) -> tuple[list[str], list[list[str]]]:
    """A row for each candidate, the default first: cells as text, under their header."""
    bound = Objective.parse(tuning.objective).bound
    bounded = bound is not None
    unit = "ms" if tuning.objective == "latency" else "inputs/s"
    header = ["candidate", unit, "default", "ratio", "lowest", "highest"]
    header += ["p99 ms"] if bounded else []
    own = ["default", "", "", "1.00", "", ""]
    own += [f"{tuning.default_p99_ms:.2f}"] if bounded else []
    rows = [[*_row(trial, bounded), _reached(trial, bound)] for trial in tuning.candidates]
    return [*header, "measured in"], [[*own, "every round"], *rows]


def verdict(tuning: Tuning) -> str:
    """Which is the best, by how much, and why."""
    if tuning.winner == "default":
        return f"best: the default; {tuning.why}"
    best = next(trial for trial in tuning.candidates if trial.name == tuning.winner)
    assert best.ratio, "a winner was measured beside the default"
    calls = "" if best.p99_ms is None else f"; give the model up to {best.rows} inputs a call"
    return (
        f"best: {best.name}: {best.ratio.median:.2f} times the default ({best.ratio.low:.2f} to "
        f"{best.ratio.high:.2f} in {len(best.ratios)} rounds); {tuning.why}{calls}"
    )


def warnings_of(tuning: Tuning) -> Iterator[str]:
    """What makes the figures unsure."""
    if not tuning.met:
        yield f"{tuning.objective} is not met: {tuning.why}; the default stays"
    decisive = [trial for trial in tuning.candidates if trial.stage != "screening" and trial.ratio]
    widest = max((trial.ratio.spread for trial in decisive if trial.ratio), default=0.0)
    if widest > NOISY:
        yield (
            f"rounds differ by up to {widest:.0%}: what is best while the machine is this busy "
            "may not be when it is quiet; run it again then, or with more --seconds"
        )
    if tuning.others > DISTURBED:
        yield f"other processes took {tuning.others:.0%} of the processors meanwhile"
    calls = [trial.p99_calls for trial in decisive if trial.p99_calls and trial.stage == "run-off"]
    if calls and min(calls) < _FEW_CALLS:
        yield f"a 99th percentile is of {min(calls)} calls only: more --seconds make it surer"


def state(kept: Kept) -> str:
    """What the profile beside a bundle says, and whether it is used."""
    if kept.profile is None:
        return f"{kept.path}: not used: {kept.unused}"
    profile = kept.profile
    parts = [f"{name}={value}" for name, value in profile.settings.items()]
    parts += [f"rows={profile.rows}", f"tokens={profile.tokens}"]
    used = "used" if kept.unused is None else f"not used: {kept.unused}"
    return (
        f"{kept.path}: {used}; tuned for {profile.objective}, {profile.gain:.2f} times the "
        f"default: {', '.join(parts)}"
    )


def _row(trial: Trial, bounded: bool) -> list[str]:
    figures = [trial.figure, trial.default_figure]
    ratio = trial.ratio
    cells = [trial.name]
    cells += ["" if figure is None else f"{figure:.4g}" for figure in figures]
    cells += (
        [f"{part:.2f}" for part in (ratio.median, ratio.low, ratio.high)] if ratio else [""] * 3
    )
    if bounded:
        cells.append("" if trial.p99_ms is None else f"{trial.p99_ms:.2f}")
    return cells


def _reached(trial: Trial, bound: float | None) -> str:
    if trial.fault:
        return f"could not run: {trial.fault}"
    beyond = bound is not None and trial.p99_ms is not None and trial.p99_ms > bound * 1000
    return f"{trial.stage}: beyond the bound" if beyond else trial.stage
