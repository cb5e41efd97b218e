"""A YAML document as plain values, with the line of each: data only, no objects, no aliases."""

from __future__ import annotations

import math
from typing import Any

import yaml

from lepton_edge.errors import RecipeError

MAX_BYTES = 1024 * 1024
_MAX_DEPTH = 32
Location = tuple[str | int, ...]
Lines = dict[Location, int]


def read_document(data: bytes | str, where: str) -> tuple[dict[str, Any], Lines]:
    """The document as plain values, and the line of every key and item by its location.

    ``where`` names it in errors. Raises `RecipeError`.
    """
    if len(data) > MAX_BYTES:
        raise RecipeError(f"{where} has more than {MAX_BYTES:,} bytes, the most of a recipe")
    lines: Lines = {(): 1}
    try:
        _refuse_aliases_and_depth(data, where)
        root = yaml.compose(data, Loader=yaml.SafeLoader)
        values = _plain(root, (), lines, where)
    except yaml.reader.ReaderError as error:
        raise _not_text(error, data, where) from None
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        problem = ", ".join(filter(None, (error.context, error.problem)))
        raise RecipeError(f"{where}{line}: not valid YAML: {problem}") from None
    # PyYAML does not check numbers in its own syntax, such as the escape "\UFFFFFFFF".
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise RecipeError(f"{where}: not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise RecipeError(
            f"{where}:1: a recipe is a mapping of keys to values",
            hint="start with name, source and task; lepton-edge recipes has examples",
        )
    return values, lines


def _refuse_aliases_and_depth(data: bytes | str, where: str) -> None:
    """Before anything is built: a few lines of aliases can expand without end, and PyYAML takes
    minutes for a megabyte of brackets."""
    depth = 0
    for token in yaml.scan(data, Loader=yaml.SafeLoader):
        line = token.start_mark.line + 1
        if isinstance(token, yaml.AliasToken):
            raise RecipeError(f"{where}:{line}: YAML aliases are not allowed in a recipe")
        if isinstance(token, _OPENING):
            depth += 1
        elif isinstance(token, _CLOSING):
            depth -= 1
        if depth > _MAX_DEPTH:
            raise RecipeError(
                f"{where}:{line}: nested too deeply: a recipe has at most {_MAX_DEPTH} levels"
            )


_OPENING = (
    yaml.BlockMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.FlowSequenceStartToken,
)
_CLOSING = (yaml.BlockEndToken, yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)


def _not_text(error: yaml.reader.ReaderError, data: bytes | str, where: str) -> RecipeError:
    """Bytes that are no text, or a character that YAML does not allow."""
    text = data if isinstance(data, str) else data.decode("latin-1")  # a character a byte
    problem = f"the byte 0x{error.character:02x} is not {error.encoding}: {error.reason}"
    if error.encoding == "unicode":  # then the position counts characters
        text = data if isinstance(data, str) else data.decode(errors="replace")
        problem = f"the character U+{error.character:04X} is not allowed in YAML"
    line = text.count("\n", 0, error.position) + 1
    return RecipeError(f"{where}:{line}: {problem}", hint="save the file as UTF-8 text")


def _plain(node: yaml.Node | None, location: Location, lines: Lines, where: str) -> Any:
    if node is None:
        return None
    line = node.start_mark.line + 1
    lines.setdefault(location, line)
    kind = _kind(node, f"{where}:{line}")
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, kind, f"{where}:{line}")
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*location, i), lines, where) for i, item in enumerate(node.value)]
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise RecipeError(f"{where}:{line}: a key must be plain text")
        _kind(key_node, f"{where}:{line}")
        key = _text(key_node.value, f"{where}:{line}")
        if key in values:
            raise RecipeError(f"{where}:{line}: the key {key!r} is given twice")
        place = (*location, key)
        lines[place] = line
        values[key] = _plain(value_node, place, lines, where)
    return values


def _kind(node: yaml.Node, where: str) -> str:
    """What YAML takes a node for. Tags that make objects are refused."""
    kind: str = node.tag.removeprefix("tag:yaml.org,2002:")
    if kind not in _KINDS:
        raise RecipeError(f"{where}: the YAML tag {shown(node.tag)} is not allowed in a recipe")
    return kind


# Dates stay text, and so do "=" and "<<", which YAML has a meaning for that recipes do not use.
_TEXT = ("str", "timestamp", "value", "merge")
_KINDS = (*_TEXT, "int", "float", "bool", "null", "map", "seq")


def _scalar(node: yaml.ScalarNode, kind: str, where: str) -> str | int | float | bool | None:
    """A scalar by YAML's own rules."""
    if kind in _TEXT:
        return _text(node.value, where)
    try:
        value: str | int | float | bool | None = yaml.SafeLoader("").construct_object(node)
    # Such as an explicit tag on other text: !!int x
    except (ValueError, LookupError, ArithmeticError, yaml.YAMLError):
        raise RecipeError(f"{where}: {shown(node.value)} is not a valid {kind}") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise RecipeError(f"{where}: {shown(node.value)} is not a finite number")
    if isinstance(value, int) and not -_LARGEST <= value <= _LARGEST:
        raise RecipeError(
            f"{where}: {shown(node.value)} is too large a number (quote it if it is text)"
        )
    return value


_LARGEST = 2**63 - 1


def _text(text: str, where: str) -> str:
    """Text as Unicode has it. JSON writes some characters as two escapes, and YAML leaves two
    surrogates of them: they are joined here. One without the other is no character."""
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise RecipeError(f"{where}: {shown(text)} is not Unicode text: a lone surrogate") from None


def shown(value: object) -> str:
    """A value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
