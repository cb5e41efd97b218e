"""The statistics: medians, and ratios of two series taken in turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# A spread beyond this says that the machine was busy with something else.
NOISY = 0.20
# So does a larger share of the processors' time that other processes took.
DISTURBED = 0.05


@dataclass(frozen=True)
class Summary:
    """The middle of a series, and a low and a high end of it: which, the function says that made
    the summary."""

    median: float
    low: float
    high: float

    @property
    def spread(self) -> float:
        """From the low to the high end, as a share of the median."""
        return (self.high - self.low) / self.median if self.median else 0.0


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` (0 to 1) of the values lie, between two by proportion.

    Raises `ValueError` where there are no values.
    """
    if not values:
        raise ValueError("a percentile needs values")
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def summarize(values: Sequence[float]) -> Summary:
    """Median, 10th and 90th percentile: for many values, some of them disturbed."""
    return Summary(percentile(values, 0.5), percentile(values, 0.1), percentile(values, 0.9))


def extent(values: Sequence[float]) -> Summary:
    """Median, smallest and largest: for the few values of repeated rounds."""
    return Summary(percentile(values, 0.5), min(values), max(values))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Ours over theirs, pair by pair: what disturbs the machine for a while disturbs both."""
    return [our / their for our, their in zip(ours, theirs, strict=True)]
