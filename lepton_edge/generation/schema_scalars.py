"""The texts and numbers that are valid by a JSON schema. ``path`` is the schema's place in the
whole, as a JSON pointer, for messages."""

from __future__ import annotations

from collections.abc import Callable
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any

from lepton_edge.errors import InputError
from lepton_edge.generation.expressions import NOTHING, Expression, Rule, lexeme, of_length
from lepton_edge.generation.formats import FORMATS
from lepton_edge.generation.json_text import INTEGER, NUMBER, STRING, string, strings, written
from lepton_edge.generation.number_ranges import INTEGER_DIGITS, NUMBER_DIGITS, decimals, integers
from lepton_edge.generation.regular import containing
from lepton_edge.generation.schema_reading import brief, count_of, fault

NUMERIC = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")


def string_of(schema: dict[str, Any], path: str) -> Expression:
    """A text as JSON writes it. Raises `InputError`."""
    least = count_of(schema, "minLength", path) or 0
    most = count_of(schema, "maxLength", path)
    if most is not None and most < least:
        fault(path, f"minLength is {least} and maxLength {most}")
    if "pattern" not in schema and "format" not in schema:
        return strings(least, most) if least or most is not None else Rule(STRING)
    if "pattern" in schema and "format" in schema:
        fault(path, "pattern stands beside format")
    try:
        found = containing(_pattern(schema, path))
    except InputError as error:
        fault(f"{path}/pattern", error.message, error.hint)
    fitting = of_length(found, least, most)
    if fitting is None:
        fault(
            path,
            "minLength or maxLength beside this pattern",
            'say it in the pattern: "^[a-z]{2,8}$"',
        )
    if fitting == NOTHING:
        fault(path, "no text of its pattern or format is as long as minLength and maxLength say")
    return string(written(fitting))


def _pattern(schema: dict[str, Any], path: str) -> str:
    name = "pattern" if "pattern" in schema else "format"
    value = schema[name]
    if not isinstance(value, str):
        fault(f"{path}/{name}", f"it is {brief(value)}, not a text")
    if name == "pattern":
        return value
    if value not in FORMATS:
        known_ones = ", ".join(sorted(FORMATS))
        fault(f"{path}/format", f"the format {brief(value)} is not known", f"known: {known_ones}")
    return FORMATS[value]


def number_of(kind: str, schema: dict[str, Any], path: str) -> Expression:
    """An ``integer`` or a ``number``. Raises `InputError`."""
    bounds = {name: _bound(schema, name, path) for name in NUMERIC}
    low, above = _tightest(bounds["minimum"], bounds["exclusiveMinimum"], max)
    high, below = _tightest(bounds["maximum"], bounds["exclusiveMaximum"], min)
    if low is None and high is None:
        return Rule(INTEGER if kind == "integer" else NUMBER)
    if kind == "integer":
        found = integers(
            None if low is None else _whole(low, ROUND_CEILING, int(above)),
            None if high is None else _whole(high, ROUND_FLOOR, -int(below)),
        )
    else:
        found = decimals(low, high, above=above, below=below)
    if found == NOTHING:
        fault(path, f"no {kind} is in the range of its minimum and maximum")
    return lexeme(found)


def _bound(schema: dict[str, Any], name: str, path: str) -> Decimal | None:
    value = schema.get(name)
    if name not in schema:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, Decimal)):
        fault(f"{path}/{name}", f"it is {brief(value)}, not a number")
    digits = INTEGER_DIGITS if schema.get("type") == "integer" else NUMBER_DIGITS
    if abs(value) >= 10**digits:
        fault(f"{path}/{name}", f"it is {value}: below 10^{digits} is supported")
    return Decimal(value)


def _tightest(
    including: Decimal | None, excluding: Decimal | None, first: Callable[..., Decimal]
) -> tuple[Decimal | None, bool]:
    """The bound that leaves less, and whether it is left out itself."""
    bounds = [each for each in (including, excluding) if each is not None]
    if not bounds:
        return None, False
    found = first(*bounds) if len(bounds) > 1 else bounds[0]
    return found, found == excluding


def _whole(bound: Decimal, rounding: str, step: int) -> int:
    found = bound.to_integral_value(rounding)
    return int(found) + (step if found == bound else 0)
