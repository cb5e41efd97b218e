"""From many choices to one: a screening, a final of a few, and a run-off with the default.

Each stage measures afresh and in turn with the default. The first two only choose whom the run-off
is with: that whoever comes first of many was also lucky (the winner's curse) does no harm, because
the run-off alone decides, on rounds of its own. The default wins unless it is beaten by more than
the noise, which `beats` defines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import comb
from typing import Literal

from lepton_edge.backend import Setting
from lepton_edge.benchmark.statistics import percentile
from lepton_edge.benchmark.timing import Clock
from lepton_edge.runtime.batching import DEFAULT, Limits
from lepton_edge.tuning.arena import Arena, Measured, Tail
from lepton_edge.tuning.space import OWN, Choice, by_settings

Stage = Literal["screening", "final", "run-off"]

MARGIN = 1.03
"""A gain below this is not worth another setting."""
CONFIDENCE = 0.95
ROUNDS: Mapping[Stage, int] = {"screening": 3, "final": 9, "run-off": 15}
FINALISTS = 3
# Of the time that is left when a stage begins.
_SHARES = {"first": 0.25, "second": 0.3, "final": 0.4, "run-off": 0.8}


def lower_bound(ratios: Sequence[float]) -> float:
    """What the median of all such ratios exceeds with 95 % confidence.

    It is the k-th smallest of n ratios, for the largest k where fewer than k of n tosses of a coin
    are heads with a probability of 5 % at most (Conover, Practical Nonparametric Statistics,
    section 3.2): of 9 the second smallest, of 15 the fourth. A few disturbed rounds do not count,
    whatever they were.
    """
    count = len(ratios)
    place, below = 0, 1.0
    while below + comb(count, place + 1) <= (1 - CONFIDENCE) * 2**count:
        place += 1
        below += comb(count, place)
    return sorted(ratios)[place]


def beats(ratios: Sequence[float]) -> bool:
    """Whether these ratios are better than the default by more than the noise: their median by 3 %
    at least, and surely better at all. So the default wins a tie."""
    return percentile(ratios, 0.5) >= MARGIN and lower_bound(ratios) > 1


@dataclass(frozen=True)
class Outcome:
    """What was found."""

    trials: tuple[tuple[Stage, Measured], ...]
    """Each choice in the last stage that it was measured in; the default is none of them."""
    winner: Measured | None
    """As the run-off measured it; None where the default stays."""
    default_tail: Tail | None
    """The default's, where the objective bounds it."""
    met: bool
    """Whether what was chosen keeps to the bound; true where there is none."""
    why: str
    """Why it was chosen, in a sentence."""


@dataclass
class Search:
    """One search: `run` it once. ``seconds`` are a budget: the rounds of a slow model may take
    longer, and a stage that others left little time takes its rounds all the same."""

    arena: Arena
    seconds: float
    clock: Clock
    say: Callable[[str], None]
    _trials: dict[str, tuple[Stage, Measured]] = field(default_factory=dict)
    _end: float = 0.0
    _default_tail: Tail | None = None

    def run(self, settings: Sequence[Mapping[str, Setting]], limits: Sequence[Limits]) -> Outcome:
        """Settings in place of the artifact's own, and limits in place of the runtime's."""
        self._end = self.clock() + self.seconds
        bound = self.arena.objective.bound
        if bound is None:
            self._screen(settings, limits)
        else:
            self.say("measuring the default")
            share = self.seconds / 20
            self._default_tail = self.arena.tail(self.arena.default, DEFAULT.rows, share)
            self._screen_calls(settings, limits)
        finalists = self._measure(
            "final", _best([m for _, m in self._trials.values()], self._floor)[:FINALISTS]
        )
        return self._run_off(_best(finalists, self._floor))

    @property
    def _default_meets(self) -> bool:
        bound, tail = self.arena.objective.bound, self._default_tail
        return bound is None or (tail is not None and tail.p99 <= bound)

    @property
    def _floor(self) -> float:
        """Who is not above it is out: where the default misses the bound, nobody."""
        return 1.0 if self._default_meets else 0.0

    def _screen(self, settings: Sequence[Mapping[str, Setting]], limits: Sequence[Limits]) -> None:
        """The settings with the default limits; then the limits, with the artifact's own settings
        and with the best of the others."""
        found = self._measure("screening", [Choice(each) for each in settings], "first")
        best = [each.choice.settings for each in _best(found, 1.0)[:1]]
        choices = [Choice(each, limit) for each in (OWN.settings, *best) for limit in limits]
        self._measure("screening", choices, "second")

    def _screen_calls(
        self, settings: Sequence[Mapping[str, Setting]], limits: Sequence[Limits]
    ) -> None:
        """The calls' sizes with the artifact's own settings; then the other settings with the best
        size and those beside it."""
        own = [Choice(OWN.settings, limit) for limit in limits]
        found = self._measure("screening", own, "first")
        sizes = sorted([*limits, DEFAULT], key=lambda limit: limit.rows)
        best = _best(found, self._floor)
        middle = best[0].choice.limits if best else DEFAULT if self._default_meets else sizes[0]
        place = sizes.index(middle)
        near = sizes[max(place - 1, 0) : place + 2]
        self._measure("screening", [Choice(s, limit) for s in settings for limit in near], "second")

    def _run_off(self, candidates: Sequence[Measured]) -> Outcome:
        """The best against the default. Where the default misses the bound, the best that keeps to
        it once more."""
        if not self._default_meets:
            for each in candidates:
                (again,) = self._measure("run-off", [each.choice])
                if again.standing:
                    why = "the highest throughput within the bound, which the default exceeds"
                    return self._outcome(again, why)
            return self._outcome(None, self._why_unmet())
        surely = [each for each in candidates if beats(each.ratios)]
        if not surely:
            return self._outcome(None, _NONE_BETTER)
        (again,) = self._measure("run-off", [surely[0].choice])
        if again.ratios and beats(again.ratios):
            return self._outcome(again, "it beat the default in the final and in the run-off")
        name = again.choice.name
        return self._outcome(None, f"{name} won the final, and did not hold in the run-off")

    def _why_unmet(self) -> str:
        tails = [m.tail for _, m in self._trials.values() if m.tail] + [self._default_tail]
        best = min(tail.p99 for tail in tails if tail)
        return (
            f"no candidate keeps to {self.arena.objective}: "
            f"the best 99th percentile was {best * 1000:.3g} ms"
        )

    def _outcome(self, winner: Measured | None, why: str) -> Outcome:
        met = winner is not None or self._default_meets
        return Outcome(tuple(self._trials.values()), winner, self._default_tail, met, why)

    def _measure(
        self, stage: Stage, choices: Sequence[Choice | Measured], share: str | None = None
    ) -> list[Measured]:
        given = [each.choice if isinstance(each, Measured) else each for each in choices]
        groups = list(by_settings(given))
        ways = sum(1 + len(group) for _, group in groups)
        left = max(self._end - self.clock(), 0.0) * _SHARES[share or stage]
        found = []
        for settings, group in groups:
            names = ", ".join(f"{key}={value}" for key, value in settings.items())
            self.say(f"{stage}: {len(group)} with {names or 'the settings of the bundle'}")
            found += self.arena.measure(group, ROUNDS[stage], left / ways)
        self._trials |= {each.choice.name: (stage, each) for each in found}
        return found


def _best(measured: Sequence[Measured], floor: float) -> list[Measured]:
    """Those that were measured beside the default and are above the floor, the best first."""
    median = {id(each): percentile(each.ratios, 0.5) for each in measured if each.ratios}
    able = [each for each in measured if median.get(id(each), floor) > floor]
    return sorted(able, key=lambda each: -median[id(each)])


_NONE_BETTER = "no candidate beat it by more than the noise"
