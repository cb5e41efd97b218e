"""JSON as texts: values that are known, and any value."""

from __future__ import annotations

import json
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from lepton_edge.generation.expressions import (
    ANY,
    EMPTY,
    NOTHING,
    Characters,
    Choice,
    Expression,
    Range,
    Repeat,
    Rule,
    Series,
    Text,
    characters,
    choice,
    common,
    lexeme,
    optional,
    others,
    repeat,
    series,
    text,
)
from lepton_edge.generation.number_ranges import any_integer, any_number

_HEX = characters([(0x30, 0x39), (0x41, 0x46), (0x61, 0x66)])
_CONTROLS = (0, 0x1F)
_ESCAPED = {0x22: '\\"', 0x5C: "\\\\"}
_SHORT = {8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r"}

# One space may follow a comma and a colon, as most models write it; there is no other white space,
# of which a model may write without end.
_SPACE = optional(text(" "))
COMMA = lexeme(series(text(","), _SPACE))
COLON = lexeme(series(text(":"), _SPACE))
_QUOTE = text('"')

VALUE, STRING, NUMBER, INTEGER = "value", "string", "number", "integer"


def word(value: str) -> Expression:
    """A token of JSON that is this text."""
    return lexeme(text(value))


def string(inside: Expression) -> Expression:
    """A string of what is `written` between its quotes."""
    return lexeme(series(_QUOTE, inside, _QUOTE)) if inside != NOTHING else NOTHING


def enclosed(brackets: str, *inside: Expression) -> Expression:
    """An array or an object of what is inside of its brackets."""
    return series(word(brackets[0]), *inside, word(brackets[1]))


def known(value: Any) -> Expression:
    """A value that `json.loads` gave, as it may be written."""
    if isinstance(value, dict):
        items = [series(known(name), COLON, known(item)) for name, item in value.items()]
        return enclosed("{}", *_joined(items))
    if isinstance(value, list):
        return enclosed("[]", *_joined([known(item) for item in value]))
    if isinstance(value, Decimal):
        return word(repr(float(value)))
    return word(json.dumps(value, ensure_ascii=False))


def _joined(items: list[Expression]) -> list[Expression]:
    return [part for item in items for part in (COMMA, item)][1:]


def written(expression: Expression) -> Expression:
    """The texts of a regular expression as they are written inside of a JSON string."""
    if isinstance(expression, Text):
        return text(json.dumps(expression.text, ensure_ascii=False)[1:-1])
    if isinstance(expression, Characters):
        return _written(expression)
    if isinstance(expression, Series):
        return series(*map(written, expression.parts))
    if isinstance(expression, Choice):
        return choice(*map(written, expression.parts))
    if isinstance(expression, Repeat):
        return repeat(written(expression.part), expression.least, expression.most)
    raise TypeError(f"{expression} is no regular expression")


def _written(expression: Characters) -> Expression:
    ranges = list(expression.ranges)
    escaped = [
        text(escape) for number, escape in _ESCAPED.items() if common(ranges, (number, number))
    ]
    return choice(_plain(ranges), *escaped, _controls(ranges))


def _plain(ranges: Iterable[Range]) -> Expression:
    """Those of these characters that are written as they are."""
    left_out = others([_CONTROLS, *((number, number) for number in _ESCAPED)])
    return characters(part for kept in left_out for part in common(ranges, kept))


def _controls(ranges: list[Range]) -> Expression:
    """Those of these characters that are written as escapes only."""
    found = [n for first, last in common(ranges, _CONTROLS) for n in range(first, last + 1)]
    short = [text(_SHORT[number]) for number in found if number in _SHORT]
    rows = (
        series(text(f"\\u00{row}"), characters(map(_hex_digit, found_in_row)))
        for row in (0, 1)
        if (found_in_row := [number % 16 for number in found if number // 16 == row])
    )
    return choice(*short, *rows)


def _hex_digit(value: int) -> Range:
    return (ord(f"{value:x}"), ord(f"{value:x}"))


def any_character() -> Expression:
    """One character inside of a string, in each way to write it but as two escapes."""
    # \uXXXX, but for surrogates, of which one alone is no character.
    first = characters([(0x30, 0x39), (0x41, 0x43), (0x45, 0x46), (0x61, 0x63), (0x65, 0x66)])
    low = series(characters([(0x44, 0x44), (0x64, 0x64)]), characters([(0x30, 0x37)]), _HEX, _HEX)
    number = series(text("\\u"), choice(series(first, _HEX, _HEX, _HEX), low))
    short = map(text, (*_ESCAPED.values(), "\\/", *_SHORT.values()))
    return choice(_plain(ANY.ranges), *short, number)


def strings(least: int = 0, most: int | None = None) -> Expression:
    """Those of so many characters."""
    return string(repeat(any_character(), least, most))


def arrays(item: Expression, least: int = 0, most: int | None = None) -> Expression:
    """Those of so many items, all alike."""
    return enclosed("[]", listed(item, least, most))


def objects(value: Expression) -> Expression:
    """Those of any names, whose values are all alike."""
    return enclosed("{}", listed(series(Rule(STRING), COLON, value), 0, None))


def listed(item: Expression, least: int, most: int | None) -> Expression:
    """So many items with commas between them."""
    if most == 0:
        return NOTHING if least else EMPTY
    more = repeat(series(COMMA, item), max(least - 1, 0), None if most is None else most - 1)
    some = series(item, more)
    return some if least else optional(some)


def any_json() -> dict[str, Expression]:
    """The rules of any JSON value."""
    value = Rule(VALUE)
    return {
        VALUE: choice(
            Rule(STRING),
            Rule(NUMBER),
            *map(word, ("true", "false", "null")),
            arrays(value),
            objects(value),
        ),
        STRING: strings(),
        NUMBER: lexeme(any_number()),
        INTEGER: lexeme(any_integer()),
    }
