"""From many choices to one: a screening, a final of a few, and a run-off with the default.

Each stage measures afresh, the last two in turn with the default. The first two only choose whom
the run-off is with: that whoever comes first of many was also lucky (the winner's curse) does no
harm, because the run-off alone decides, on rounds of its own. The default wins unless it is beaten
by more than the noise, which `beats` defines.
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
CONFIDENCE = 0.98
ROUNDS: Mapping[Stage, int] = {"screening": 2, "final": 6, "run-off": 15}
FINALISTS = 3
# A 99th percentile that decides is of so many calls, unless they take longer than so many seconds.
_SURE_CALLS, _MOST_SURE = 100, 10.0
# Of the time that is left when a stage begins.
_SHARES = {"first": 0.25, "second": 0.3, "final": 0.4, "run-off": 0.8}


def lower_bound(ratios: Sequence[float]) -> float:
    """What the median of all such ratios exceeds with 98 % confidence.

    It is the k-th smallest of n ratios, for the largest k where fewer than k of n tosses of a coin
    are heads with a probability of 2 % at most (Conover, Practical Nonparametric Statistics,
    section 3.2): of 15 the fourth. So a few disturbed rounds do not count, whatever they were. Of
    fewer than 6 it is the smallest, and the confidence less.
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
        if self.arena.objective.bound is None:
            promising = self._screened(settings, limits)
        else:
            self.say("measuring the default")
            arena, share = self.arena, self.seconds / 20
            self._default_tail = arena.tail(arena.default, DEFAULT.rows, share)
            promising = self._screened_alone(settings, limits)
        finalists = [each.choice for each in promising[:FINALISTS]]
        return self._run_off(_by_ratio(self._measure("final", finalists), 0.0))

    @property
    def _default_meets(self) -> bool:
        bound, tail = self.arena.objective.bound, self._default_tail
        return bound is None or (tail is not None and tail.p99 <= bound)

    def _screened(
        self, settings: Sequence[Mapping[str, Setting]], limits: Sequence[Limits]
    ) -> list[Measured]:
        """The settings with the default limits; then the limits, with the artifact's own settings
        and with the best of the others. Gives those above the default, the best first."""
        first = self._measure("screening", [Choice(each) for each in settings], "first")
        best = [each.choice.settings for each in _by_ratio(first, 1.0)[:1]]
        choices = [Choice(each, limit) for each in (OWN.settings, *best) for limit in limits]
        return _by_ratio(first + self._measure("screening", choices, "second"), 1.0)

    def _screened_alone(
        self, settings: Sequence[Mapping[str, Setting]], limits: Sequence[Limits]
    ) -> list[Measured]:
        """Where there is a bound: the limits with the artifact's own settings; then the other
        settings with the best limits and those next to it in size. Gives those within the bound,
        and above the default where it is within too: that which answers most a second first."""
        assert self._default_tail, "measured first"
        default = Measured(OWN, tail=self._default_tail)
        own = [Choice(OWN.settings, limit) for limit in limits]
        first = self._measure("screening", own, "first")
        within = self._by_rate([default, *first])
        sizes = sorted([DEFAULT, *limits], key=lambda limit: limit.rows)
        place = sizes.index(within[0].choice.limits) if within else 0
        near = sizes[max(place - 1, 0) : place + 2]
        choices = [Choice(each, limit) for each in settings for limit in near]
        ranked = self._by_rate([default, *first, *self._measure("screening", choices, "second")])
        return ranked[: ranked.index(default)] if default in ranked else ranked

    def _by_rate(self, measured: Sequence[Measured]) -> list[Measured]:
        """Those within the bound, that which answers most a second first."""
        bound = self.arena.objective.bound or 0.0
        tails = [(each.tail, each) for each in measured if each.tail]
        within = [(tail.rate, each) for tail, each in tails if tail.p99 <= bound]
        return [each for _, each in sorted(within, key=lambda pair: -pair[0])]

    def _run_off(self, finalists: Sequence[Measured]) -> Outcome:
        """The final's best against the default. Where the default is beyond the bound, the best
        that is within it once more."""
        if not self._default_meets:
            for each in finalists:
                again = self._again(each)
                if again.standing:
                    why = "the highest throughput within the bound, which the default exceeds"
                    return self._outcome(again, why)
            return self._outcome(None, self._why_unmet())
        if not finalists or percentile(finalists[0].ratios, 0.5) < MARGIN:
            return self._outcome(None, _NONE_BETTER)
        again = self._again(finalists[0])
        if again.ratios and beats(again.ratios):
            return self._outcome(again, "better by more than the noise")
        name = again.choice.name
        return self._outcome(None, f"{name} won the final, and did not hold in the run-off")

    def _again(self, finalist: Measured) -> Measured:
        """In the run-off."""
        least, tail = 0.0, finalist.tail
        if tail:  # half of the time is for the percentile
            least = 2 * min(_SURE_CALLS * finalist.choice.limits.rows / tail.rate, _MOST_SURE)
        (again,) = self._measure("run-off", [finalist.choice], least=least)
        return again

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
        self,
        stage: Stage,
        choices: Sequence[Choice],
        share: str | None = None,
        least: float = 0.0,
    ) -> list[Measured]:
        groups = list(by_settings(choices))
        ways = sum(1 + len(group) for _, group in groups)
        left = max(self._end - self.clock(), 0.0) * _SHARES[share or stage]
        found = []
        for settings, group in groups:
            names = ", ".join(f"{key}={value}" for key, value in settings.items())
            sizes = f", {len(group)} sizes of micro-batches" if len(group) > 1 else ""
            self.say(f"{stage}: {names or OWN.name}{sizes}")
            if stage == "screening" and self.arena.objective.bound:
                found += self.arena.measure_alone(group, left / ways)
            else:
                found += self.arena.measure(group, ROUNDS[stage], max(left / ways, least))
        self._trials |= {each.choice.name: (stage, each) for each in found}
        return found


def _by_ratio(measured: Sequence[Measured], above: float) -> list[Measured]:
    """Those that were above it beside the default, the best first."""
    medians = [(percentile(each.ratios, 0.5), each) for each in measured if each.ratios]
    able = [(median, each) for median, each in medians if median > above]
    return [each for _, each in sorted(able, key=lambda pair: -pair[0])]


_NONE_BETTER = "no candidate beat it by more than the noise"
