"""What a model wrote, taken apart: calls in three styles, thinking, and text that is neither."""

from __future__ import annotations

import json
from itertools import count, pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lepton_edge.generation.chat import ChatTemplate
from lepton_edge.generation.messages import ToolCall, read_messages, read_tools
from lepton_edge.generation.replies import (
    MARKERS,
    Piece,
    Reply,
    ReplyParser,
    Style,
    new_call_id,
    read_reply,
    reply_of,
    style_of,
)
from tests.core.chat_templates import GEMMA, LLAMA, MISTRAL, PHI, QWEN, SPECIAL_TOKENS

THINK = ("<think>", "</think>")
HERMES, LLAMA_STYLE, MISTRAL_STYLE = Style("hermes"), Style("llama"), Style("mistral")
STYLES = [
    Style(),
    Style(None, THINK),
    HERMES,
    Style("hermes", THINK),
    LLAMA_STYLE,
    Style("llama", THINK),
    MISTRAL_STYLE,
    Style("mistral", ("[THINK]", "[/THINK]")),
]


def parsed(
    pieces: list[str], style: Style, tools: bool = True, starts_thinking: bool = False
) -> Reply:
    """The reply that comes in these pieces; calls without an id are 1, 2, 3, …"""
    numbers = count(1)
    parser = ReplyParser(style, tools, starts_thinking, lambda: str(next(numbers)))
    found = [piece for text in pieces for piece in parser.feed(text)]
    return reply_of([*found, *parser.finish()])


def calls_of(text: str, style: Style) -> list[tuple[str, Any]]:
    """Of a reply that is nothing but calls."""
    reply = parsed([text], style)
    assert reply.text == ""
    return [(call.name, call.arguments) for call in reply.tool_calls]


# Calls


def test_hermes_calls_stand_between_marks_and_among_text() -> None:
    reply = parsed(
        [
            "Let me look.\n<tool_call>\n"
            '{"name": "get_weather", "arguments": {"city": "Bern", "days": 2}}\n</tool_call>\n'
            '<tool_call>{"arguments": {}, "name": "clock"}</tool_call>\nThere. \n'
        ],
        HERMES,
    )
    assert reply == Reply(
        "Let me look.\nThere. \n",
        None,
        (ToolCall("get_weather", {"city": "Bern", "days": 2}, "1"), ToolCall("clock", {}, "2")),
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>', {"a": 1}),
        ('<tool_call>{"name": "f", "parameters": {"a": 1}}</tool_call>', {"a": 1}),
        ('<tool_call>{"name": "f", "arguments": {"a": 1}}', {"a": 1}),
        ('<tool_call>{"name": "f"}</tool_call>', {}),
        (
            '<tool_call>{"type": "function", "function": {"name": "f", "arguments": {}}}'
            "</tool_call>",
            {},
        ),
        ('\n <tool_call>\n\n{"name": "f", "arguments": {"a": "<b>\\n🙂"}}', {"a": "<b>\n🙂"}),
    ],
)
def test_hermes_calls_may_be_written_otherwise(text: str, expected: Any) -> None:
    assert calls_of(text, HERMES) == [("f", expected)]


@pytest.mark.parametrize("before", ["", "<|python_tag|>", "\n\n", "<|python_tag|> "])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"name": "f", "parameters": {"a": [1, null]}}', [("f", {"a": [1, None]})]),
        ('{"type": "function", "name": "f", "parameters": {}}', [("f", {})]),
        ('{"parameters": {"a": 1}, "name": "f"}\n', [("f", {"a": 1})]),
        (
            '{"name": "f", "parameters": {}}; {"name": "g", "arguments": {"a": ";"}};',
            [("f", {}), ("g", {"a": ";"})],
        ),
        ("[f(a=1, b='x; [y(z=1)]'), g()]", [("f", {"a": 1, "b": "x; [y(z=1)]"}), ("g", {})]),
        ("[ f ( a = {'b': [True, None, -1.5]}, c=(1, 2) ) ]", None),
    ],
)
def test_llama_calls_are_a_whole_answer(before: str, text: str, expected: Any) -> None:
    if expected is None:
        expected = [("f", {"a": {"b": [True, None, -1.5]}, "c": [1, 2]})]
    assert calls_of(before + text, LLAMA_STYLE) == expected


@pytest.mark.filterwarnings("error")
def test_a_backslash_in_pythonic_calls_is_pythons() -> None:
    text = r"""[f(a="\d+\\d\n\"", b='\q', c="\x41\u00e9")]"""
    expected = {"a": '\\d+\\d\n"', "b": "\\q", "c": "Aé"}
    assert calls_of(text, LLAMA_STYLE) == [("f", expected)]


def test_llama_may_say_something_before_its_tag() -> None:
    reply = parsed(['Look: <|python_tag|>{"name": "f", "parameters": {}}'], LLAMA_STYLE)
    assert reply == Reply("Look:", None, (ToolCall("f", {}, "1"),))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '[TOOL_CALLS] [{"name": "f", "arguments": {"a": "]"}, "id": "abcdef012"}, '
            '{"name": "g", "arguments": {}}]',
            (ToolCall("f", {"a": "]"}, "abcdef012"), ToolCall("g", {}, "1")),
        ),
        (
            '[TOOL_CALLS]f[ARGS]{"a": {"b": 1}}[TOOL_CALLS]g-2[CALL_ID]abcdef012[ARGS]{}',
            (ToolCall("f", {"a": {"b": 1}}, "1"), ToolCall("g-2", {}, "abcdef012")),
        ),
        ('[TOOL_CALLS]{"name": "f", "arguments": {}}\n', (ToolCall("f", {}, "1"),)),
    ],
)
def test_mistral_calls_follow_their_mark(text: str, expected: tuple[ToolCall, ...]) -> None:
    assert parsed([text], MISTRAL_STYLE) == Reply("", None, expected)


def test_text_before_and_after_calls_stays_apart() -> None:
    mistral = parsed(["One.[TOOL_CALLS]f[ARGS]{} Two."], MISTRAL_STYLE)
    assert mistral == Reply("One. Two.", None, (ToolCall("f", {}, "1"),))
    hermes = parsed(['\n<tool_call>{"name": "f"}</tool_call>\nTwo.'], HERMES)
    assert hermes == Reply("Two.", None, (ToolCall("f", {}, "1"),))


MALFORMED = [
    (HERMES, "a <tool_call> is how to call"),
    (HERMES, 'a \n<tool_call>{"name": "f", "arguments": {"a": </tool_call> b '),
    (HERMES, '<tool_call>{"name": "f", "arguments": [1]}</tool_call>'),
    (HERMES, '<tool_call>{"name": "f g", "arguments": {}}</tool_call>'),
    (HERMES, '<tool_call>{"name": 3}</tool_call>'),
    (HERMES, '<tool_call>{"name": "f", "arguments": {"a": NaN}}</tool_call>'),
    (HERMES, '<tool_call>{"name": "f", "arguments": {"a": "\\ud83d"}}</tool_call>'),
    (HERMES, '<tool_call>{"name": "f", "arguments": "{"}</tool_call>'),
    (HERMES, '<tool_call>{"name": "f"} {"name": "g"}</tool_call>'),
    (HERMES, "<tool_call>" + '{"name":' * 100_000),
    (HERMES, "</tool_call>"),
    (HERMES, "<tool_call>"),
    (LLAMA_STYLE, '{"name": "Bob"}'),
    (LLAMA_STYLE, '{"name": "f", "parameters": {}} is what I would call'),
    (LLAMA_STYLE, '{"name": "f", "parameters": {}}; {"name": "Bob"}'),
    (LLAMA_STYLE, '{"name": "f", "parameters": {}'),
    (LLAMA_STYLE, '{"name": "f", "parameters": {}} {"name": "g", "parameters": {}}'),
    (LLAMA_STYLE, "[1] A source"),
    (LLAMA_STYLE, "[a link](to)"),
    (LLAMA_STYLE, "[]"),
    (LLAMA_STYLE, "[f(1)]"),
    (LLAMA_STYLE, "[f(a=b)]"),
    (LLAMA_STYLE, "[f(a=g())]"),
    (LLAMA_STYLE, "[f(**{'a': 1})]"),
    (LLAMA_STYLE, "[f(a={1, 2})]"),
    (LLAMA_STYLE, "[f(a=b'x')]"),
    (LLAMA_STYLE, "[f(a=1e999)]"),
    (LLAMA_STYLE, "[f(a=1).g(b=2)]"),
    (LLAMA_STYLE, "[f(a=1)"),
    (LLAMA_STYLE, "[f(a=1) for x in y]"),
    (LLAMA_STYLE, "[f(a='\0')]"),
    (LLAMA_STYLE, "[f(a=" + "(" * 10_000),
    (LLAMA_STYLE, "[f(a=" + "-" * 90_000 + "1)]"),
    (LLAMA_STYLE, '<|python_tag|>print("hello")'),
    (MISTRAL_STYLE, "[TOOL_CALLS] none"),
    (MISTRAL_STYLE, "[TOOL_CALLS][]"),
    (MISTRAL_STYLE, '[TOOL_CALLS][{"name": "f", "arguments": {}}, 3]'),
    (MISTRAL_STYLE, "[TOOL_CALLS]f[ARGS]{"),
    (MISTRAL_STYLE, "[TOOL_CALLS]f[ARGS][1]"),
    (MISTRAL_STYLE, "f[ARGS]{}"),
]


@pytest.mark.parametrize(("style", "text"), MALFORMED, ids=[t[:40] for _, t in MALFORMED])
def test_what_cannot_be_read_as_a_call_stays_text(style: Style, text: str) -> None:
    assert parsed([text], style) == Reply(text)


@pytest.mark.parametrize(
    ("style", "text", "call"),
    [
        (HERMES, 'a <tool_call>{"name" </tool_call> b', '<tool_call>{"name": "f"}</tool_call>'),
        (HERMES, "Use <tool_call>, so:", '<tool_call>{"name": "f"}'),
        (MISTRAL_STYLE, "[TOOL_CALLS]{", "[TOOL_CALLS]f[ARGS]{}"),
    ],
)
def test_a_call_is_found_after_one_that_is_none(style: Style, text: str, call: str) -> None:
    assert parsed([f"{text}\n{call}"], style) == Reply(text, None, (ToolCall("f", {}, "1"),))


@pytest.mark.parametrize("style", STYLES, ids=str)
def test_calls_are_looked_for_only_where_tools_were_given(style: Style) -> None:
    for text in (
        '<tool_call>{"name": "f"}</tool_call>',
        '{"name": "f", "parameters": {}}',
        "[f(a=1)]",
        "[TOOL_CALLS]f[ARGS]{}",
    ):
        assert parsed([text], style, tools=False) == Reply(text)


def test_ids_are_such_as_mistral_templates_take() -> None:
    ids = {new_call_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(len(each) == 9 and each.isalnum() and each.isascii() for each in ids)


# Thinking


@pytest.mark.parametrize("marks", [THINK, ("[THINK]", "[/THINK]")])
def test_thinking_is_apart_from_the_text(marks: tuple[str, str]) -> None:
    style = Style(None, marks)
    text = f"\n{marks[0]}\nOne.\n\nTwo? \n{marks[1]}\n\nYes.\n"
    assert read_reply(text, style) == Reply("Yes.\n", "One.\n\nTwo?")


@pytest.mark.parametrize(
    ("text", "starts_thinking", "expected"),
    [
        ("hm\n</think>\n\nYes.", True, Reply("Yes.", "hm")),
        ("\n<think>\nhm</think>Yes.", True, Reply("Yes.", "hm")),
        ("hm, hm", True, Reply("", "hm, hm")),
        ("<think>hm, <b", False, Reply("", "hm, <b")),
        ("<think>\n\n</think>\n\nYes.", False, Reply("Yes.")),
        ("<think></think>", False, Reply("")),
        ("", True, Reply("")),
        ("\n\nYes.", False, Reply("\n\nYes.")),
        ("<thinking>", False, Reply("<thinking>")),
        ("Say <think>a</think>", False, Reply("Say <think>a</think>")),
        ("<think>a</think>b<think>c</think>", False, Reply("b<think>c</think>", "a")),
        ("a</think>b", False, Reply("a</think>b")),
    ],
)
def test_thinking_is_what_a_reply_begins_with(
    text: str, starts_thinking: bool, expected: Reply
) -> None:
    style = Style("hermes", THINK)
    assert parsed([text], style, True, starts_thinking) == expected


def test_without_marks_nothing_is_thinking() -> None:
    assert read_reply("<think>a</think>", HERMES, True, starts_thinking=True).thinking is None


def test_calls_follow_thinking_and_are_none_within() -> None:
    call = '<tool_call>{"name": "f"}</tool_call>'
    reply = parsed([f"<think>\nmaybe {call}\n</think>\n\n{call}"], Style("hermes", THINK))
    assert reply == Reply("", f"maybe {call}", (ToolCall("f", {}, "1"),))
    bare = parsed(['<think>hm</think>\n{"name": "f", "parameters": {}}'], Style("llama", THINK))
    assert bare == Reply("", "hm", (ToolCall("f", {}, "1"),))


# Which style


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (QWEN, Style("hermes", THINK)),
        (LLAMA, LLAMA_STYLE),
        (MISTRAL, MISTRAL_STYLE),
        (MISTRAL + "[THINK]", Style("mistral", ("[THINK]", "[/THINK]"))),
        (GEMMA, Style()),
        (PHI, Style()),
        ("{{ m.content.split('</think>')[-1] }}", Style(None, THINK)),
        ("<|start_header_id|>{{ messages }}", Style()),
        ("{% if tools %}<|python_tag|>{% endif %}", LLAMA_STYLE),
    ],
)
def test_the_style_is_that_of_the_template(template: str, expected: Style) -> None:
    assert style_of(template) == expected


def test_the_markers_are_those_that_are_looked_for() -> None:
    assert {"<tool_call>", "</tool_call>", "<|python_tag|>", "[TOOL_CALLS]"} <= set(MARKERS)
    assert {"[ARGS]", "[CALL_ID]", *THINK, "[THINK]", "[/THINK]"} <= set(MARKERS)


@pytest.mark.parametrize("template", [QWEN, LLAMA, MISTRAL])
def test_calls_are_read_as_the_template_writes_them(template: str) -> None:
    """What a model sees of earlier calls is what it writes."""
    arguments = {"city": 'Bern "<ü>"\n', "days": [1, 2.5, None, True], "more": {"a": {}}}
    tools = read_tools([{"type": "function", "function": {"name": "get_weather"}}])
    call = ToolCall("get_weather", arguments, "abcdef012")
    asked = read_messages([{"role": "user", "content": "Weather?"}])
    called = read_messages([{"role": "assistant", "tool_calls": [call]}])
    rendered = ChatTemplate(template, SPECIAL_TOKENS)
    options: dict[str, Any] = {"date_string": "1 May 2026"}
    prompt = rendered.render(asked, tools, **options)
    whole = rendered.render((*asked, *called), tools, add_generation_prompt=False, **options)
    assert whole.startswith(prompt)
    written = whole[len(prompt) :]
    for end in ("<|im_end|>\n", "<|eot_id|>", "</s>"):
        written = written.removesuffix(end)
    reply = read_reply(written, style_of(template), tools_given=True)
    assert [(each.name, each.arguments) for each in reply.tool_calls] == [
        ("get_weather", arguments)
    ]
    assert reply.text == ""


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6) | st.sampled_from(["<tool_call>", "[TOOL_CALL]", "]", "{", "\\d", "'"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)  # fmt: skip
_ARGUMENTS = st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), _JSON, max_size=3)


@given(st.lists(_ARGUMENTS, min_size=1, max_size=3))
@settings(deadline=None, max_examples=100)
def test_calls_with_any_arguments_are_read(arguments: list[dict[str, Any]]) -> None:
    texts = [json.dumps(each, ensure_ascii=False) for each in arguments]
    calls = [f'{{"name": "f", "arguments": {each}}}' for each in texts]
    pythonic = ", ".join(
        f"_f({', '.join(f'x{name}={value!r}' for name, value in each.items())})"
        for each in arguments
    )
    expected = [("f", each) for each in arguments]
    hermes = "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in calls)
    assert calls_of(hermes, HERMES) == expected
    assert calls_of("; ".join(calls), LLAMA_STYLE) == expected
    assert calls_of(f"[TOOL_CALLS][{', '.join(calls)}]", MISTRAL_STYLE) == expected
    named = "".join(f"[TOOL_CALLS]f[ARGS]{each}" for each in texts)
    assert calls_of(named, MISTRAL_STYLE) == expected
    renamed = [("_f", {f"x{name}": value for name, value in each.items()}) for each in arguments]
    assert calls_of(f"[{pythonic}]", LLAMA_STYLE) == renamed


# As it comes


_BITS = [*MARKERS, "<", "<tool", "_call>", "<think", "[TOOL_", "CALLS]", "[", "]", "{", "}", ";"]
_BITS += ['{"name": "f", "arguments": {"a": 1}}', '{"name": "g", "parameters": {}}', "f", "[f("]
_BITS += ["f[ARGS]{}", "f[CALL_ID]a1[ARGS]{}", '[{"name": "f", "arguments": {}}]', "a=1", ")]"]
_BITS += [" ", "\n", "\n\n", "word", "é🙂", '"', "\\", "<|python", "_tag|>", '{"na', 'me": "', "1"]
_TEXT = st.lists(st.sampled_from(_BITS), max_size=14).map("".join)


@given(
    text=_TEXT,
    cuts=st.lists(st.integers(0, 200), max_size=12),
    style=st.sampled_from(STYLES),
    tools=st.booleans(),
    starts_thinking=st.booleans(),
)
@example("a <tool_call>{</tool_call> b", [3], HERMES, True, False)
@settings(deadline=None, max_examples=600)
def test_the_pieces_that_a_reply_comes_in_change_nothing(
    text: str, cuts: list[int], style: Style, tools: bool, starts_thinking: bool
) -> None:
    whole = parsed([text], style, tools, starts_thinking)
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    parts = [text[start:end] for start, end in pairwise(places)]
    assert "".join(parts) == text
    assert parsed(parts, style, tools, starts_thinking) == whole
    assert parsed(list(text), style, tools, starts_thinking) == whole


@given(text=_TEXT, style=st.sampled_from([HERMES, LLAMA_STYLE, MISTRAL_STYLE]))
@settings(deadline=None, max_examples=300)
def test_no_text_is_lost(text: str, style: Style) -> None:
    reply = parsed([text], style)
    if not reply.tool_calls:
        assert reply == Reply(text)
    # What is neither white space nor taken as a call is there, in its order.
    rest = iter(text)
    assert all(letter in rest for letter in reply.text)


@given(text=st.text(), style=st.sampled_from(STYLES), tools=st.booleans())
@settings(deadline=None, max_examples=200)
def test_text_without_marks_passes_through_unchanged(text: str, style: Style, tools: bool) -> None:
    assert parsed(list(text), style, tools) == Reply(text)


def _fed(style: Style, *texts: str) -> list[str]:
    """The text that each piece gives at once."""
    parser = ReplyParser(style, tools_given=True)
    return ["".join(piece.text for piece in parser.feed(text)) for text in texts]


@pytest.mark.parametrize("style", STYLES, ids=str)
def test_text_is_given_as_it_comes(style: Style) -> None:
    assert "".join(_fed(style, "Once", " upon", " a time.")) == "Once upon a time."
    assert _fed(style, "Once", "!")[0] == "Once"


def test_only_what_may_be_a_mark_is_kept_back() -> None:
    assert _fed(HERMES, "a < b <", "tool", "s>") == ["a < b", "", " <tools>"]
    assert _fed(MISTRAL_STYLE, "x [", "TOOL", "S] y") == ["x", "", " [TOOLS] y"]
    assert _fed(Style(None, THINK), " <", "think", "er>") == ["", "", " <thinker>"]
    assert _fed(HERMES, "a <tool_call>", " no", " call") == ["a", " <tool_call> no", " call"]
    assert _fed(LLAMA_STYLE, "[", "see", " below", "] x") == ["", "", "[see below", "] x"]
    assert _fed(LLAMA_STYLE, '{"', "name", '": 3}') == ["", "", '{"name": 3}']
    assert _fed(LLAMA_STYLE, "[" + "x" * 300, "y") == ["[" + "x" * 300, "y"]
    assert _fed(Style(), "a <", "tool_call> \n") == ["a <", "tool_call> \n"]


def test_a_call_comes_when_it_ends() -> None:
    parser = ReplyParser(HERMES, tools_given=True, new_id=lambda: "id")
    assert parser.feed('Hm. <tool_call>{"name": "f"') == [Piece("text", "Hm.")]
    assert parser.feed("}</tool") == []
    call = Piece("tool_call", call=ToolCall("f", {}, "id"))
    assert parser.feed("_call> Then") == [call, Piece("text", " Then")]
    assert parser.finish() == []
    assert parser.finish() == []


def test_thinking_comes_as_it_is_written() -> None:
    parser = ReplyParser(Style(None, THINK))
    assert parser.feed("<think>\nOne") == [Piece("thinking", "One")]
    assert parser.feed(" two\n</") == [Piece("thinking", " two")]
    assert parser.feed("think>\n\nYes") == [Piece("text", "Yes")]


def test_a_long_reply_is_read_in_a_moment() -> None:
    """Token by token: work that grew with the square of the length would not end here."""
    parser = ReplyParser(Style("hermes", THINK), tools_given=True)
    content = "word " * 100_000
    pieces = parser.feed('<think>a</think>b <tool_call>{"name": "f", "arguments": {"a": "')
    for start in range(0, len(content), 5):
        pieces += parser.feed(content[start : start + 5])
    pieces += parser.feed('"}}</tool_call>')
    reply = reply_of([*pieces, *parser.finish()])
    assert reply.tool_calls[0].arguments == {"a": content}
    assert (reply.text, reply.thinking) == ("b", "a")
