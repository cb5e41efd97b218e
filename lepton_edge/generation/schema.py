"""JSON schemas (draft 2020-12) as grammars.

An answer is valid by its schema; not all that is valid is written. An object has the properties
that its schema names, in that order, and others only where it names none. Keywords of a type say
that the value is of it, as they do in nearly every schema. A keyword that no answer could be held
to is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from urllib.parse import unquote

from lepton_edge.errors import InputError
from lepton_edge.generation.blocks import Blocks
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
    optional,
    pruned,
    repeat,
    series,
    size,
)
from lepton_edge.generation.json_text import (
    COLON,
    COMMA,
    VALUE,
    any_json,
    arrays,
    enclosed,
    known,
    objects,
    word,
)
from lepton_edge.generation.one_of import are_apart
from lepton_edge.generation.regular import MOST_CHARACTERS
from lepton_edge.generation.schema_reading import brief, count_of, fault, read_schema
from lepton_edge.generation.schema_scalars import NUMERIC, number_of, string_of

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
_OF_TYPE: Mapping[str, tuple[str, ...]] = {
    "null": (),
    "boolean": (),
    "integer": NUMERIC,
    "number": NUMERIC,
    "string": ("minLength", "maxLength", "pattern", "format"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "object": ("properties", "required", "additionalProperties"),
}
_WHOLE = ("$ref", "allOf", "anyOf", "oneOf")  # these stand alone
_KNOWN = frozenset((*_WHOLE, "enum", "const", "type")).union(*_OF_TYPE.values())
_HINT = "supported: " + ", ".join(sorted(_KNOWN)) + "; " + ", ".join(sorted(_DESCRIPTIVE)) + " pass"


def rules_of_schema(source: str) -> Rules:
    """The answers that are valid by a schema, given as JSON. Raises `InputError`."""
    schema = read_schema(source)
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
            fault(path, f"{brief(schema)} is not a schema")
        if depth > _DEEPEST:
            fault(path, f"it is nested deeper than {_DEEPEST} levels")
        used = self._keywords(schema, path)
        for keyword in _WHOLE:
            if keyword in used:
                if others := sorted(used - {keyword}):
                    fault(f"{path}/{keyword}", f"{keyword} stands beside {', '.join(others)}")
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
                fault(
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
            fault(path, f"{keyword} is {brief(given)}: it is a list of schemas")
        if keyword == "allOf" and len(given) > 1:
            fault(path, "allOf has several schemas: write them as one")
        if keyword == "oneOf" and len(given) > _MOST_TOLD_APART:
            fault(
                path,
                f"oneOf has {len(given):,} schemas: {_MOST_TOLD_APART} at most are told apart",
                "write anyOf",
            )
        if keyword == "oneOf":
            for second, schema in enumerate(given):
                for first in range(second):
                    if not are_apart(given[first], schema, self._followed):
                        fault(
                            path,
                            f"a value may be valid by both schemas {first} and {second} of oneOf",
                            "give them different types, or a required property with different "
                            "const values; or write anyOf",
                        )
        return choice(*(self.value(schema, f"{path}/{n}", depth) for n, schema in enumerate(given)))

    def _referred(self, given: Any, path: str, depth: int) -> Expression:
        if not isinstance(given, str):
            fault(path, f"$ref is {brief(given)}: it is a text")
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
            fault(path, f"{reference!r} is not a place in the schema", 'such as "#/$defs/name"')
        found = self._root
        for part in reference.split("/")[1:]:
            name = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and name.isdecimal() and int(name) < len(found):
                found = found[int(name)]
            elif isinstance(found, dict) and name in found:
                found = found[name]
            else:
                fault(path, f"there is nothing at {reference!r}")
        return found

    def _listed(self, schema: dict[str, Any], used: set[str], path: str) -> Expression:
        if others := sorted(used - {"enum", "const", "type"}):
            fault(path, f"enum or const stands beside {', '.join(others)}")
        values = schema["enum"] if "enum" in schema else [schema["const"]]
        if not isinstance(values, list) or not values:
            fault(f"{path}/enum", f"enum is {brief(values)}: it is a list of values")
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
                fault(
                    f"{path}/type",
                    f"{brief(each)} is not a type",
                    f"types: {', '.join(sorted(_OF_TYPE))}",
                )
        if not types:
            fault(f"{path}/type", "the list of types is empty")
        return list(types)

    def _typed(self, kind: str, schema: dict[str, Any], path: str, depth: int) -> Expression:
        if kind == "null":
            return word("null")
        if kind == "boolean":
            return choice(word("true"), word("false"))
        if kind == "string":
            return string_of(schema, path)
        if kind in ("integer", "number"):
            return number_of(kind, schema, path)
        read = self._array if kind == "array" else self._object
        name = f"{kind}{len(self.rules)}"
        self.rules[name] = NOTHING  # takes the name
        self.rules[name] = read(schema, path, depth)
        return Rule(name)

    def _array(self, schema: dict[str, Any], path: str, depth: int) -> Expression:
        least = count_of(schema, "minItems", path) or 0
        most = count_of(schema, "maxItems", path)
        first = schema.get("prefixItems", [])
        if not isinstance(first, list):
            fault(f"{path}/prefixItems", f"it is {brief(first)}, not a list of schemas")
        own = [self.value(each, f"{path}/prefixItems/{n}", depth) for n, each in enumerate(first)]
        others = self.value(schema.get("items", True), f"{path}/items", depth)
        if most is not None and most < least:
            fault(path, f"minItems is {least} and maxItems {most}")
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
            fault(f"{path}/properties", f"it is {brief(given)}, not schemas by name")
        if not isinstance(required, list) or not all(isinstance(each, str) for each in required):
            fault(f"{path}/required", f"it is {brief(required)}, not a list of names")
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
                fault(f"{path}/required", f"{name!r} is required, and no value is valid for it")
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
        between = Blocks(more[: last + 1], self._named)
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
