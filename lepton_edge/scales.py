"""Axes for `lepton_edge.plots`: from values to places, with ticks at round numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence


class Linear:
    """An axis whose ends are round numbers."""

    def __init__(self, low: float, high: float, whole: bool = False) -> None:
        step = _round_step((high - low) / 4 or 1.0)
        if whole:
            step = max(math.ceil(step), 1.0)
        first, last = math.floor(low / step), math.ceil(high / step - 1e-9)
        self.ticks = [step * number for number in range(first, max(last, first + 1) + 1)]

    def share(self, value: float) -> float:
        """Where a value lies between the ends, 0 to 1."""
        return (value - self.ticks[0]) / (self.ticks[-1] - self.ticks[0])


class Logarithmic:
    """An axis from a little below the smallest to a little above the largest value, with ticks at
    round numbers: as many as there is room for."""

    def __init__(self, low: float, high: float) -> None:
        room = max((high / low) ** 0.06, 1.05)
        self._low, self._high = math.log(low / room), math.log(high * room)
        powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
        self.ticks: list[float] = []
        for digits in _DIGITS:
            marks = (digit * 10.0**power for power in powers for digit in digits)
            ticks = [mark for mark in marks if 0 <= self.share(mark) <= 1]
            if len(self.ticks) >= 2 and len(ticks) > _MOST_TICKS:
                return
            self.ticks = ticks

    def share(self, value: float) -> float:
        """Where a value lies between the ends, 0 to 1."""
        return (math.log(value) - self._low) / (self._high - self._low)


_MOST_TICKS = 7
_DIGITS: tuple[tuple[float, ...], ...] = (
    (1,),
    (1, 2, 5),
    (1, 1.2, 1.5, 2, 3, 4, 5, 6, 8),
    tuple(1 + n / 20 for n in range(180)),
)


def spaced(ticks: Sequence[float], place_of: Callable[[float], float], room: float) -> list[float]:
    """The ticks that are not too close to one before them."""
    kept: list[float] = []
    for tick in ticks:
        if not kept or abs(place_of(tick) - place_of(kept[-1])) >= room:
            kept.append(tick)
    return kept


def short(value: float) -> str:
    """Three digits that count, in full for large numbers."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _round_step(step: float) -> float:
    """The next of 1, 2, 2.5 and 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= step * 0.999)
