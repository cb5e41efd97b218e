"""What tuning found, as values. `Tuning` is also the JSON document, field by field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lepton_edge.backend import Setting
from lepton_edge.benchmark.statistics import Summary, extent, percentile
from lepton_edge.runtime.profile import Profile
from lepton_edge.tuning.arena import Measured, Tail
from lepton_edge.tuning.search import Outcome, Stage

if TYPE_CHECKING:
    from lepton_edge.benchmark.contest import Standing

SCHEMA = 1
"""Version of the JSON document; raised when a field changes its meaning or goes."""


@dataclass(frozen=True)
class Trial:
    """How one candidate did in the last stage that it was measured in."""

    name: str
    settings: dict[str, Setting]
    """In place of the artifact's own."""
    rows: int
    """The most sequences in a micro-batch."""
    tokens: int
    """The most padded tokens in a micro-batch."""
    stage: Stage
    figure: float | None
    """The median round's: milliseconds of the median call for `latency`, else inputs a second. For
    what was not measured beside the default, inputs a second of its calls alone."""
    default_figure: float | None
    """The default's, in the same rounds."""
    ratios: tuple[float, ...]
    """Round by round: how many times as good as the default it was. Empty where it was not
    measured beside it."""
    ratio: Summary | None
    """Median, smallest and largest of them."""
    p99_ms: float | None
    """The 99th percentile of a call with ``rows`` inputs, where the objective bounds it."""
    p99_calls: int
    """How many calls that is of."""
    fault: str | None
    """Why it could not run, where it could not."""


@dataclass(frozen=True)
class Tuning:
    """One run of `tune`."""

    schema: int
    bundle: str
    """Name and version."""
    target: str
    objective: str
    texts: str
    """What was measured on."""
    winner: str
    """The name of a candidate, or ``default``."""
    gain: float
    """How many times as good as the default it was in the run-off; 1 for the default itself."""
    met: bool
    """Whether the winner keeps to the objective's bound; true where there is none."""
    why: str
    default_p99_ms: float | None
    """Of a call with 32 inputs, where the objective bounds it."""
    candidates: tuple[Trial, ...]
    """The best first, those that were not measured beside the default last."""
    profile: Profile
    """The winner, as `load` uses it."""
    path: str | None
    """Where the profile was written; None for a dry run."""
    load_average: float
    """Over one minute, at the start."""
    others: float
    """Share of all processors' time that other processes took meanwhile, 0 to 1."""
    took_seconds: float


def trials_of(outcome: Outcome, scale: float) -> tuple[Trial, ...]:
    """Every candidate of a search, the best first. Figures are multiplied by ``scale``."""
    trials = [_trial(stage, measured, scale) for stage, measured in outcome.trials]
    ranks = {"run-off": 2, "final": 1, "screening": 0}

    def rank(trial: Trial) -> tuple[int, float]:
        return (ranks[trial.stage], trial.ratio.median) if trial.ratio else (-1, 0.0)

    return tuple(sorted(trials, key=rank, reverse=True))


def _trial(stage: Stage, measured: Measured, scale: float) -> Trial:
    choice, standing, default = measured.choice, measured.standing, measured.default
    tail = measured.tail
    ratios = tuple(_rounded(each) for each in measured.ratios)
    return Trial(
        name=choice.name,
        settings=dict(choice.settings),
        rows=choice.limits.rows,
        tokens=choice.limits.tokens,
        stage=stage,
        figure=_figure(standing, scale) or (_rounded(tail.rate) if tail else None),
        default_figure=_figure(default, scale),
        ratios=ratios,
        ratio=extent(ratios) if ratios else None,
        p99_ms=milliseconds(tail),
        p99_calls=tail.calls if tail else 0,
        fault=measured.fault,
    )


def milliseconds(tail: Tail | None) -> float | None:
    """Of the 99th percentile, where there is one."""
    return _rounded(tail.p99 * 1000) if tail else None


def _figure(standing: Standing | None, scale: float) -> float | None:
    return _rounded(percentile(standing.figures, 0.5) * scale) if standing else None


def _rounded(value: float) -> float:
    """Six digits that count: a clock says no more."""
    return float(f"{value:.6g}")
