"""What a model wrote, taken apart: its text, its thinking, its calls of tools."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal
from uuid import uuid4

from lepton_edge.generation.calls import is_bare_call, read_hermes, read_llama, read_mistral
from lepton_edge.generation.messages import ToolCall

ToolStyle = Literal["hermes", "llama", "mistral"]

_State = Callable[[bool], "list[Piece]"]

_OPENING = {"hermes": "<tool_call>", "llama": "<|python_tag|>", "mistral": "[TOOL_CALLS]"}
_CLOSING = "</tool_call>"  # of hermes; the others have none
_THINKING = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))
# What marks an answer up, and so has to be in its text where it is a special token.
MARKERS = (*_OPENING.values(), _CLOSING, "[CALL_ID]", "[ARGS]", *_THINKING[0], *_THINKING[1])


@dataclass(frozen=True)
class Style:
    """How a model marks what is not text for its user.

    Of ``tool_style``, ``hermes`` is Qwen's too: ``<tool_call>{"name": …, "arguments": …}
    </tool_call>``; ``llama`` a whole answer of ``{"name": …, "parameters": …}``, or
    ``[name(a=1)]``, perhaps after ``<|python_tag|>``; ``mistral`` ``[TOOL_CALLS][{…}]`` or
    ``[TOOL_CALLS]name[ARGS]{…}``.
    ``thinking`` are the marks before and after it.
    """

    tool_style: ToolStyle | None = None
    thinking: tuple[str, str] | None = None


@dataclass(frozen=True)
class Piece:
    """Something of a reply: ``text`` is empty for a ``tool_call``."""

    kind: Literal["text", "thinking", "tool_call"]
    text: str = ""
    call: ToolCall | None = None


@dataclass(frozen=True)
class Reply:
    """A reply: its text without ``thinking`` and ``tool_calls``. ``thinking`` is None where the
    model marked none."""

    text: str
    thinking: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()


def style_of(template: str) -> Style:
    """How a model writes that was trained on this chat template, by the marks that are in it."""
    tools: ToolStyle | None = None
    if _OPENING["hermes"] in template:
        tools = "hermes"
    elif _OPENING["mistral"] in template:
        tools = "mistral"
    elif "tools" in template and any(
        mark in template for mark in (_OPENING["llama"], "<|start_header_id|>", "<|header_start|>")
    ):
        tools = "llama"
    found = [marks for marks in _THINKING if any(mark in template for mark in marks)]
    return Style(tools, found[0] if found else None)


def read_reply(
    text: str, style: Style, tools_given: bool = False, starts_thinking: bool = False
) -> Reply:
    """A whole reply at once; arguments as those of `ReplyParser`."""
    parser = ReplyParser(style, tools_given, starts_thinking)
    return reply_of([*parser.feed(text), *parser.finish()])


def reply_of(pieces: Iterable[Piece]) -> Reply:
    """The reply that some pieces are."""
    texts: dict[str, list[str]] = {"text": [], "thinking": [], "tool_call": []}
    calls = []
    for piece in pieces:
        texts[piece.kind].append(piece.text)
        if piece.call is not None:
            calls.append(piece.call)
    return Reply("".join(texts["text"]), "".join(texts["thinking"]) or None, tuple(calls))


def new_call_id() -> str:
    """Nine letters and digits: Mistral's templates refuse other ids."""
    return uuid4().hex[:9]


class ReplyParser:
    """Takes a reply apart as it comes. However it is cut, the pieces make the same `Reply`.

    Calls are looked for only where tools were given: without them, what looks like one is text.
    A thinking section is what a reply begins with; ``starts_thinking``: its opening mark is in the
    prompt already. White space around sections and calls is left out, and there alone; text before
    and after calls stays apart. What is marked as a call and cannot be read as one stays text, with
    its marks.

    Text is kept back only where it may belong to a mark or a call. Llama's calls are known at the
    end of a reply, the others when they end.
    """

    def __init__(
        self,
        style: Style,
        tools_given: bool = False,
        starts_thinking: bool = False,
        new_id: Callable[[], str] = new_call_id,
    ) -> None:
        self._tools = style.tool_style if tools_given else None
        self._mark = _OPENING[self._tools] if self._tools else ""
        self._opening, self._closing = style.thinking or ("", "")
        self._starts_thinking = starts_thinking and style.thinking is not None
        self._new_id = new_id
        self._held = ""  # what has not been given
        self._searched = 0  # how much of it has no end of a call
        self._spoke = False  # whether any text was given
        self._space = ""  # around calls: it comes back between text and text
        self._state: _State = self._start if style.thinking else self._answer

    def feed(self, text: str) -> list[Piece]:
        """More of the reply; what is certain with it."""
        self._held += text
        return self._advance(False)

    def finish(self) -> list[Piece]:
        """The rest, when the reply is over."""
        return self._advance(True)

    def _advance(self, final: bool) -> list[Piece]:
        pieces: list[Piece] = []
        while True:
            before = (self._state, len(self._held))
            for piece in self._state(final):
                last = pieces[-1] if pieces else None
                if last and last.kind == piece.kind != "tool_call":
                    pieces[-1] = Piece(last.kind, last.text + piece.text)
                else:
                    pieces.append(piece)
            if (self._state, len(self._held)) == before:
                return pieces

    # The states. Each takes what it can from what is held, or goes to another state, or waits.

    def _start(self, final: bool) -> list[Piece]:
        """Nothing was written yet, and thinking may begin."""
        body = self._held.lstrip()
        if not final and len(body) < len(self._opening) and self._opening.startswith(body):
            return []
        if body.startswith(self._opening):  # some write it again after that of the prompt
            self._held = body[len(self._opening) :]
            self._state = self._thinking_space
        else:
            self._state = self._thinking_space if self._starts_thinking else self._answer
        return []

    def _thinking_space(self, final: bool) -> list[Piece]:
        return self._after_space(self._thinking)

    def _thinking(self, final: bool) -> list[Piece]:
        end = self._held.find(self._closing)
        if end >= 0:
            thinking = self._held[:end].rstrip()
            self._held = self._held[end + len(self._closing) :]
            self._state = self._answer_space
        else:
            thinking = self._taken(
                len(self._held) if final else _certain(self._held, self._closing)
            )
        return [Piece("thinking", thinking)] if thinking else []

    def _answer_space(self, final: bool) -> list[Piece]:
        return self._after_space(self._answer)

    def _answer(self, final: bool) -> list[Piece]:
        """The answer begins, and may be one of Llama's calls as a whole."""
        body = self._held.lstrip()
        found = is_bare_call(body) if self._tools == "llama" else False
        if found:
            self._state = self._whole
        elif found is False or final:
            self._state = self._text
        return []

    def _whole(self, final: bool) -> list[Piece]:
        if not final:
            return []
        self._state = self._text
        calls = read_llama(self._held, self._new_id)
        if calls is None:
            return []
        self._held = ""
        return [Piece("tool_call", call=call) for call in calls]

    def _text(self, final: bool) -> list[Piece]:
        size = len(self._held)
        start = self._held.find(self._mark) if self._mark else -1
        if start < 0:
            sure = size if final or not self._mark else _certain(self._held, self._mark)
            return self._said(self._taken(sure))
        before = self._taken(start)
        text = before.rstrip()
        pieces = self._said(text)
        self._space += before[len(text) :]
        self._held = self._held[len(self._mark) :]
        self._searched = 0
        self._state = self._call
        return pieces

    def _call(self, final: bool) -> list[Piece]:
        """After the mark of a call, which goes on to its closing mark, the next one's, or the
        end."""
        until = _CLOSING if self._tools == "hermes" else self._mark
        end = self._held.find(until, max(self._searched - len(until), 0))
        self._searched = len(self._held)
        if end >= 0 or final or self._is_hopeless():
            return self._read(self._held[:end] if end >= 0 else self._held)
        return []

    def _read(self, body: str) -> list[Piece]:
        found = None
        if self._tools == "mistral":
            found = read_mistral(body, self._new_id)
        elif calls := (read_hermes if self._tools == "hermes" else read_llama)(body, self._new_id):
            found = calls, ""
        if found is None:
            # The mark is text, and what follows it is looked through again.
            self._state = self._text
            return self._said(self._mark)
        calls, rest = found
        after = self._held[len(body) :]
        self._held = rest + (after.removeprefix(_CLOSING) if self._tools == "hermes" else after)
        self._state = self._call_space
        if not self._spoke:
            self._space = ""
        return [Piece("tool_call", call=call) for call in calls]

    def _is_hopeless(self) -> bool:
        """This is no call, whatever follows: better said now than kept until the end."""
        return self._tools == "hermes" and self._held.lstrip()[:1] not in ("", "{")

    def _call_space(self, final: bool) -> list[Piece]:
        text = self._held.lstrip()
        if text:
            if self._spoke and not self._space:
                self._space = self._held[: -len(text)]
            self._held, self._state = text, self._text
        return []

    # What the states share.

    def _after_space(self, state: _State) -> list[Piece]:
        self._held = self._held.lstrip()
        if self._held:
            self._state = state
        return []

    def _taken(self, size: int) -> str:
        taken, self._held = self._held[:size], self._held[size:]
        return taken

    def _said(self, text: str) -> list[Piece]:
        if not text:
            return []
        text, self._space, self._spoke = self._space + text, "", True
        return [Piece("text", text)]


def _certain(text: str, mark: str) -> int:
    """How much of a text is neither the beginning of a mark at its end, nor white space before."""
    size = next(
        (n for n in range(min(len(text), len(mark) - 1), 0, -1) if mark.startswith(text[-n:])), 0
    )
    return len(text[: len(text) - size].rstrip())
