"""Conversations as users give them: messages, and the tools that an answer may call."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NoReturn

from lepton_edge.errors import InputError

_ROLES = ("system", "developer", "user", "assistant", "tool")
# Of the API of OpenAI, which chat templates follow.
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_TAKES = {"assistant": ("tool_calls", "reasoning_content"), "tool": ("tool_call_id",)}
_EXAMPLE = '[{"role": "user", "content": "…"}]'


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool: ``arguments`` by name, as JSON has values; ``id`` is what the tool's
    message repeats as its ``tool_call_id``, empty where a conversation goes without."""

    name: str
    arguments: dict[str, Any]
    id: str


@dataclass(frozen=True)
class Message:
    """One message of a conversation.

    ``role`` is system, developer, user, assistant or tool. ``name`` is who speaks, or the tool.
    ``tool_calls`` and ``reasoning_content`` (its thinking) are an assistant's; ``tool_call_id`` is
    a tool's: the call that it answers.
    """

    role: str
    content: str = ""
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    reasoning_content: str | None = None


_KEYS = tuple(each.name for each in fields(Message))


def is_tool_name(name: object) -> bool:
    """Whether a tool may be called that: 1 to 64 of a-z, A-Z, 0-9, _ and -."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def read_messages(given: object) -> tuple[Message, ...]:
    """A conversation: a list of `Message` or of mappings as OpenAI's chat API has them.

    ``content`` is a text, or a list of ``{"type": "text", "text": …}`` parts, which are joined. An
    assistant's may be absent beside ``tool_calls``, whose arguments are a mapping or JSON. A key
    whose value is None counts as absent. Which roles may follow which is the chat template's
    matter. Raises `InputError`, which counts messages from 1.
    """
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Sequence):
        raise InputError(
            f"a conversation is a list of messages, and this is of type {type(given).__name__}",
            hint=f"give {_EXAMPLE}",
        )
    if not given:
        raise InputError("the conversation has no message", hint=f"give {_EXAMPLE}")
    return tuple(_message(each, f"message {place}") for place, each in enumerate(given, 1))


def as_mapping(message: Message) -> dict[str, Any]:
    """A message as chat templates take it: of what may be absent only what there is."""
    found: dict[str, Any] = {"role": message.role, "content": message.content}
    for key in ("name", "tool_call_id", "reasoning_content"):
        if getattr(message, key) is not None:
            found[key] = getattr(message, key)
    if message.tool_calls:
        found["tool_calls"] = [_call_mapping(call) for call in message.tool_calls]
    return found


def _call_mapping(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    id_ = {"id": call.id} if call.id else {}
    return {"type": "function", **id_, "function": function}


def read_tools(given: object) -> list[dict[str, Any]]:
    """Functions that an answer may call, as OpenAI's chat API has them: ``{"type": "function",
    "function": {"name": …, "description": …, "parameters": …}}``, the last a JSON schema.

    Raises `InputError`, which counts tools from 1.
    """
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Sequence):
        raise InputError(
            f"tools are a list, and this is of type {type(given).__name__}",
            hint='give [{"type": "function", "function": {"name": "…", "parameters": {…}}}]',
        )
    found = [_tool(each, f"tool {place}") for place, each in enumerate(given, 1)]
    names = [each["function"]["name"] for each in found]
    for place, name in enumerate(names):
        if name in names[:place]:
            raise InputError(f"two tools are called {name!r}", hint="give each a name of its own")
    return found


def _message(given: object, where: str) -> Message:
    if isinstance(given, Message):
        given = {key: getattr(given, key) for key in _KEYS if getattr(given, key) not in (None, ())}
    values = _entries(given, where)
    role = values.pop("role", None)
    if role not in _ROLES:
        what = "the role is missing" if role is None else f"unknown role {role!r}"
        raise InputError(f"{where}: {what}", hint=f"roles are {', '.join(_ROLES)}")
    keys = ("content", "name", *_TAKES.get(str(role), ()))
    for key in values:
        if key not in keys:
            what = f"a message of role {role} has no" if key in _KEYS else "unknown"
            raise InputError(f"{where}: {what} key {key!r}", hint=f"it takes {', '.join(keys)}")
    calls = _tool_calls(values.pop("tool_calls", ()), where)
    content = _content(values.pop("content", "" if calls else None), where)
    texts = {key: _text(value, f"{where}: {key}") for key, value in values.items()}
    return Message(str(role), content, tool_calls=calls, **texts)


def _content(given: object, where: str) -> str:
    if given is None:
        raise InputError(f"{where}: content is missing")
    if not isinstance(given, (list, tuple)):
        return _text(given, f"{where}: content")
    if not given:
        raise InputError(f"{where}: content is an empty list")
    return "".join(_part(each, f"{where}: content part {n}") for n, each in enumerate(given, 1))


def _part(given: object, where: str) -> str:
    values = _entries(given, where)
    if values.get("type") != "text":
        raise InputError(f"{where} is of type {values.get('type')!r}: this model reads text only")
    _refuse_others(values, ("type", "text"), where)
    return _text(values.get("text"), f"{where}: text")


def _tool_calls(given: object, where: str) -> tuple[ToolCall, ...]:
    if not isinstance(given, (list, tuple)):
        _refuse_type(given, f"{where}: tool_calls", "a list")
    return tuple(_tool_call(each, f"{where}: tool call {n}") for n, each in enumerate(given, 1))


def _tool_call(given: object, where: str) -> ToolCall:
    if isinstance(given, ToolCall):
        given = {"id": given.id, "function": {"name": given.name, "arguments": given.arguments}}
    values = _entries(given, where)
    _refuse_others(values, ("type", "id", "function"), where)
    function = _function(values, where)
    _refuse_others(function, ("name", "arguments"), f"{where}: function")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: arguments are not JSON: {error}") from None
    arguments = _plain(arguments, f"{where}: arguments")
    return ToolCall(function["name"], arguments, _text(values.get("id", ""), f"{where}: id"))


def _tool(given: object, where: str) -> dict[str, Any]:
    values = _entries(given, where)
    _refuse_others(values, ("type", "function"), where)
    function = _function(values, where)
    _refuse_others(function, ("name", "description", "parameters", "strict"), f"{where}: function")
    if "description" in function:
        _text(function["description"], f"{where}: description")
    if "parameters" in function:
        function["parameters"] = _plain(function["parameters"], f"{where}: parameters")
    return {"type": "function", "function": function}


def _function(values: dict[str, Any], where: str) -> dict[str, Any]:
    """What a tool, or a call of one, has under ``function``."""
    if values.get("type", "function") != "function":
        raise InputError(f"{where} is of type {values['type']!r}", hint="there are functions only")
    function = _entries(values.get("function"), f"{where}: function")
    if not is_tool_name(function.get("name")):
        raise InputError(
            f"{where}: {function.get('name')!r} is no name of a tool",
            hint="it is 1 to 64 of a-z, A-Z, 0-9, _ and -",
        )
    return function


def _entries(given: object, where: str) -> dict[str, Any]:
    """A mapping's, without those that are None."""
    if not isinstance(given, Mapping):
        _refuse_type(given, where, "a mapping")
    return {str(key): value for key, value in given.items() if value is not None}


def _text(given: object, where: str) -> str:
    if not isinstance(given, str):
        _refuse_type(given, where, "text (str)")
    try:
        given.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where} is not Unicode text: it has the lone surrogate "
            f"{given[error.start]!a} at character {error.start + 1}",
            hint="decode the bytes again, with errors='replace' if need be",
        ) from None
    return given


def _plain(given: object, where: str) -> dict[str, Any]:
    """A mapping as JSON has it: a copy, so that nobody changes it under us."""
    if not isinstance(given, Mapping):
        _refuse_type(given, where, "a mapping")
    try:
        text = json.dumps(dict(given), ensure_ascii=False, allow_nan=False)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{where} cannot be written as JSON: {error}") from None
    found: dict[str, Any] = json.loads(text)
    return found


def _refuse_others(values: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in values:
        if key not in known:
            raise InputError(f"{where}: unknown key {key!r}", hint=f"it takes {', '.join(known)}")


def _refuse_type(given: object, where: str, wanted: str) -> NoReturn:
    raise InputError(f"{where} is of type {type(given).__name__}: it is {wanted}")
