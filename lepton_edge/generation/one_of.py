"""Whether two schemas of a ``oneOf`` are valid for no value in common."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

_NUMBERS = {"integer", "number"}


def are_apart(first: Any, second: Any, followed: Callable[[Any], Any]) -> bool:
    """Whether it is certain: by their types, by their values, or by those of a property that both
    require. ``followed`` gives what a reference refers to."""
    a, b = followed(first), followed(second)
    if not isinstance(a, dict) or not isinstance(b, dict):
        return False
    values = _values(a), _values(b)
    if values[0] is not None and values[1] is not None:
        return not values[0] & values[1]
    types = _types(a), _types(b)
    if types[0] and types[1] and not _overlap(types[0], types[1]):
        return True
    return types == ({"object"}, {"object"}) and any(
        name in _required(b) and _differ(_property(a, name), _property(b, name), followed)
        for name in _required(a)
    )


def _differ(a: Any, b: Any, followed: Callable[[Any], Any]) -> bool:
    a, b = followed(a), followed(b)
    if not isinstance(a, dict) or not isinstance(b, dict):
        return False
    first, second = _values(a), _values(b)
    return first is not None and second is not None and not first & second


def _values(schema: dict[str, Any]) -> set[str] | None:
    """As JSON, those that a schema lists; numbers alike if they are equal."""
    listed = [schema["const"]] if "const" in schema else schema.get("enum")
    if not isinstance(listed, list):
        return None
    return {json.dumps(_plain(value), sort_keys=True) for value in listed}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    is_number = isinstance(value, (int, Decimal)) and not isinstance(value, bool)
    return {"number": str(Decimal(value).normalize())} if is_number else value


def _types(schema: dict[str, Any]) -> set[str]:
    """Those that a value may have, where the schema says."""
    given = schema.get("type")
    if given is None:
        listed = [schema["const"]] if "const" in schema else schema.get("enum")
        return {_type_of(value) for value in listed} if isinstance(listed, list) else set()
    return {str(each) for each in given} if isinstance(given, list) else {str(given)}


def _type_of(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    names = {str: "string", dict: "object", list: "array", type(None): "null"}
    return names.get(type(value), "number")


def _overlap(a: set[str], b: set[str]) -> bool:
    return bool(a & b) or bool(a & _NUMBERS and b & _NUMBERS)


def _required(schema: dict[str, Any]) -> list[Any]:
    given = schema.get("required")
    return given if isinstance(given, list) else []


def _property(schema: dict[str, Any], name: Any) -> Any:
    given = schema.get("properties")
    return given.get(name) if isinstance(given, dict) else None
