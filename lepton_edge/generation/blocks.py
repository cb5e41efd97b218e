"""Many parts in a row, of which a text may begin with any."""

from __future__ import annotations

from collections.abc import Callable

from lepton_edge.generation.expressions import Expression, series


class Blocks:
    """What follows each of many parts, without writing it out for each: in blocks of one, two, four
    and so on, each of two halves. A rule for each that refers to the next would be a chain as long,
    and libraries follow it by recursion: llguidance's stack overflows (1.9.1)."""

    def __init__(
        self, parts: list[Expression], named: Callable[[str, Expression], Expression]
    ) -> None:
        self._levels = [parts]
        while len(self._levels[-1]) > 1:
            below = self._levels[-1]
            pairs = zip(below[::2], below[1::2], strict=False)
            self._levels.append([named("block", series(*pair)) for pair in pairs])

    def after(self, place: int) -> list[Expression]:
        """The parts from the next one, in order."""
        found: list[Expression] = []
        start, end = place + 1, len(self._levels[0])
        while start < end:
            level = 0
            while start % 2 ** (level + 1) == 0 and start + 2 ** (level + 1) <= end:
                level += 1
            found.append(self._levels[level][start >> level])
            start += 2**level
        return found
