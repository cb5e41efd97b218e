"""Reading the clock. Everything that is timed in one process is timed here, and nowhere else."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lepton_edge.benchmark.statistics import percentile

Clock = Callable[[], float]
Call = Callable[[Any], object]

LONG = 50
"""A call that takes so many times as long as settling does without it."""
# What a call takes at least: a clock that has not moved says nothing shorter.
_RESOLUTION = 1e-9


@dataclass(frozen=True)
class Pace:
    """How long and how often each way is measured; times in seconds.

    ``seconds`` of timed calls are aimed at for each way, over all of its ``rounds``; a turn has
    one call at least. Not counted: calls for ``warm_up`` before the first round (two at least),
    and calls for ``settle`` at the start of each turn, in which the threads of whoever ran before,
    which may spin for a while, come to rest. A way whose call takes more than 50 times as long
    does without: it would hardly notice them.
    """

    rounds: int = 5
    seconds: float = 2.0
    warm_up: float = 0.3
    settle: float = 0.02


def take_turns(
    calls: Sequence[Call],
    inputs: Sequence[Any],
    pace: Pace,
    *,
    clock: Clock = time.perf_counter,
) -> list[list[list[float]]]:
    """Seconds of every timed call, by way, by round: ``found[way][round][call]``.

    The ways take turns in every round: A B A B. In a round each makes the same number of calls on
    the same inputs, which are taken in order, round after round, from the start again at the end.
    Python's garbage collector runs before and is paused meanwhile.
    """
    with _without_garbage_collection():
        takes = [_warm_up(call, inputs, pace.warm_up, clock) for call in calls]
        number = max(int(pace.seconds * len(calls) / pace.rounds / sum(takes)), 1)
        found: list[list[list[float]]] = [[] for _ in calls]
        for turn in range(pace.rounds):
            given = inputs_of_round(inputs, turn, number)
            for call, take, rounds in zip(calls, takes, found, strict=True):
                if take <= LONG * pace.settle:
                    _settle(call, given, pace.settle, clock)
                rounds.append([_seconds(call, each, clock) for each in given])
    return found


def inputs_of_round(inputs: Sequence[Any], turn: int, number: int) -> list[Any]:
    """What the ``number`` calls of a round, counted from 0, are given."""
    return [inputs[(turn * number + place) % len(inputs)] for place in range(number)]


def _warm_up(call: Call, inputs: Sequence[Any], seconds: float, clock: Clock) -> float:
    """Call it for a while; gives what a call takes, the median of all but the first, which also
    pays for what is prepared once."""
    start = clock()
    takes: list[float] = []
    while len(takes) < 2 or clock() - start < seconds:
        takes.append(_seconds(call, inputs[len(takes) % len(inputs)], clock))
    return percentile(takes[1:], 0.5)


def _settle(call: Call, inputs: Sequence[Any], seconds: float, clock: Clock) -> None:
    start, number = clock(), 0
    while number == 0 or clock() - start < seconds:
        call(inputs[number % len(inputs)])
        number += 1


def _seconds(call: Call, given: Any, clock: Clock) -> float:
    start = clock()
    call(given)
    return max(clock() - start, _RESOLUTION)


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
