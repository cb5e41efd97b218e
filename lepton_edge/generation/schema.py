"""JSON schemas (draft 2020-12) as grammars.

An answer is valid by its schema; not all that is valid is written. An object has the properties
that its schema names, in that order, and others only where it names none. Keywords of a type say
that the value is of it, as they do in nearly every schema. A keyword that no answer could be held
to is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any, NoReturn
from urllib.parse import unquote

from lepton_edge.errors import InputError
from lepton_edge.generation.expressions import (
    EMPTY,
    NOTHING,
    Choice,
    Expression,
    Repeat,
    Rule,
    Rules,
    Series,
    choice,
    count,
    lexeme,
    of_length,
    optional,
    pruned,
    repeat,
    series,
    size,
)
from lepton_edge.generation.formats import FORMATS
from lepton_edge.generation.json_text import (
    COLON,
    COMMA,
    INTEGER,
    NUMBER,
    STRING,
    VALUE,
    any_json,
    arrays,
    enclosed,
    known,
    objects,
    string,
    strings,
    word,
    written,
)
from lepton_edge.generation.number_ranges import INTEGER_DIGITS, NUMBER_DIGITS, decimals, integers
from lepton_edge.generation.one_of import are_apart
from lepton_edge.generation.regular import MOST_CHARACTERS, containing

_LONGEST = 1_000_000
_DEEPEST = 64
# xgrammar takes 2 s to compile as many, during which no text goes on, and overflows its stack with
# ten times as many (openvino-genai 2026.4.1).
_MOST_PARTS = 15_000
_MOST_TOLD_APART = 256

# What describes and does not constrain.
_DESCRIPTIVE = frozenset(
    (
        *("$comment", "$defs", "$schema", "default", "definitions", "deprecated", "description"),
        *("discriminator", "example", "examples", "readOnly", "title", "writeOnly"),
    )
)
_NUMERIC = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_OF_TYPE: Mapping[str, tuple[str, ...]] = {
    "null": (),
    "boolean": (),
    "integer": _NUMERIC,
    "number": _NUMERIC,
    "string": ("minLength", "maxLength", "pattern", "format"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "object": ("properties", "required", "additionalProperties"),
}
_WHOLE = ("$ref", "allOf", "anyOf", "oneOf")  # these stand alone
_KNOWN = frozenset((*_WHOLE, "enum", "const", "type")).union(*_OF_TYPE.values())
_HINT = "supported: " + ", ".join(sorted(_KNOWN)) + "; " + ", ".join(sorted(_DESCRIPTIVE)) + " pass"


def rules_of_schema(source: str) -> Rules:
    """The answers that are valid by a schema, given as JSON. Raises `InputError`."""
    schema = _read(source)
    reader = _Reader(schema)
    start = reader.value(schema, "#", 0)
    rules = pruned(Rules(start, reader.rules))
    if rules.start == NOTHING:
        raise InputError("no value that ends is valid by the JSON schema")
    _check_recursion(rules)
    total = size(rules.start) + sum(map(size, rules.named.values()))
    if total > MOST_CHARACTERS:
        raise InputError(
            f"the JSON schema repeats too much: its longest answer has {total:,} characters, and "
            f"{MOST_CHARACTERS:,} are allowed",
            hint="a smaller maxLength or maxItems; one that is absent is no limit",
        )
    parts = count(rules.start) + sum(map(count, rules.named.values()))
    if parts > _MOST_PARTS:
        raise InputError(
            f"the JSON schema is too large: its grammar has {parts:,} parts, and {_MOST_PARTS:,} "
            "are allowed",
            hint="fewer properties, above all ones that are not required; a $ref for what is there "
            "many times",
        )
    return rules


def _read(source: str) -> Any:
    if len(source) > _LONGEST:
        raise InputError(f"the JSON schema has {len(source):,} characters: at most {_LONGEST:,}")
    try:
        schema = json.loads(source, parse_float=_number, parse_constant=_no_number)
        # An escape can write what is no character.
        json.dumps(schema, ensure_ascii=False, default=str).encode()
    except RecursionError:
        raise InputError("the JSON schema is nested too deeply") from None
    except ValueError as error:
        raise InputError(f"the JSON schema is not JSON: {error}") from None
    return schema


def _number(source: str) -> Decimal:
    found = Decimal(source)
    if not -400 < found.adjusted() < 300:
        raise ValueError(f"{source} is no number of 64 bits")
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _fault(path: str, what: str, hint: str | None = None) -> NoReturn:
    raise InputError(f"the JSON schema cannot be used: {what} (at {path})", hint=hint)


class _Reader:
    """Reads one schema; ``path`` is a place in it, as a JSON pointer."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self.rules: dict[str, Expression] = any_json()
        self._references: dict[str, str] = {}

    def value(self, schema: Any, path: str, depth: int) -> Expression:
        """What a value that is valid by a schema may be."""
        if isinstance(schema, bool):
            return Rule(VALUE) if schema else NOTHING
        if not isinstance(schema, dict):
            _fault(path, f"{_brief(schema)} is not a schema")
        if depth > _DEEPEST:
            _fault(path, f"it is nested deeper than {_DEEPEST} levels")
        used = self._keywords(schema, path)
        for keyword in _WHOLE:
            if keyword in used:
                if others := sorted(used - {keyword}):
                    _fault(f"{path}/{keyword}", f"{keyword} stands beside {', '.join(others)}")
                return self._combined(keyword, schema[keyword], f"{path}/{keyword}", depth + 1)
        if used & {"enum", "const"}:
            return self._listed(schema, used, path)
        types = self._types(schema, used, path)
        if not types:
            return Rule(VALUE)
        return choice(*(self._typed(each, schema, path, depth + 1) for each in types))

    def _keywords(self, schema: dict[str, Any], path: str) -> set[str]:
        """Those that constrain."""
        used = set()
        for keyword in schema:
            if keyword in _DESCRIPTIVE or keyword.startswith("x-"):
                continue
            if keyword == "$id" and path == "#":
                continue
            if keyword not in _KNOWN:
                _fault(
                    f"{path}/{keyword}",
                    f"an answer cannot be held to the keyword {keyword!r}",
                    _HINT,
                )
            used.add(keyword)
        return used

    def _combined(self, keyword: str, given: Any, path: str, depth: int) -> Expression:
        if keyword == "$ref":
            return self._referred(given, path, depth)
        if not isinstance(given, list) or not given:
            _fault(path, f"{keyword} is {_brief(given)}: it is a list of schemas")
        if keyword == "allOf" and len(given) > 1:
            _fault(path, "allOf has several schemas: write them as one")
        if keyword == "oneOf" and len(given) > _MOST_TOLD_APART:
            _fault(
                path,
                f"oneOf has {len(given):,} schemas: {_MOST_TOLD_APART} at most are told apart",
                "write anyOf",
            )
        if keyword == "oneOf":
            for second, schema in enumerate(given):
                for first in range(second):
                    if not are_apart(given[first], schema, self._followed):
                        _fault(
                            path,
                            f"a value may be valid by both schemas {first} and {second} of oneOf",
                            "give them different types, or a required property with different "
                            "const values; or write anyOf",
                        )
        return choice(*(self.value(schema, f"{path}/{n}", depth) for n, schema in enumerate(given)))

    def _referred(self, given: Any, path: str, depth: int) -> Expression:
        if not isinstance(given, str):
            _fault(path, f"$ref is {_brief(given)}: it is a text")
        if given not in self._references:
            name = f"ref{len(self._references)}"
            self._references[given] = name
            self.rules[name] = NOTHING
            self.rules[name] = self.value(self._target(given, path), given, depth)
        return Rule(self._references[given])

    def _followed(self, schema: Any) -> Any:
        """What a schema that is a reference refers to; any other as it is."""
        for _ in range(_DEEPEST):
            if not isinstance(schema, dict) or not isinstance(schema.get("$ref"), str):
                return schema
            schema = self._target(schema["$ref"], "#")
        return None

    def _target(self, reference: str, path: str) -> Any:
        if reference != "#" and not reference.startswith("#/"):
            _fault(path, f"{reference!r} is not a place in the schema", 'such as "#/$defs/name"')
        found = self._root
        for part in reference.split("/")[1:]:
            name = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and name.isdecimal() and int(name) < len(found):
                found = found[int(name)]
            elif isinstance(found, dict) and name in found:
                found = found[name]
            else:
                _fault(path, f"there is nothing at {reference!r}")
        return found

    def _listed(self, schema: dict[str, Any], used: set[str], path: str) -> Expression:
        if others := sorted(used - {"enum", "const", "type"}):
            _fault(path, f"enum or const stands beside {', '.join(others)}")
        values = schema["enum"] if "enum" in schema else [schema["const"]]
        if not isinstance(values, list) or not values:
            _fault(f"{path}/enum", f"enum is {_brief(values)}: it is a list of values")
        if "enum" in schema and "const" in schema:
            values = [value for value in values if _same(value, schema["const"])]
        types = self._types(schema, used & {"type"}, path)
        if types:
            values = [value for value in values if any(_is_of(value, each) for each in types)]
        return choice(*map(known, values))

    def _types(self, schema: dict[str, Any], used: set[str], path: str) -> list[str]:
        """Those that a value may have; none for any."""
        if "type" not in used:
            return [each for each, own in _OF_TYPE.items() if each != "integer" and used & set(own)]
        given = schema["type"]
        types = given if isinstance(given, list) else [given]
        for each in types:
            if not isinstance(each, str) or each not in _OF_TYPE:
                _fault(
                    f"{path}/type",
                    f"{_brief(each)} is not a type",
                    f"types: {', '.join(sorted(_OF_TYPE))}",
                )
        if not types:
            _fault(f"{path}/type", "the list of types is empty")
        return list(types)

    def _typed(self, kind: str, schema: dict[str, Any], path: str, depth: int) -> Expression:
        if kind == "null":
            return word("null")
        if kind == "boolean":
            return choice(word("true"), word("false"))
        if kind == "string":
            return _string(schema, path)
        if kind in ("integer", "number"):
            return _numeric(kind, schema, path)
        read = self._array if kind == "array" else self._object
        name = f"{kind}{len(self.rules)}"
        self.rules[name] = NOTHING  # takes the name
        self.rules[name] = read(schema, path, depth)
        return Rule(name)

    def _array(self, schema: dict[str, Any], path: str, depth: int) -> Expression:
        least = _count(schema, "minItems", path) or 0
        most = _count(schema, "maxItems", path)
        first = schema.get("prefixItems", [])
        if not isinstance(first, list):
            _fault(f"{path}/prefixItems", f"it is {_brief(first)}, not a list of schemas")
        own = [self.value(each, f"{path}/prefixItems/{n}", depth) for n, each in enumerate(first)]
        others = self.value(schema.get("items", True), f"{path}/items", depth)
        if most is not None and most < least:
            _fault(path, f"minItems is {least} and maxItems {most}")
        if not own:
            return arrays(others, least, most)
        return enclosed("[]", self._prefixed(own, others, least, most))

    def _prefixed(
        self, own: list[Expression], others: Expression, least: int, most: int | None
    ) -> Expression:
        """Items that are each their own, and then ``others``."""
        own = own[:most]
        room = None if most is None else most - len(own)
        rest = repeat(series(COMMA, others), max(least - len(own), 0), room)
        for place in range(len(own) - 1, -1, -1):
            item = series(COMMA, own[place], rest) if place else series(own[place], rest)
            rest = item if place < least else optional(item)
        return rest

    def _object(self, schema: dict[str, Any], path: str, depth: int) -> Expression:
        given = schema.get("properties", {})
        required = schema.get("required", [])
        if not isinstance(given, dict):
            _fault(f"{path}/properties", f"it is {_brief(given)}, not schemas by name")
        if not isinstance(required, list) or not all(isinstance(each, str) for each in required):
            _fault(f"{path}/required", f"it is {_brief(required)}, not a list of names")
        further = self.value(
            schema.get("additionalProperties", True), f"{path}/additionalProperties", depth
        )
        named = {
            name: self.value(each, f"{path}/properties/{_escaped(name)}", depth)
            for name, each in given.items()
        }
        named |= {name: further for name in required if name not in named}
        for name in required:
            if named[name] == NOTHING:
                _fault(f"{path}/required", f"{name!r} is required, and no value is valid for it")
        if not named:
            return enclosed("{}") if further == NOTHING else objects(further)
        written_out = [
            (series(known(name), COLON, value), name in required)
            for name, value in named.items()
            if value != NOTHING
        ]
        return enclosed("{}", self._properties(written_out))

    def _properties(self, properties: list[tuple[Expression, bool]]) -> Expression:
        """Properties in order, with whether each is required, and commas between them."""
        more = [
            series(COMMA, item) if is_required else optional(series(COMMA, item))
            for item, is_required in properties
        ]
        required = [place for place, (_, is_required) in enumerate(properties) if is_required]
        if required[:1] == [0]:
            return series(properties[0][0], *more[1:])
        # The first to be written is one of those up to the first that is required.
        last = required[0] if required else len(properties) - 1
        rest = self._named("rest", series(*more[last + 1 :]))
        between = _Blocks(more[: last + 1], self._named)
        firsts = [
            series(item, *between.after(place), rest)
            for place, (item, _) in enumerate(properties[: last + 1])
        ]
        return choice(*firsts) if required else choice(*firsts, EMPTY)

    def _named(self, kind: str, expression: Expression) -> Expression:
        """A rule, for what is written in several places."""
        name = f"{kind}{len(self.rules)}"
        self.rules[name] = expression
        return Rule(name)


class _Blocks:
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


def _string(schema: dict[str, Any], path: str) -> Expression:
    least = _count(schema, "minLength", path) or 0
    most = _count(schema, "maxLength", path)
    if most is not None and most < least:
        _fault(path, f"minLength is {least} and maxLength {most}")
    if "pattern" not in schema and "format" not in schema:
        return strings(least, most) if least or most is not None else Rule(STRING)
    if "pattern" in schema and "format" in schema:
        _fault(path, "pattern stands beside format")
    try:
        found = containing(_pattern(schema, path))
    except InputError as error:
        _fault(f"{path}/pattern", error.message, error.hint)
    fitting = of_length(found, least, most)
    if fitting is None:
        _fault(
            path,
            "minLength or maxLength beside this pattern",
            'say it in the pattern: "^[a-z]{2,8}$"',
        )
    if fitting == NOTHING:
        _fault(path, "no text of its pattern or format is as long as minLength and maxLength say")
    return string(written(fitting))


def _pattern(schema: dict[str, Any], path: str) -> str:
    name = "pattern" if "pattern" in schema else "format"
    value = schema[name]
    if not isinstance(value, str):
        _fault(f"{path}/{name}", f"it is {_brief(value)}, not a text")
    if name == "pattern":
        return value
    if value not in FORMATS:
        known_ones = ", ".join(sorted(FORMATS))
        _fault(f"{path}/format", f"the format {_brief(value)} is not known", f"known: {known_ones}")
    return FORMATS[value]


def _numeric(kind: str, schema: dict[str, Any], path: str) -> Expression:
    bounds = {name: _bound(schema, name, path) for name in _NUMERIC}
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
        _fault(path, f"no {kind} is in the range of its minimum and maximum")
    return lexeme(found)


def _bound(schema: dict[str, Any], name: str, path: str) -> Decimal | None:
    value = schema.get(name)
    if name not in schema:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, Decimal)):
        _fault(f"{path}/{name}", f"it is {_brief(value)}, not a number")
    digits = INTEGER_DIGITS if schema.get("type") == "integer" else NUMBER_DIGITS
    if abs(value) >= 10**digits:
        _fault(f"{path}/{name}", f"it is {value}: below 10^{digits} is supported")
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


def _count(schema: dict[str, Any], name: str, path: str) -> int | None:
    if name not in schema:
        return None
    value = schema[name]
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        _fault(f"{path}/{name}", f"it is {_brief(value)}, not a whole number from 0")
    return value


def _is_of(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if isinstance(value, (int, Decimal)):
        return kind == "number" or (kind == "integer" and value == int(value))
    kinds: dict[str, type] = {"null": type(None), "string": str, "array": list, "object": dict}
    return kind in kinds and isinstance(value, kinds[kind])


def _same(a: Any, b: Any) -> bool:
    """As JSON has it: true is not 1."""
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


def _brief(value: Any) -> str:
    shown = json.dumps(value, ensure_ascii=False, default=str)
    return shown if len(shown) <= 60 else f"{shown[:60]}…"


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _check_recursion(rules: Rules) -> None:
    """Raise `InputError` where a reference comes back to itself with nothing written between."""
    done: set[str] = set()

    def follow(expression: Expression, within: frozenset[str]) -> None:
        for name in _first(expression):
            if name in within:
                raise InputError(
                    "the JSON schema cannot be used: a $ref refers to itself and to nothing else"
                )
            if name not in done:
                follow(rules.named[name], within | {name})
                done.add(name)

    follow(rules.start, frozenset())


def _first(expression: Expression) -> list[str]:
    """The rules that a text may begin with."""
    if isinstance(expression, Rule):
        return [expression.name]
    if isinstance(expression, Repeat):
        return _first(expression.part)
    if isinstance(expression, Series):
        return _first(expression.parts[0]) if expression.parts else []
    if isinstance(expression, Choice):
        return [name for part in expression.parts for name in _first(part)]
    return []
