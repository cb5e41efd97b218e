"""A JSON schema as it was given: its text, its faults, its numbers."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any, NoReturn

from lepton_edge.errors import InputError

_LONGEST = 1_000_000


def read_schema(source: str) -> Any:
    """The schema, its fractions as `Decimal`. Raises `InputError` for what is no JSON."""
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


def fault(path: str, what: str, hint: str | None = None) -> NoReturn:
    """Raise `InputError`. ``path`` is a place in the schema, as a JSON pointer."""
    raise InputError(f"the JSON schema cannot be used: {what} (at {path})", hint=hint)


def count_of(schema: dict[str, Any], name: str, path: str) -> int | None:
    """A whole number from 0, such as minLength; None where there is none."""
    if name not in schema:
        return None
    value = schema[name]
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        fault(f"{path}/{name}", f"it is {brief(value)}, not a whole number from 0")
    return value


def brief(value: Any) -> str:
    """For a message."""
    shown = json.dumps(value, ensure_ascii=False, default=str)
    return shown if len(shown) <= 60 else f"{shown[:60]}…"
