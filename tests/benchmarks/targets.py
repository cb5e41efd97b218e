"""Targets of a page, and whether they are met."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class Target(msgspec.Struct, frozen=True):
    """What was asked and what was measured: both in words, as a page says them."""

    what: str
    asked: str
    measured: str
    met: bool


def at_least(what: str, asked: float, ratio: tuple[float, float, float]) -> Target:
    """``ratio`` is the median, the smallest and the largest of the rounds; the median counts."""
    return Target(what, f"at least {asked:.2f}x", times(ratio), ratio[0] >= asked)


def at_most(what: str, asked: float, ratio: tuple[float, float, float]) -> Target:
    """As `at_least`."""
    return Target(what, f"at most {asked:.2f}x", times(ratio), ratio[0] <= asked)


def times(ratio: tuple[float, float, float]) -> str:
    middle, low, high = ratio
    return f"{middle:.2f}x ({low:.2f} to {high:.2f})"


def table(targets: Sequence[Target]) -> list[str]:
    """In Markdown."""
    lines = ["| target | asked | measured | |", "| --- | --- | --- | --- |"]
    for each in targets:
        verdict = "met" if each.met else "**missed**"
        lines.append(f"| {each.what} | {each.asked} | {each.measured} | {verdict} |")
    return lines
