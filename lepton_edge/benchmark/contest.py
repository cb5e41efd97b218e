"""Several ways to answer the same inputs, measured in turn under one objective."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lepton_edge.benchmark.statistics import Summary, extent, percentile
from lepton_edge.benchmark.timing import Clock, Pace, inputs_of_round, take_turns

if TYPE_CHECKING:
    from lepton_edge.runtime.session_model import SessionModel

Objective = Literal["p50", "p99", "throughput"]
"""The median or the 99th percentile of a call's seconds (less is better), or inputs answered a
second (more is better)."""


@dataclass(frozen=True)
class Candidate:
    """One way to answer: ``call`` takes a list of inputs and answers them all."""

    name: str
    call: Callable[[Sequence[Any]], object]

    @classmethod
    def of(cls, name: str, model: SessionModel, **parameters: Any) -> Candidate:
        """``model(inputs, **parameters)``."""
        return cls(name, lambda inputs: model(inputs, **parameters))


@dataclass(frozen=True)
class Standing:
    """How one candidate did.

    ``seconds`` are those of every timed call, round by round. ``figures`` are the objective's, one
    a round: seconds, or inputs a second. ``ratios`` say, round by round, how many times as good as
    the first candidate it was: above 1 is better, whatever the objective. What disturbs the
    machine for a while disturbs a whole round, and so less its ratios than its figures.
    """

    name: str
    seconds: tuple[tuple[float, ...], ...]
    figures: tuple[float, ...]
    ratios: tuple[float, ...]

    @property
    def ratio(self) -> Summary:
        """Median, smallest and largest of the rounds' ratios."""
        return extent(self.ratios)

    @property
    def figure(self) -> Summary:
        """Median, smallest and largest of the rounds' figures."""
        return extent(self.figures)


def measure_in_turn(
    candidates: Sequence[Candidate],
    batches: Sequence[Sequence[Any]],
    objective: Objective,
    *,
    pace: Pace | None = None,
    clock: Clock = time.perf_counter,
) -> tuple[Standing, ...]:
    """Measure the candidates in turn (A B A B …) on the same batches of inputs.

    Each call answers one batch. The first candidate is the one that the others' ratios are
    relative to; its own are all 1. How turns are taken, and what is not counted, `Pace` says.
    """
    found = take_turns([each.call for each in candidates], batches, pace or Pace(), clock=clock)
    sizes = [
        sum(len(batch) for batch in inputs_of_round(batches, turn, len(calls)))
        for turn, calls in enumerate(found[0])
    ]
    figures = [_figures(rounds, sizes, objective) for rounds in found]
    return tuple(
        Standing(
            each.name,
            tuple(tuple(calls) for calls in rounds),
            tuple(own),
            tuple(_better(own, figures[0], objective)),
        )
        for each, rounds, own in zip(candidates, found, figures, strict=True)
    )


def _figures(
    rounds: Sequence[Sequence[float]], sizes: Sequence[int], objective: Objective
) -> list[float]:
    if objective == "throughput":
        return [size / sum(calls) for calls, size in zip(rounds, sizes, strict=True)]
    share = 0.5 if objective == "p50" else 0.99
    return [percentile(calls, share) for calls in rounds]


def _better(own: Sequence[float], first: Sequence[float], objective: Objective) -> list[float]:
    pairs = zip(own, first, strict=True)
    if objective == "throughput":
        return [figure / base for figure, base in pairs]
    return [base / figure for figure, base in pairs]
