"""Plots as inline SVG for `lepton_edge.page`: bars, lines, histograms, ranges, stacks.

Colours come from the page's style, so a plot follows light and dark. A drawing is 440 units wide
and its text 13: on a phone it shrinks to about four fifths and stays readable. Each mark carries
its exact figures as a tooltip, and the whole plot a sentence for readers who do not see it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lepton_edge.page import SERIES_COLOURS, Markup, figure, text
from lepton_edge.scales import Linear, Logarithmic, short, spaced

_WIDTH, _HEIGHT = 440.0, 240.0
_TOP, _RIGHT, _BOTTOM = 12.0, 10.0, 44.0
_LETTER = 7.6  # about the width of a character at the text's size


@dataclass(frozen=True)
class Series:
    """Values in the order of the categories; None where there is none. ``low`` and ``high``, where
    given, are the ends of each value's range."""

    name: str
    values: Sequence[float | None]
    low: Sequence[float | None] | None = None
    high: Sequence[float | None] | None = None

    def range_of(self, place: int) -> tuple[float, float] | None:
        """The range of one value; None where it has none."""
        if self.low is None or self.high is None:
            return None
        low, high = self.low[place], self.high[place]
        return None if low is None or high is None else (low, high)


@dataclass(frozen=True)
class Range:
    """A row of `ranges`: a value between its ends."""

    label: str
    middle: float
    low: float
    high: float


def bars(
    caption: str,
    categories: Sequence[str],
    series: Sequence[Series],
    *,
    x: str = "",
    y: str = "",
    remark: str = "",
) -> Markup:
    """Upright bars from zero, a group a category, with whiskers where a series has ranges.

    Values are finite and not negative. Raises `ValueError` where a series is not as long as the
    categories.
    """
    _check(categories, series)
    scale = Linear(0.0, _largest(series) or 1.0)
    frame = _Frame(scale, y, x)
    slot = frame.width / max(len(categories), 1)
    share = min(0.8 * slot / max(len(series), 1), 46.0)
    parts = frame.parts()
    for place, category in enumerate(categories):
        middle = frame.left + slot * (place + 0.5)
        parts.append(frame.category(middle, category))
        for number, each in enumerate(series):
            value = each.values[place]
            if value is None:
                continue
            left = middle + share * (number - len(series) / 2)
            top = frame.y(value)
            title = _title(each, place, category, y)
            bar = (
                f'<rect class="mark" x="{left + 1:.1f}" y="{top:.1f}" width="{share - 2:.1f}" '
                f'height="{frame.bottom - top:.1f}" rx="2"/>'
            )
            whisker = _upright(left + share / 2, frame, each.range_of(place), "over")
            parts.append(_group(number, title, bar + whisker))
    names = [each.name for each in series]
    spoken = f"{caption}: bars of {', '.join(names)} by {', '.join(categories)}"
    return figure(caption, _svg(parts, spoken), series=names, remark=remark)


def lines(
    caption: str,
    categories: Sequence[str],
    series: Sequence[Series],
    *,
    x: str = "",
    y: str = "",
    logarithmic: bool = False,
    remark: str = "",
) -> Markup:
    """A line a series with a dot at each category, and whiskers where it has ranges.

    ``logarithmic`` is of the upright axis: values of several magnitudes, all above zero, are told
    apart then. Raises `ValueError` where a series is not as long as the categories, or a value
    that is not above zero is given to a logarithmic axis.
    """
    _check(categories, series)
    low, high = _smallest(series), _largest(series)
    if logarithmic and low <= 0:
        raise ValueError("a logarithmic axis takes values above zero only")
    scale: Linear | Logarithmic
    scale = Logarithmic(low, high) if logarithmic else Linear(min(low, 0.0), high or 1.0)
    frame = _Frame(scale, y, x)
    slot = frame.width / max(len(categories), 1)
    # Whiskers of several series at one place would hide each other: a little beside each other.
    step = min(9.0, 0.5 * slot / max(len(series), 1))
    parts = frame.parts()
    parts += [
        frame.category(frame.left + slot * (place + 0.5), category)
        for place, category in enumerate(categories)
    ]
    # The first series is what a plot is about: it is drawn last, on top.
    for number, each in reversed(list(enumerate(series))):
        shift = step * (number - (len(series) - 1) / 2)
        points = [
            (frame.left + slot * (place + 0.5) + shift, frame.y(value), place)
            for place, value in enumerate(each.values)
            if value is not None
        ]
        path = " ".join(f"{left:.1f},{top:.1f}" for left, top, _ in points)
        parts.append(_group(number, "", f'<polyline class="line" points="{path}"/>'))
        for left, top, place in points:
            whisker = _upright(left, frame, each.range_of(place), "whisker")
            dot = f'<circle class="mark" cx="{left:.1f}" cy="{top:.1f}" r="3.5"/>'
            parts.append(_group(number, _title(each, place, categories[place], y), whisker + dot))
    names = [each.name for each in series]
    spoken = f"{caption}: lines of {', '.join(names)} over {', '.join(categories)}"
    return figure(caption, _svg(parts, spoken), series=names, remark=remark)


def histogram(
    caption: str,
    values: Sequence[float],
    *,
    bins: int = 20,
    x: str = "",
    y: str = "count",
    remark: str = "",
) -> Markup:
    """How many of the values, all finite, lie in each of ``bins`` equal intervals. Each interval
    holds its lower end, and the last its upper end too. Raises `ValueError` without values."""
    if not values:
        raise ValueError("a histogram needs values")
    low, high = min(values), max(values)
    step = (high - low) / bins or 1.0
    counts = [0] * bins
    for value in values:
        counts[min(int((value - low) / step), bins - 1)] += 1
    frame = _Frame(Linear(0.0, float(max(counts)), whole=True), y, x)
    slot = frame.width / bins
    parts = frame.parts()
    for place, count in enumerate(counts):
        if not count:
            continue
        top = frame.y(float(count))
        start = low + step * place
        title = f"{short(start)} to {short(start + step)}: {count}"
        bar = (
            f'<rect class="mark" x="{frame.left + slot * place + 0.5:.1f}" y="{top:.1f}" '
            f'width="{max(slot - 1, 0.5):.1f}" height="{frame.bottom - top:.1f}"/>'
        )
        parts.append(_group(0, title, bar))
    for place in range(0, bins + 1, max(bins // 4, 1)):
        parts.append(frame.category(frame.left + slot * place, short(low + step * place)))
    spoken = f"{caption}: {len(values)} values from {short(low)} to {short(high)}"
    return figure(caption, _svg(parts, spoken), remark=remark)


def ranges(
    caption: str,
    rows: Sequence[Range],
    *,
    x: str = "",
    unit: str = "",
    write: Callable[[float], str] | None = None,
    reference: float | None = None,
    colour: int = 0,
    remark: str = "",
) -> Markup:
    """A row for each value: a dot between the ends of its range, on a logarithmic axis.

    ``unit`` follows each number at the axis; ``write`` says how a row's own numbers are written,
    in the same way where absent. ``reference`` is marked by an upright line: where two are equal,
    for ratios. ``colour`` is that of a series. Raises `ValueError` for a value that is not above
    zero.
    """
    written = write or (lambda value: short(value) + unit)
    ends = [end for row in rows for end in (row.low, row.high, row.middle)]
    ends += [] if reference is None else [reference]
    if not ends or min(ends) <= 0:
        raise ValueError("ranges takes values above zero")
    scale = Logarithmic(min(ends), max(ends))
    left = 18 + _LETTER * max(len(row.label) for row in rows)
    right = 22 + _LETTER * max(len(written(row.middle)) for row in rows)
    height = 26.0
    bottom = _TOP + height * len(rows)
    width = _WIDTH - left - right

    def place_of(value: float) -> float:
        return left + width * scale.share(value)

    parts = [
        f'<line class="rule" x1="{place_of(tick):.1f}" x2="{place_of(tick):.1f}" y1="{_TOP}" '
        f'y2="{bottom:.1f}"/><text x="{place_of(tick):.1f}" y="{bottom + 17:.1f}" '
        f'text-anchor="middle">{text(short(tick) + unit)}</text>'
        for tick in spaced(scale.ticks, place_of, 44)
    ]
    if reference is not None:
        at = place_of(reference)
        parts.append(
            f'<line class="reference" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{bottom:.1f}"/>'
        )
    for number, row in enumerate(rows):
        middle = _TOP + height * (number + 0.5)
        parts.append(_label(left - 10, middle + 4.5, row.label))
        parts.append(_range(row, written, middle, place_of, colour))
    parts.append(_axis_name(left + width / 2, bottom + 36, x))
    spoken = f"{caption}: " + "; ".join(f"{row.label} {written(row.middle)}" for row in rows)
    return figure(caption, _svg(parts, spoken, bottom + (42 if x else 24)), remark=remark)


def stacks(
    caption: str,
    rows: Sequence[str],
    series: Sequence[Series],
    *,
    x: str = "",
    remark: str = "",
) -> Markup:
    """Lying bars, one for each of ``rows``, each made of the series' values end to end, with the
    sum at its end. Values are finite and not negative.

    Raises `ValueError` where a series is not as long as the rows.
    """
    _check(rows, series)
    totals = [sum(each.values[place] or 0.0 for each in series) for place in range(len(rows))]
    scale = Linear(0.0, max(totals, default=0.0) or 1.0)
    left = 18 + _LETTER * max(len(row) for row in rows)
    width = _WIDTH - left - 22 - _LETTER * max(len(short(total)) for total in totals)
    bottom = _TOP + 34.0 * len(rows)
    parts = [
        f'<line class="rule" x1="{left + width * scale.share(tick):.1f}" '
        f'x2="{left + width * scale.share(tick):.1f}" y1="{_TOP}" y2="{bottom:.1f}"/>'
        f'<text x="{left + width * scale.share(tick):.1f}" y="{bottom + 17:.1f}" '
        f'text-anchor="middle">{text(short(tick))}</text>'
        for tick in scale.ticks
    ]
    for place, row in enumerate(rows):
        top = _TOP + 34.0 * place + 5
        start = left
        parts.append(_label(left - 8, top + 16, row))
        for number, each in enumerate(series):
            length = width * scale.share(each.values[place] or 0.0)
            bar = (
                f'<rect class="mark" x="{start:.1f}" y="{top:.1f}" '
                f'width="{max(length - 1, 0):.1f}" height="24" rx="2"/>'
            )
            parts.append(_group(number, _title(each, place, row, x), bar))
            start += length
        parts.append(
            f'<text class="value" x="{start + 6:.1f}" y="{top + 16:.1f}">'
            f"{text(short(totals[place]))}</text>"
        )
    parts.append(_axis_name(left + width / 2, bottom + 36, x))
    names = [each.name for each in series]
    spoken = f"{caption}: " + "; ".join(
        f"{row} {short(total)}" for row, total in zip(rows, totals, strict=True)
    )
    drawing = _svg(parts, spoken, bottom + (42 if x else 24))
    return figure(caption, drawing, series=names, remark=remark)


class _Frame:
    """The upright axis and the room for what is drawn."""

    def __init__(self, scale: Linear | Logarithmic, y: str, x: str) -> None:
        self.scale = scale
        self.left = 14 + _LETTER * max(len(short(tick)) for tick in scale.ticks)
        self.width = _WIDTH - self.left - _RIGHT
        self.top = _TOP + (16 if y else 0)
        self.bottom = _HEIGHT - _BOTTOM + (0 if x else 16)
        self._names = (y, x)

    def y(self, value: float) -> float:
        return self.bottom - (self.bottom - self.top) * self.scale.share(value)

    def parts(self) -> list[str]:
        """Grid, ticks and the axes' names."""
        end = self.left + self.width
        ticks = spaced(self.scale.ticks, self.y, 20)
        parts = [
            f'<line class="rule" x1="{self.left:.1f}" x2="{end:.1f}" y1="{self.y(tick):.1f}" '
            f'y2="{self.y(tick):.1f}"/>' + _label(self.left - 7, self.y(tick) + 4.5, short(tick))
            for tick in ticks
        ]
        name, below = self._names
        parts.append(
            f'<line class="axis" x1="{self.left:.1f}" x2="{end:.1f}" y1="{self.bottom:.1f}" '
            f'y2="{self.bottom:.1f}"/>'
        )
        parts.append(f'<text x="0" y="12">{text(name)}</text>' if name else "")
        parts.append(_axis_name(self.left + self.width / 2, self.bottom + 38, below))
        return parts

    def category(self, middle: float, name: str) -> str:
        return (
            f'<text x="{middle:.1f}" y="{self.bottom + 18:.1f}" text-anchor="middle">'
            f"{text(name)}</text>"
        )


def _svg(parts: Sequence[str], spoken: str, height: float = _HEIGHT) -> Markup:
    return Markup(
        f'<svg viewBox="0 0 {_WIDTH:.0f} {height:.0f}" role="img" aria-label="{text(spoken)}">'
        f"{''.join(parts)}</svg>"
    )


def _group(number: int, title: str, inner: str) -> str:
    tooltip = f"<title>{text(title)}</title>" if title else ""
    return f'<g class="s{number % SERIES_COLOURS}">{tooltip}{inner}</g>'


def _range(
    row: Range,
    written: Callable[[float], str],
    middle: float,
    place_of: Callable[[float], float],
    colour: int,
) -> str:
    low, high, at = place_of(row.low), place_of(row.high), place_of(row.middle)
    drawn = (
        f'<path class="whisker" d="M{low:.1f},{middle - 5:.1f}v10M{low:.1f},{middle:.1f}'
        f'H{high:.1f}M{high:.1f},{middle - 5:.1f}v10"/>'
        f'<circle class="mark" cx="{at:.1f}" cy="{middle:.1f}" r="5"/>'
    )
    shown = written(row.middle)
    title = f"{row.label}: {shown} ({written(row.low)} to {written(row.high)})"
    value = f'<text class="value" x="{_WIDTH}" y="{middle + 4.5:.1f}" text-anchor="end">'
    return _group(colour, title, drawn) + f"{value}{text(shown)}</text>"


def _upright(left: float, frame: _Frame, span: tuple[float, float] | None, kind: str) -> str:
    if span is None:
        return ""
    low, high = frame.y(span[0]), frame.y(span[1])
    return (
        f'<path class="{kind}" d="M{left - 3:.1f},{low:.1f}h6M{left:.1f},{low:.1f}V{high:.1f}'
        f'M{left - 3:.1f},{high:.1f}h6"/>'
    )


def _label(right: float, baseline: float, name: str) -> str:
    return f'<text x="{right:.1f}" y="{baseline:.1f}" text-anchor="end">{text(name)}</text>'


def _axis_name(middle: float, baseline: float, name: str) -> str:
    if not name:
        return ""
    return f'<text x="{middle:.1f}" y="{baseline:.1f}" text-anchor="middle">{text(name)}</text>'


def _title(series: Series, place: int, category: str, unit: str) -> str:
    """A mark's tooltip."""
    value, span = series.values[place], series.range_of(place)
    shown = f"{series.name}, {category}: {short(value or 0.0)} {unit}".rstrip()
    return shown + (f" ({short(span[0])} to {short(span[1])})" if span else "")


def _check(categories: Sequence[str], series: Sequence[Series]) -> None:
    for each in series:
        for values in (each.values, each.low, each.high):
            if values is not None and len(values) != len(categories):
                raise ValueError(
                    f"{each.name} has {len(values)} values for {len(categories)} categories"
                )


def _all(series: Sequence[Series]) -> list[float]:
    return [
        value
        for each in series
        for values in (each.values, each.low or (), each.high or ())
        for value in values
        if value is not None
    ]


def _largest(series: Sequence[Series]) -> float:
    return max(_all(series), default=1.0)


def _smallest(series: Sequence[Series]) -> float:
    return min(_all(series), default=1.0)
