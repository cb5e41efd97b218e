"""Numbers between two others, as texts."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from lepton_edge.generation.expressions import (
    EMPTY,
    NOTHING,
    Expression,
    characters,
    choice,
    optional,
    repeat,
    series,
    text,
)

INTEGER_DIGITS = 18
"""Of an integer without a bound: what 64 bits hold."""
NUMBER_DIGITS = 15
"""Of a number with a bound. So many are told apart in 64 bits: a text that is above a bound is then
above it as a number too."""

DIGIT = characters([(0x30, 0x39)])
_SIGN = text("-")
_POINT = text(".")


def any_integer() -> Expression:
    natural = choice(text("0"), _digits(1, 9, repeat(DIGIT, 0, INTEGER_DIGITS - 1)))
    return series(optional(_SIGN), natural)


def any_number() -> Expression:
    """A decimal number of a size that 64 bits hold, with or without an exponent."""
    fraction = series(_POINT, repeat(DIGIT, 1, INTEGER_DIGITS - 1))
    exponent = series(
        characters([(0x45, 0x45), (0x65, 0x65)]),
        optional(characters([(0x2B, 0x2B), (0x2D, 0x2D)])),
        repeat(DIGIT, 1, 2),
    )
    return series(any_integer(), optional(fraction), optional(exponent))


def integers(low: int | None, high: int | None) -> Expression:
    """Those from ``low`` to ``high``; None for no bound. `NOTHING` where there is none."""
    limit = 10**INTEGER_DIGITS - 1
    low = -max(limit, -(high or 0)) if low is None else low
    high = max(limit, low) if high is None else high
    negative = _naturals(max(1, -high), -low)
    return choice(_naturals(max(low, 0), high), series(_SIGN, negative))


def decimals(
    low: Decimal | None, high: Decimal | None, *, above: bool = False, below: bool = False
) -> Expression:
    """Those from ``low`` to ``high``; without ``low`` itself if ``above``, without ``high`` if
    ``below``. None for no bound. They have no exponent. `NOTHING` where there is none.

    Neither bound has more than `NUMBER_DIGITS` digits before its point.
    """
    largest = max(abs(bound) for bound in (low, high) if bound is not None)
    places = NUMBER_DIGITS - len(str(int(largest)))
    limit = 10 ** (NUMBER_DIGITS + places) - 1
    first = -limit if low is None else _scaled(low, places, ROUND_CEILING, int(above))
    last = limit if high is None else _scaled(high, places, ROUND_FLOOR, -int(below))
    return choice(
        _magnitudes(max(first, 0), last, places),
        series(_SIGN, _magnitudes(max(1, -last), -first, places)),
    )


def _scaled(bound: Decimal, places: int, rounding: str, step: int) -> int:
    """A bound in units of the last place, rounded inwards; a step further where it is one of
    them, and is left out."""
    exact = bound.scaleb(places)
    rounded = exact.to_integral_value(rounding)
    return int(rounded) + (step if rounded == exact else 0)


def _magnitudes(first: int, last: int, places: int) -> Expression:
    """Texts of the numbers from ``first`` to ``last``, from 0, in units of the last place."""
    if first > last:
        return NOTHING
    unit = 10**places
    (low, low_rest), (high, high_rest) = divmod(first, unit), divmod(last, unit)
    zeros, nines = "0" * places, "9" * places
    after_low = str(low_rest).zfill(places) if places else ""
    after_high = str(high_rest).zfill(places) if places else ""
    if low == high:
        return series(text(str(low)), _fraction(after_low, after_high))
    return choice(
        series(text(str(low)), _fraction(after_low, nines)),
        series(_naturals(low + 1, high - 1), _fraction(zeros, nines)),
        series(text(str(high)), _fraction(zeros, after_high)),
    )


def _fraction(low: str, high: str) -> Expression:
    """A point and digits, or nothing, for what is from 0.low to 0.high."""
    after = series(_POINT, _decimals(low, high))
    return choice(after, EMPTY) if not low.strip("0") else after


def _decimals(low: str, high: str) -> Expression:
    """At least one digit, and as many as the bounds have at most."""
    if not low:
        return NOTHING
    rest = len(low) - 1
    if not low.strip("0") and not high.strip("9"):
        return repeat(DIGIT, 1, len(low))
    first, last = int(low[0]), int(high[0])
    if first == last:
        return series(text(low[0]), _ended(low[1:], high[1:]))
    return choice(
        series(text(low[0]), _ended(low[1:], "9" * rest)),
        _digits(first + 1, last - 1, repeat(DIGIT, 0, rest)),
        series(text(high[0]), _ended("0" * rest, high[1:])),
    )


def _ended(low: str, high: str) -> Expression:
    """As `_decimals`, or no digit more where that is enough."""
    more = _decimals(low, high)
    return choice(more, EMPTY) if not low.strip("0") else more


def _naturals(first: int, last: int) -> Expression:
    """The integers from ``first`` to ``last``, from 0."""
    if first > last:
        return NOTHING
    fewest, most = len(str(first)), len(str(last))
    if fewest == most:
        return _same_length(str(first), str(last))
    return choice(
        _same_length(str(first), "9" * fewest),
        _digits(1, 9, repeat(DIGIT, fewest, most - 2)) if most - fewest > 1 else NOTHING,
        _same_length("1" + "0" * (most - 1), str(last)),
    )


def _same_length(low: str, high: str) -> Expression:
    """Of as many digits as both have."""
    if low == high:
        return text(low)
    rest = len(low) - 1
    first, last = int(low[0]), int(high[0])
    if first == last:
        return series(text(low[0]), _same_length(low[1:], high[1:]))
    whole = [not low[1:].strip("0"), not high[1:].strip("9")]
    return choice(
        NOTHING if whole[0] else series(text(low[0]), _same_length(low[1:], "9" * rest)),
        _digits(first + (not whole[0]), last - (not whole[1]), repeat(DIGIT, rest, rest)),
        NOTHING if whole[1] else series(text(high[0]), _same_length("0" * rest, high[1:])),
    )


def _digits(first: int, last: int, rest: Expression) -> Expression:
    """A digit from ``first`` to ``last``, and what follows it."""
    if first > last:
        return NOTHING
    return series(characters([(0x30 + first, 0x30 + last)]), rest)
