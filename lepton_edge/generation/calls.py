"""Calls of tools in what a model wrote, in the styles that models are taught.

Everything here is a model's free text: what is not a call after all gives None, and raises nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NoReturn

from lepton_edge.generation.messages import ToolCall, is_tool_name

NewId = Callable[[], str]

_MISTRAL_NAME = re.compile(r"\s*([a-zA-Z0-9_-]+)(?:\[CALL_ID\](\w+))?\[ARGS\]")
_SPACE = re.compile(r"\s*")
# How a call begins that no marker announces, without white space: JSON's first key, or Python.
_JSON_CALLS = ('{"name":"', '{"type":"function"', '{"parameters":{', '{"arguments":{')
_PYTHON_CALLS = re.compile(r"\[\s*([a-zA-Z_]\w*\s*(\(.*)?)?", re.DOTALL)
_LONGEST_OPENING = 200  # a name, and white space
_LONGEST_PYTHON = 100_000
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = "\n\\'\"abfnrtvxNuU"


def read_hermes(body: str, new_id: NewId) -> list[ToolCall] | None:
    """What is between ``<tool_call>`` and ``</tool_call>``: one JSON object."""
    return _all([_value(body)], new_id)


def read_llama(body: str, new_id: NewId) -> list[ToolCall] | None:
    """A whole answer: JSON objects with ``;`` between them, or Python's ``[f(a=1), g()]``."""
    body = body.strip()
    if body.startswith("["):
        return _python(body, new_id)
    values, place = [], 0
    while True:
        decoded = _first_value(body, place)
        if decoded is None:
            return None
        value, place = decoded
        values.append(value)
        if not body[place:].strip(" \n\t;"):
            break
        if body[place] != ";":
            return None
        place += 1
    named = [value for value in values if isinstance(value, dict) and _has_arguments(value)]
    return _all(named, new_id) if len(named) == len(values) else None


def read_mistral(body: str, new_id: NewId) -> tuple[list[ToolCall], str] | None:
    """What follows one ``[TOOL_CALLS]``: a JSON list of calls, or ``name[ARGS]{…}``, with an id
    between them in some versions. The calls, and the text after them."""
    named = _MISTRAL_NAME.match(body)
    decoded = _first_value(body, named.end() if named else 0)
    if decoded is None:
        return None
    value, end = decoded
    if named:
        value = {"name": named[1], "id": named[2], "arguments": value}
    calls = _all(value if isinstance(value, list) else [value], new_id)
    return None if calls is None else (calls, body[end:])


def is_bare_call(text: str) -> bool | None:
    """Whether an answer that begins so may be a call that no marker announces, as Llama writes
    them; None where that cannot be told yet."""
    opening = text[:_LONGEST_OPENING]
    if opening.startswith("["):
        found = _PYTHON_CALLS.fullmatch(opening)
        is_call, may_be = found is not None and bool(found[2]), found is not None
    else:
        compact = "".join(opening.split())
        is_call = compact.startswith(_JSON_CALLS)
        may_be = any(call.startswith(compact) for call in _JSON_CALLS)
    if is_call:
        return True
    return None if may_be and len(text) < _LONGEST_OPENING else False


def _all(values: list[Any], new_id: NewId) -> list[ToolCall] | None:
    """The calls that these are, where there is one and each of them is one."""
    calls = [call for value in values if (call := _call(value, new_id))]
    return calls if calls and len(calls) == len(values) else None


def _call(value: Any, new_id: NewId) -> ToolCall | None:
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("function"), dict):  # as OpenAI's API has it
        value = {**value, **value["function"]}
    name, given_id = value.get("name"), value.get("id")
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = _value(arguments)
    if not is_tool_name(name) or not isinstance(arguments, dict):
        return None
    is_id = isinstance(given_id, str) and given_id
    return ToolCall(str(name), arguments, str(given_id) if is_id else new_id())


def _has_arguments(value: dict[str, Any]) -> bool:
    """JSON with a name alone is more likely an answer than a call."""
    within = value.get("function") if isinstance(value.get("function"), dict) else value
    return isinstance(within, dict) and ("parameters" in within or "arguments" in within)


def _python(body: str, new_id: NewId) -> list[ToolCall] | None:
    """Calls in Python, of plain names, with literals by name."""
    import ast

    if len(body) > _LONGEST_PYTHON:
        return None
    try:
        tree = ast.parse(_ESCAPE.sub(_escape, body), mode="eval").body
        if not isinstance(tree, ast.List):
            return None
        calls = []
        for call in tree.elts:
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
                return None
            values = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
            if any(word.arg is None for word in call.keywords):  # **values
                return None
            arguments = _value(json.dumps(values, ensure_ascii=False, allow_nan=False))
            calls.append({"name": call.func.id, "arguments": arguments})
    except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError):
        return None
    return _all(calls, new_id)


def _escape(found: re.Match[str]) -> str:
    """A backslash that begins no escape stands for itself; Python warns of those."""
    return found[0] if found[1] in _ESCAPES else "\\" + found[0]


def _value(text: str) -> Any:
    """The value of a text that is JSON as a whole; None if it is not."""
    decoded = _first_value(text, 0)
    return decoded[0] if decoded and not text[decoded[1] :].strip() else None


def _first_value(text: str, start: int) -> tuple[Any, int] | None:
    """A JSON value at a place of a text, and where it ends."""
    try:
        value, end = _DECODER.raw_decode(text, _end_of_space(text, start))
        # A lone surrogate in an escape would break whoever sends the value on.
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return value, end


def _end_of_space(text: str, start: int) -> int:
    found = _SPACE.match(text, start)
    return found.end() if found else start


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_number)
