"""Messages and tools as users give them, and the prompts that chat templates make of them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_edge.errors import BundleError, InputError
from lepton_edge.generation import sandbox
from lepton_edge.generation.chat import ChatTemplate, check_options, no_template
from lepton_edge.generation.messages import (
    Message,
    ToolCall,
    as_mapping,
    read_messages,
    read_tools,
)
from tests.core.chat_templates import GEMMA, LLAMA, MISTRAL, PHI, QWEN, SPECIAL_TOKENS

TEMPLATES = {"qwen": QWEN, "llama": LLAMA, "mistral": MISTRAL, "gemma": GEMMA, "phi": PHI}
HELLO = [{"role": "user", "content": "Hello"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": 'The weather "now" & in <2> days, in °C',
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 0}},
            "required": ["city"],
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "question": [{"role": "user", "content": "  What is 2 < 3 & 'x'? \n"}],
    "turns": [
        {"role": "user", "content": "Grüße, 世界 🙂"},
        {"role": "assistant", "content": " Hello. "},
        {"role": "user", "content": "And {{ now }}?\n{% if %}"},
    ],
    "system": [
        {"role": "system", "content": "Be brief.\nBe kind."},
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "I."},
        {"role": "user", "content": "Why?"},
    ],
    "thought": [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes."},
        {"role": "user", "content": "Two?"},
        {"role": "assistant", "content": "Yes.", "reasoning_content": "hm, hm"},
    ],
    "tools": [
        {"role": "system", "content": "Use tools."},
        {"role": "user", "content": "Weather in Bern?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "type": "function",
                    "id": "abcdef012",
                    "function": {
                        "name": "get_weather",
                        "arguments": {"city": "Bern <ü>", "days": 1, "x": [1.5, None, True]},
                    },
                }
            ],
        },
        {"role": "tool", "content": '{"t": 21}', "tool_call_id": "abcdef012", "name": "w"},
        {"role": "assistant", "content": "21 °C."},
        {"role": "user", "content": "Thanks"},
    ],
    "two answers": [*HELLO, *HELLO],
}


@pytest.fixture(scope="module")
def reference() -> Callable[..., str]:
    """What transformers makes of a template and a conversation."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models

    inner = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1}, "<s>"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **SPECIAL_TOKENS)

    def rendered(template: str, messages: list[dict[str, Any]], **options: Any) -> str:
        # Content that is absent is no text to us, and None to a template there.
        spoken = [{**each, "content": each["content"] or ""} for each in messages]
        found: str = tokenizer.apply_chat_template(
            spoken, chat_template=template, tokenize=False, **options
        )
        return found

    return rendered


def render(source: str, messages: Any = HELLO, **options: Any) -> str:
    return ChatTemplate(source, SPECIAL_TOKENS).render(read_messages(messages), **options)


# Prompts


@pytest.mark.parametrize("with_tools", [False, True], ids=["plain", "tools"])
@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("style", TEMPLATES)
def test_a_prompt_is_what_transformers_makes(
    reference: Callable[..., str], style: str, conversation: str, with_tools: bool
) -> None:
    from jinja2 import TemplateError

    source, messages = TEMPLATES[style], CONVERSATIONS[conversation]
    tools = [WEATHER, CLOCK] if with_tools else None
    if tools and "tools" not in source:
        with pytest.raises(InputError, match="chat template has no place for tools"):
            render(source, messages, tools=tools)
        return
    for prompt in (True, False):
        options = {"tools": tools, "add_generation_prompt": prompt, "date_string": "1 May 2026"}
        refusal = None
        try:
            expected = reference(source, messages, **options)
        except TemplateError as error:
            refusal = f"the chat template refuses the conversation: {error}"
        if refusal is None:
            assert render(source, messages, **options) == expected
        else:
            with pytest.raises(InputError) as caught:
                render(source, messages, **options)
            assert caught.value.message == refusal


def test_templates_show_what_they_are_about() -> None:
    """The comparison compares something: a prompt of each style, in full or in part."""
    tools = read_tools([WEATHER])
    messages = CONVERSATIONS["tools"]
    assert render(PHI) == "<|user|>\nHello<|end|>\n<|assistant|>\n"
    assert render(GEMMA).startswith("<s><start_of_turn>user\nHello<end_of_turn>\n<start_of_turn>")
    qwen = render(QWEN, messages, tools=tools)
    assert '\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Bern <ü>",' in qwen
    assert '"name": "get_weather", "description": "The weather \\"now\\" & in <2> days' in qwen
    assert '"parameters": {"city": "Bern <ü>", "days"' in render(LLAMA, messages, tools=tools)
    mistral = render(MISTRAL, messages, tools=tools)
    assert '"id": "abcdef012"}]</s>[TOOL_RESULTS]' in mistral
    assert mistral.endswith("[INST] Use tools.\n\nThanks[/INST]")


@pytest.mark.parametrize(
    "source",
    [
        "{{ tools | tojson(indent=2) }}",
        "{{ tools | tojson(separators=(',', ':'), sort_keys=true) }}",
        "{{ tools | tojson(ensure_ascii=True) }}",
        "{{ tools | tojson(false, 4) }}",
        "{{ strftime_now('%Y') ~ messages | length }}",
        "{% for m in messages %}{% generation %}{% set x = 1 %}{{ m.content }}{% endgeneration %}"
        "{{ x is defined }}{% continue %}no{% endfor %}",
        "{{ documents is none }}{{ documents is defined }}{{ nothing }}{{ tools is none }}",
        "{{ [1, 'a' ~ 2, (3, 4)] ~ {'k': [5]} }}{% set a, b = 1, [2] %}{{ a }}{{ b[0] }}",
        "{% for k, v in {'x': 1}.items() %}{{ k }}={{ v }}{% else %}none{% endfor %}",
        "{{ messages | map(attribute='role') | join(', ') }}{{ '%s-%03d' % ('a', 7) }}",
        "{{ '{:>4}|{}'.format('a', 12345678901) }}{{ '%.2f' | format(1.5) }}{{ 'ab' * 3 }}",
        "{% set n = namespace(x=[]) %}{% for m in messages %}{% set n.x = n.x + [m.role] %}"
        "{% endfor %}{{ n.x }}{{ 2 ** 10 }}{{ 7 % 4 }}{{ range(3) | list }}",
        "{% macro m(a, b='c') %}[{{ a }}{{ b }}{{ caller() if caller }}]{% endmacro %}"
        "{{ m(1) }}{% call m(2, b=3) %}in{% endcall %}{% filter upper %}x{% endfilter %}",
        "{% for i in [1, [2, [3]]] recursive %}{{ loop(i) if i is iterable else i }}{% endfor %}",
        "{{ bos_token }}{{ messages[-1]['content'][1:-1].replace('l', 'L').split('L') }}\n",
        "  {% if true %}\n  a\n  {% endif %}\n\n{#- note -#}\n b {{- ' c' }}\n",
    ],
)
def test_what_templates_may_rely_on_is_what_transformers_gives(
    reference: Callable[..., str], source: str
) -> None:
    tools = [WEATHER]
    expected = reference(source, HELLO, tools=tools)
    assert render(source + "{#- tools -#}{% if tools %}{% endif %}", tools=tools) == expected


def test_the_date_is_todays() -> None:
    before = datetime.now().strftime("%Y-%m-%d")
    found = render("{{ strftime_now('%Y-%m-%d') }}")
    assert before <= found <= datetime.now().strftime("%Y-%m-%d")


def test_options_are_variables_of_the_template() -> None:
    template = ChatTemplate(QWEN, SPECIAL_TOKENS)
    assert {"enable_thinking", "tools", "messages"} <= template.variables
    assert "bos_token" not in template.variables
    prompt = template.render(read_messages(HELLO), enable_thinking=False)
    assert prompt.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


@pytest.mark.parametrize("name", ["messages", "tools", "add_generation_prompt", 3])
def test_options_that_a_call_gives_otherwise_are_refused(name: Any) -> None:
    with pytest.raises(InputError, match="no variable of one's own"):
        check_options({"enable_thinking": True, name: []})
    check_options({"enable_thinking": True, "bos_token": ""})


def test_no_tools_are_none() -> None:
    assert render(LLAMA, tools=[], date_string="d") == render(LLAMA, date_string="d")
    assert render(GEMMA, tools=[]) == render(GEMMA)


def test_developer_is_system_where_the_template_does_not_know_better() -> None:
    messages = [{"role": "developer", "content": "Be brief."}, *HELLO]
    source = "{% for m in messages %}{{ m.role }} {% endfor %}"
    assert render(source, messages) == "system user "
    assert render(source + "{# developer #}", messages) == "developer user "


def test_one_template_renders_in_many_threads() -> None:
    template = ChatTemplate(QWEN, SPECIAL_TOKENS)
    conversations = [[{"role": "user", "content": f"question {k}"}] for k in range(40)]
    expected = [render(QWEN, each) for each in conversations]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda each: template.render(read_messages(each)), conversations))
    assert found == expected


# What a template may not do


def test_a_refusal_shows_the_templates_own_words() -> None:
    with pytest.raises(InputError) as caught:
        render(GEMMA, CONVERSATIONS["system"])
    expected = "the chat template refuses the conversation: This model has no role of system"
    assert caught.value.message == expected


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("\n\n{{ messages[0].nothing.more }}", "in line 3: 'dict object' has no attribute"),
        ("{{ unknown.more }}", "in line 1: 'unknown' is undefined"),
        ("{{ 'a' + 1 }}", "in line 1: can only concatenate str"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
        ("{{ ''.__class__.__mro__ }}", "'__class__' of 'str' object is unsafe"),
        ("{{ messages.append(1) }}", "'append' of 'list' object is unsafe"),
        ("{{ messages[0].update(role='x') }}", "'update' of 'dict' object is unsafe"),
        ("{{ 'ab'.translate({97: 'x'}) }}", "'translate' of 'str' object is unsafe"),
        ("{{ (1).to_bytes(1000000000000, 'big') }}", "'to_bytes' of 'int' object is unsafe"),
        ("{{ '{0.__class__.mro}'.format(1) }}", "'__class__' of 'int' object is unsafe"),
        ("{{ range(1000000000) }}", "Range too big"),
        ("{{ lipsum(n=1000000) }}", "'lipsum' is undefined"),
    ],
)
def test_a_failure_says_where_and_why(source: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        render(source)
    assert caught.value.message.startswith("the chat template fails on the conversation")
    assert message in caught.value.message
    assert "template_options" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% if", "unexpected 'end of template' in line 1"),
        ("a\n{{ x | nofilter }}", "No filter named 'nofilter'. in line 2"),
        ("{% for x in y %}", "Unexpected end of template"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "recursion"),
        ("\n{% include 'other' %}", "it takes in another file in line 2"),
        ("{% import '/etc/passwd' as x %}", "it takes in another file"),
        ("{% from 'x' import y %}", "it takes in another file"),
        ("{% extends messages[0].content %}", "it takes in another file"),
        ("{% if false %}{% include 'x' ignore missing %}{% endif %}", "it takes in another file"),
    ],
)
def test_what_is_no_template_of_its_own_is_refused(source: str, message: str) -> None:
    with pytest.raises(BundleError) as caught:
        ChatTemplate(source, {})
    assert caught.value.message.startswith("the chat template cannot be read: ")
    assert message in caught.value.message


LOOP = "{% for i in range(100000) %}{% for j in range(100000) %}BODY{% endfor %}{% endfor %}"
DOUBLE = "{% set n = namespace(x='ab') %}{% for i in range(100) %}BODY{% endfor %}{{ n.x }}"


@pytest.mark.parametrize(
    "source",
    [
        LOOP.replace("BODY", ""),
        LOOP.replace("BODY", "some text"),
        LOOP.replace("BODY", "{% continue %}"),
        LOOP.replace("BODY", "{{ ''.join([]) }}"),
        LOOP.replace("BODY", "{{ messages | length }}"),
        "{% macro m() %}" + LOOP.replace("BODY", "x" * 100) + "{% endmacro %}{{ m() }}",
        "{% macro m(n) %}{{ m(n - 1) ~ m(n - 1) if n }}{% endmacro %}{{ m(60) }}",
        DOUBLE.replace("BODY", "{% set n.x = n.x + n.x %}"),
        DOUBLE.replace("BODY", "{% set n.x = n.x ~ n.x %}"),
        DOUBLE.replace("BODY", "{% set n.x = n.x * 2 %}"),
        DOUBLE.replace("BODY", "{% set n.x = [n.x, n.x] %}"),
        DOUBLE.replace("BODY", "{% set n.x = (n.x, n.x) | list %}"),
        DOUBLE.replace("BODY", "{% set n.x = {'a': n.x, 'b': n.x} %}"),
        DOUBLE.replace("BODY", "{% set n.x = dict(a=n.x, b=n.x) %}"),
        DOUBLE.replace("BODY", "{% set n.x = [n.x, n.x] | join %}"),
        DOUBLE.replace("BODY", "{% set n.x = n.x | replace('a', 'aa') %}"),
        DOUBLE.replace("BODY", "{% set n.x = '%s%s' % (n.x, n.x) %}"),
        DOUBLE.replace("BODY", "{% set n.x = '{0}{0}'.format(n.x) %}"),
        DOUBLE.replace("BODY", "{% set y %}{{ n.x }}{{ n.x }}{% endset %}{% set n.x = y %}"),
        DOUBLE.replace("'ab'", "3").replace("BODY", "{% set n.x = n.x * n.x %}"),
        "{{ 'a' * 1000000000000 }}",
        "{{ 1000000000000 * [1] }}",
        "{{ 10 ** 1000000000000 }}",
        "{{ 'a'.center(1000000000000) }}",
        "{{ 'a' | center(1000000000000) }}",
        "{{ nothing | indent(width=1000000000000, first=true) }}",
        "{{ 'a\tb'.encode().expandtabs(1000000000000) }}",
        "{{ ('a' * 1000000).replace('a', 'b' * 1000000) }}",
        "{{ ('a' * 1000000) | replace(new='b' * 1000000, old='a') }}",
        "{{ range(100000) | map('string') | join('b' * 1000000) }}",
        "{{ [1] | batch(1000000000000, 0) | list }}",
        "{{ messages | tojson(indent=1000000000000) }}",
        "{{ messages | tojson(indent='x' * 1000000) }}",
        "{{ messages | tojson(separators=(',', ':' * 1000000)) }}",
        "{{ 1.5 | round(1000000000000, 'ceil') }}",
        "{{ 15 | round(precision=-1000000000000) }}",
        "{{ '%1000000000000d' % 1 }}",
        "{{ '%*d' % (1000000000000, 1) }}",
        "{{ '%-1000000000000s' | format('a') }}",
        "{{ '{:1000000000000}'.format(1) }}",
        "{{ '{:{}}'.format(1, 1000000000000) }}",
        "{{ '{a:{b}}'.format_map({'a': 1, 'b': 1000000000000}) }}",
    ],
)
def test_a_template_without_end_is_stopped(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.setattr(sandbox, "BUDGET", 3_000_000)  # a tenth: the loops take their time
    with pytest.raises(InputError, match="loops without end, or makes too much text") as caught:
        render(source)
    assert "another template" in str(caught.value.hint)


def test_what_is_worked_out_beforehand_has_an_end_too() -> None:
    """Jinja computes what is constant when it compiles."""
    with pytest.raises(InputError, match="too much text"):
        render("{{ 'a' | center(9000000) }}" * 10)


def test_a_long_conversation_is_within_what_a_template_may_do() -> None:
    messages = [
        {"role": role, "content": f"{place} " + "word " * 400}
        for place in range(500)
        for role in ("user", "assistant")
    ]
    prompt = render(QWEN, messages)
    assert prompt.count("<|im_start|>") == 1001
    assert len(prompt) > 2_000_000


def test_each_rendering_has_a_budget_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "BUDGET", 5000)
    template = ChatTemplate("{{ messages[0].content }}", {})
    messages = read_messages([{"role": "user", "content": "x" * 4000}])
    assert {template.render(messages) for _ in range(5)} == {"x" * 4000}


def test_a_model_without_a_template_says_how_to_give_one() -> None:
    error = no_template("stories")
    assert error.message == "stories has no chat template, so it takes no messages"
    assert "task_options: {chat_template: path/to/template.jinja}" in str(error.hint)
    assert 'model.generate("text")' in str(error.hint)


# Messages


def test_messages_are_read_as_openai_has_them() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": [1]}'}}
    found = read_messages(
        (
            {"role": "system", "content": [{"type": "text", "text": "Be "}] * 2},
            {"role": "user", "content": "", "name": "Ann"},
            {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None},
            {"role": "tool", "content": "3", "tool_call_id": "c1"},
            {"role": "assistant", "content": "3", "reasoning_content": "hm"},
        )
    )
    calls = (ToolCall("f", {"a": [1]}, "c1"),)
    assert found == (
        Message("system", "Be Be "),
        Message("user", "", name="Ann"),
        Message("assistant", "", tool_calls=calls),
        Message("tool", "3", tool_call_id="c1"),
        Message("assistant", "3", reasoning_content="hm"),
    )
    assert read_messages(found) == found, "what was read can be given again"
    assert read_messages([as_mapping(each) for each in found]) == found


def test_calls_of_a_reply_can_be_given_back() -> None:
    call = ToolCall("f", {}, "c1")
    (found,) = read_messages([{"role": "assistant", "tool_calls": [call]}])
    assert found == Message("assistant", "", tool_calls=(call,))
    function = {"name": "f", "arguments": {}}
    assert as_mapping(found)["tool_calls"] == [
        {"type": "function", "id": "c1", "function": function}
    ]


def _calls(function: Any, **more: Any) -> list[Any]:
    return [{"role": "assistant", "tool_calls": [{"function": function, **more}]}]


@pytest.mark.parametrize(
    ("messages", "message", "hint"),
    [
        ([], "the conversation has no message", "role"),
        ("hello", "a conversation is a list of messages, and this is of type str", "role"),
        (HELLO[0], "a conversation is a list of messages, and this is of type dict", "role"),
        (None, "a conversation is a list of messages, and this is of type NoneType", "role"),
        ([*HELLO, "x"], "message 2 is of type str: it is a mapping", ""),
        ([*HELLO, {"role": "robot"}], "message 2: unknown role 'robot'", "system, developer, user"),
        ([Message("robot", "x")], "message 1: unknown role 'robot'", "assistant, tool"),
        ([{"content": "x"}], "message 1: the role is missing", "roles are"),
        ([{"role": ["user"], "content": "x"}], "message 1: unknown role ['user']", "roles are"),
        ([{"role": "user"}], "message 1: content is missing", ""),
        ([{"role": "assistant", "content": None}], "message 1: content is missing", ""),
        ([{"role": "user", "content": 3}], "message 1: content is of type int: it is text", ""),
        ([{"role": "user", "content": {"a": 1}}], "message 1: content is of type dict", ""),
        ([{"role": "user", "content": []}], "message 1: content is an empty list", ""),
        ([{"role": "user", "content": ["x"]}], "message 1: content part 1 is of type str", ""),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
            "message 1: content part 1 is of type 'image_url': this model reads text only",
            "",
        ),
        (
            [{"role": "user", "content": [{"type": "text", "text": "x", "y": 1}]}],
            "message 1: content part 1: unknown key 'y'",
            "type, text",
        ),
        (
            [{"role": "user", "content": [{"type": "text"}]}],
            "message 1: content part 1: text is of type NoneType",
            "",
        ),
        ([{**HELLO[0], "contents": "x"}], "message 1: unknown key 'contents'", "content, name"),
        (
            [{**HELLO[0], "tool_calls": []}],
            "message 1: a message of role user has no key 'tool_calls'",
            "content, name",
        ),
        ([{**HELLO[0], "name": 3}], "message 1: name is of type int", ""),
        (
            [{"role": "user", "content": "ab\ud83d c"}],
            r"message 1: content is not Unicode text: it has the lone surrogate '\ud83d' at "
            "character 3",
            "errors='replace'",
        ),
        ([{"role": "assistant", "tool_calls": "f"}], "message 1: tool_calls is of type str", ""),
        ([{"role": "assistant", "tool_calls": [1]}], "message 1: tool call 1 is of type int", ""),
        (_calls({}), "message 1: tool call 1: None is no name of a tool", "1 to 64"),
        (_calls(None), "message 1: tool call 1: function is of type NoneType", ""),
        (_calls({"name": "f"}, type="x"), "message 1: tool call 1 is of type 'x'", "functions"),
        (_calls({"name": "f"}, index=0), "message 1: tool call 1: unknown key 'index'", "id"),
        (_calls({"name": "f"}, id=3), "message 1: tool call 1: id is of type int", ""),
        (
            _calls({"name": "f", "arguments": "{"}),
            "message 1: tool call 1: arguments are not JSON: ",
            "",
        ),
        (_calls({"name": "f", "arguments": "[]"}), "arguments is of type list", ""),
        (_calls({"name": "f", "arguments": {"a": {1}}}), "cannot be written as JSON", ""),
        (_calls({"name": "f", "arguments": '{"a": NaN}'}), "cannot be written as JSON", ""),
        (_calls({"name": "f", "arguments": {"a": "\ud83d"}}), "cannot be written as JSON", ""),
    ],
)
def test_a_wrong_message_is_refused_with_its_place(messages: Any, message: str, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        read_messages(messages)
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


_KEYS = st.sampled_from(
    ["role", "content", "name", "tool_calls", "tool_call_id", "type", "text", "id", "function"]
)
# Anything that JSON can say, and some things that it cannot.
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(_KEYS, _VALUES, max_size=4), max_size=3) | _VALUES)
@settings(deadline=None, max_examples=150)
def test_whatever_is_given_is_read_or_refused(given_: Any) -> None:
    for read in (read_messages, read_tools):
        with suppress(InputError):
            assert len(read(given_)) == len(given_)


@given(st.lists(st.tuples(st.sampled_from(["user", "assistant"]), st.text()), min_size=1))
@settings(deadline=None, max_examples=60)
def test_any_text_is_in_the_prompt_as_it_is(turns: list[tuple[str, str]]) -> None:
    messages = [{"role": role, "content": text} for role, text in turns]
    source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    assert _SOURCE.render(read_messages(messages)) == "".join(f"<{r}>{t}" for r, t in turns)
    assert ChatTemplate(source, {}).variables == {"m", "messages"}


_SOURCE = ChatTemplate("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}", {})


# Tools


def test_tools_are_read_and_are_copies() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    given_ = [{"type": "function", "function": {"name": "f", "parameters": schema}}, CLOCK]
    found = read_tools(given_)
    assert found == given_
    schema["properties"] = {}
    assert found[0]["function"]["parameters"]["properties"] == {"a": {"type": "string"}}
    assert read_tools([]) == []


def _tool(**function: Any) -> list[Any]:
    return [{"type": "function", "function": {"name": "f", **function}}]


@pytest.mark.parametrize(
    ("tools", "message", "hint"),
    [
        (CLOCK, "tools are a list, and this is of type dict", "function"),
        ("f", "tools are a list, and this is of type str", "function"),
        ([CLOCK, 3], "tool 2 is of type int: it is a mapping", ""),
        ([{"type": "function"}], "tool 1: function is of type NoneType", ""),
        ([{"type": "retrieval"}], "tool 1 is of type 'retrieval'", "functions only"),
        ([{**CLOCK, "x": 1}], "tool 1: unknown key 'x'", "type, function"),
        (_tool(name="get weather"), "tool 1: 'get weather' is no name of a tool", "1 to 64"),
        (_tool(name="x" * 65), "is no name of a tool", "1 to 64"),
        (_tool(name="wetter\n"), "is no name of a tool", "1 to 64"),
        (_tool(name=None), "tool 1: None is no name of a tool", "1 to 64"),
        (_tool(arguments={}), "tool 1: function: unknown key 'arguments'", "parameters"),
        (_tool(description=3), "tool 1: description is of type int", ""),
        (_tool(description="\ud83d"), "tool 1: description is not Unicode", ""),
        (_tool(parameters=[]), "tool 1: parameters is of type list: it is a mapping", ""),
        (_tool(parameters={"a": float("nan")}), "tool 1: parameters cannot be written as JSON", ""),
        ([CLOCK, *_tool(), *_tool()], "two tools are called 'f'", "a name of its own"),
    ],
)
def test_a_wrong_tool_is_refused_with_its_place(tools: Any, message: str, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        read_tools(tools)
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")
