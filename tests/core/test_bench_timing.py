"""Turns, warm-up, settling and ratios, by a clock that only moves when it is told to."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_edge.benchmark.contest import Candidate, Objective, measure_in_turn
from lepton_edge.benchmark.statistics import extent
from lepton_edge.benchmark.timing import Pace, take_turns

NO_REST = Pace(rounds=3, seconds=1.0, warm_up=0.0, settle=0.0)


class Clock:
    """``way(name, cost)`` is a call that takes so long; ``log`` holds who was called with what."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[tuple[str, Any]] = []

    def __call__(self) -> float:
        return self.now

    def way(self, name: str, cost: float | Iterator[float]) -> Callable[[Any], None]:
        def call(given: Any) -> None:
            self.log.append((name, given))
            self.now += next(cost) if isinstance(cost, Iterator) else cost

        return call


def test_ways_take_turns_in_every_round() -> None:
    clock = Clock()
    ways = [clock.way("a", 0.5), clock.way("b", 0.5)]
    take_turns(ways, ["x"], NO_REST, clock=clock)
    # Two calls of warm-up each; then a turn is one call.
    assert [name for name, _ in clock.log] == [*"aabb", *("ab" * 3)]


def test_every_way_gets_the_same_inputs_and_rounds_go_on_through_them() -> None:
    clock = Clock()
    pace = Pace(rounds=2, seconds=6.0, warm_up=0.0, settle=0.0)
    found = take_turns([clock.way("a", 1.0), clock.way("b", 1.0)], "vwxyz", pace, clock=clock)
    assert [len(calls) for rounds in found for calls in rounds] == [3, 3, 3, 3]
    counted = clock.log[4:]  # after the warm-up
    turns = [counted[start : start + 3] for start in range(0, len(counted), 3)]
    assert [[given for _, given in turn] for turn in turns] == [
        ["v", "w", "x"],
        ["v", "w", "x"],
        ["y", "z", "v"],
        ["y", "z", "v"],
    ]


def test_the_first_calls_are_not_counted() -> None:
    clock = Clock()
    costs = iter([100.0, *[1.0] * 50])
    found = take_turns([clock.way("a", costs)], ["x"], NO_REST, clock=clock)
    assert found == [[[1.0], [1.0], [1.0]]]


def test_warm_up_and_settling_last_as_long_as_the_pace_says() -> None:
    clock = Clock()
    pace = Pace(rounds=1, seconds=1.0, warm_up=10.0, settle=3.0)
    take_turns([clock.way("a", 1.0)], ["x"], pace, clock=clock)
    assert len(clock.log) == 10 + 3 + 1


def test_a_long_call_does_not_wait_for_others_to_settle() -> None:
    for cost, settling in ((0.9, 1), (1.1, 0)):
        clock = Clock()
        take_turns([clock.way("a", cost)], ["x"], Pace(1, 0.1, 0.0, 0.02), clock=clock)
        assert len(clock.log) == 2 + settling + 1


@pytest.mark.parametrize(
    ("costs", "seconds", "calls"),
    [
        ((0.1,), 3.0, 10),  # 3 s in 3 rounds of 0.1 s
        ((0.1, 0.3), 3.0, 5),  # 2 ways, 6 s in all, 0.4 s for a call of both
        ((5.0,), 3.0, 1),  # one at least
    ],
)
def test_the_number_of_calls_fills_the_time(
    costs: tuple[float, ...], seconds: float, calls: int
) -> None:
    clock = Clock()
    ways = [clock.way(str(cost), cost) for cost in costs]
    pace = Pace(rounds=3, seconds=seconds, warm_up=0.0, settle=0.0)
    found = take_turns(ways, ["x"], pace, clock=clock)
    assert {len(turn) for rounds in found for turn in rounds} == {calls}
    for cost, rounds in zip(costs, found, strict=True):
        assert [s for turn in rounds for s in turn] == pytest.approx([cost] * 3 * calls)


def test_a_clock_that_does_not_move_is_no_error() -> None:
    found = take_turns([lambda given: None], ["x"], Pace(2, 1e-8, 0.0, 0.0), clock=Clock())
    assert all(seconds > 0 for turn in found[0] for seconds in turn)


def test_garbage_is_not_collected_meanwhile() -> None:
    states = []
    assert gc.isenabled()
    take_turns([lambda given: states.append(gc.isenabled())], ["x"], Pace(1, 1e-6, 0.0, 0.0))
    assert set(states) == {False}
    assert gc.isenabled()


def test_garbage_is_collected_again_after_a_failure() -> None:
    def fail(given: object) -> None:
        raise KeyError("no")

    with pytest.raises(KeyError):
        take_turns([fail], ["x"], NO_REST)
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        take_turns([lambda given: None], ["x"], Pace(1, 1e-6, 0.0, 0.0))
        assert not gc.isenabled()
    finally:
        gc.enable()


def _measured(
    objective: Objective, *costs: float | Iterator[float], batch: int = 1, pace: Pace = NO_REST
) -> Any:
    clock = Clock()
    ways = [Candidate(f"way {n}", clock.way("", cost)) for n, cost in enumerate(costs)]
    return measure_in_turn(ways, [["x"] * batch], objective, pace=pace, clock=clock)


def test_a_faster_way_is_above_one_whatever_the_objective() -> None:
    objectives: tuple[Objective, ...] = ("p50", "p99", "throughput")
    for objective in objectives:
        slow, fast = _measured(objective, 2.0, 0.5)
        assert slow.ratios == (1.0, 1.0, 1.0)
        assert fast.ratios == (4.0, 4.0, 4.0)
        assert fast.name == "way 1"


def test_figures_are_of_the_objective() -> None:
    pace = Pace(rounds=1, seconds=400.0, warm_up=0.0, settle=0.0)
    # Warm-up takes two calls: then three of 1 s and one of 9 s.
    costs = [100.0, 100.0, 1.0, 1.0, 1.0, 9.0]
    (p50,) = _measured("p50", iter(costs), pace=pace)
    (p99,) = _measured("p99", iter(costs), pace=pace)
    (rate,) = _measured("throughput", iter(costs), batch=6, pace=pace)
    assert p50.seconds == ((1.0, 1.0, 1.0, 9.0),)
    assert p50.figures == (1.0,)
    assert p99.figures[0] == pytest.approx(1 + 8 * 0.97)
    assert rate.figures == (24 / 12,)


def test_throughput_counts_the_inputs_of_each_batch() -> None:
    clock = Clock()
    batches = [["x"] * 2, ["x"] * 10, ["x"] * 3]
    pace = Pace(rounds=2, seconds=4.0, warm_up=0.0, settle=0.0)
    way = Candidate("a", clock.way("a", 1.0))
    (found,) = measure_in_turn([way], batches, "throughput", pace=pace, clock=clock)
    assert found.figures == ((2 + 10) / 2, (3 + 2) / 2)


def test_what_slows_a_whole_round_does_not_move_the_ratios() -> None:
    slowed = [1.0, 1.0, 1.0, 3.0, 1.0]
    one, other = _measured("p50", iter(slowed), iter(2 * cost for cost in slowed))
    assert one.figure.spread == 2.0
    assert other.ratios == (0.5, 0.5, 0.5)
    assert other.ratio.spread == 0


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=9))
def test_an_extent_holds_every_value(values: list[float]) -> None:
    found = extent(values)
    assert (found.low, found.high) == (min(values), max(values))
    assert found.low <= found.median <= found.high
