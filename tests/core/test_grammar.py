"""Answers held to a grammar: whatever a model that has learnt nothing gives, it is valid."""

from __future__ import annotations

import datetime
import enum
import ipaddress
import json
import re
import threading
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_edge.errors import InferenceError, InputError, SourceError
from lepton_edge.generation.grammar import GrammarTokens, check_grammar, token_bytes
from lepton_edge.generation.request import Grammar
from tests.grammar_cases import CASES
from tests.grammars import (
    END,
    TOKENS,
    Schema,
    accepts,
    allowed,
    answers_to,
    check_answer,
    json_schema,
    random_answer,
    regex,
    regexes,
    schemas,
    write_tokenizer,
)

SEEDS = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> GrammarTokens:
    return GrammarTokens(write_tokenizer(tmp_path_factory.mktemp("tokens") / "tokenizer.json"))


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> GrammarTokens:
    """Of single bytes."""
    file = tmp_path_factory.mktemp("letters") / "tokenizer.json"
    return GrammarTokens(write_tokenizer(file, END + 1))


def answers(tokens: GrammarTokens, grammar: Grammar, seeds: range = range(8)) -> list[bytes]:
    """Those of some random models that ended."""
    found = (random_answer(tokens.matcher(grammar, {END}), seed) for seed in seeds)
    return [answer for answer in found if answer is not None]


# What a random model gives.


@given(grammar=schemas(), seed=SEEDS)
@settings(deadline=None, max_examples=150)
def test_an_answer_is_valid_by_its_schema(
    tokens: GrammarTokens, grammar: Grammar, seed: int
) -> None:
    check_grammar(grammar)
    answer = random_answer(tokens.matcher(grammar, {END}), seed)
    if answer is not None:
        check_answer(grammar, answer)


@given(data=st.data())
@settings(deadline=None, max_examples=150)
def test_what_is_valid_by_a_schema_may_be_given(
    letters: GrammarTokens, data: st.DataObject
) -> None:
    grammar = data.draw(schemas())
    answer = data.draw(answers_to(grammar))
    check_answer(grammar, answer.encode())
    assert accepts(letters, grammar, answer)


@given(source=regexes(), seed=SEEDS)
@settings(deadline=None, max_examples=100)
def test_an_answer_is_a_full_match(tokens: GrammarTokens, source: str, seed: int) -> None:
    answer = random_answer(tokens.matcher(regex(source), {END}), seed)
    if answer is not None:
        check_answer(regex(source), answer)


TEXTS = st.text(st.sampled_from('ab1_ .-x\n\té🙂漢]"\\'), max_size=5)


@given(source=regexes(), text=TEXTS)
@settings(deadline=None, max_examples=200)
def test_what_a_regular_expression_takes_is_what_python_takes(
    letters: GrammarTokens, source: str, text: str
) -> None:
    takes = accepts(letters, regex(source), text)
    # Dialects differ in what \d, \w and \s are beyond ASCII, and . at the end of a line: an answer
    # is a match in each of them.
    found = [bool(re.fullmatch(source, text, flags)) for flags in (0, re.ASCII)]
    assert all(found) or not takes
    if not re.search(r"\\[wWsSdD]", source):
        assert takes == found[0]


@given(source=regexes(), text=TEXTS)
@settings(deadline=None, max_examples=100)
def test_a_pattern_is_searched_for_in_the_string(
    letters: GrammarTokens, source: str, text: str
) -> None:
    takes = accepts(letters, json_schema({"pattern": source}), json.dumps(text, ensure_ascii=False))
    found = [bool(re.search(source, text, flags)) for flags in (0, re.ASCII)]
    assert all(found) or not takes
    if not re.search(r"\\[wWsSdD]", source):
        assert takes == found[0]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18) + 1, 10**18 - 1) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
).filter(lambda value: "\\u0000" not in json.dumps(value))


@given(value=JSON, spaced=st.booleans())
@settings(deadline=None, max_examples=100)
def test_any_json_in_one_line_may_be_given(
    letters: GrammarTokens, value: Any, spaced: bool
) -> None:
    separators = (", ", ": ") if spaced else (",", ":")
    text = json.dumps(value, ensure_ascii=False, separators=separators)
    assert accepts(letters, json_schema(True), text)
    assert accepts(letters, json_schema({"const": value}), text)


@given(low=st.integers(-2000, 2000), width=st.integers(0, 1500), value=st.integers(-2200, 3700))
@settings(deadline=None, max_examples=200)
def test_an_integer_may_be_given_if_it_is_in_its_range(
    letters: GrammarTokens, low: int, width: int, value: int
) -> None:
    schema = {"type": "integer", "minimum": low, "maximum": low + width}
    assert accepts(letters, json_schema(schema), str(value)) == (low <= value <= low + width)


DECIMALS = st.decimals(-20, 20, places=2) | st.decimals(-20, 20, places=0)


@given(bounds=st.tuples(DECIMALS, DECIMALS).map(sorted), value=DECIMALS, outside=st.booleans())
@settings(deadline=None, max_examples=200)
def test_a_number_may_be_given_if_it_is_in_its_range(
    letters: GrammarTokens, bounds: list[Decimal], value: Decimal, outside: bool
) -> None:
    low, high = bounds
    names = ("exclusiveMinimum", "exclusiveMaximum") if outside else ("minimum", "maximum")
    if outside and low == high:
        return
    grammar = Grammar("json_schema", f'{{"{names[0]}": {low}, "{names[1]}": {high}}}')
    is_in = low < value < high if outside else low <= value <= high
    text = str(value if value else abs(value))
    assert accepts(letters, grammar, text) == is_in


@pytest.mark.parametrize(
    ("bounds", "beyond"),
    [
        ({"exclusiveMinimum": 0.1}, ["0.1", "0.10", "0.09999999999999999", "-1"]),
        ({"maximum": 0.3}, ["0.30000000000000004", "0.31", "1"]),
        ({"minimum": 123456789012345}, ["123456789012344.99", "12345678901234"]),
        ({"exclusiveMaximum": -2.5}, ["-2.5", "-2.50", "-2", "0", "-0"]),
    ],
)
def test_a_number_just_beyond_its_bound_may_not_be_given(
    tokens: GrammarTokens, letters: GrammarTokens, bounds: Schema, beyond: list[str]
) -> None:
    for text in beyond:
        assert not accepts(letters, json_schema({"type": "number"} | bounds), text), text
    for answer in answers(tokens, json_schema({"type": "number"} | bounds)):
        check_answer(json_schema({"type": "number"} | bounds), answer)


# What each keyword lets through, and what it does not.


@pytest.mark.parametrize(("schema", "good", "bad"), CASES)
def test_a_schema_takes_what_is_valid_and_nothing_else(
    tokens: GrammarTokens, letters: GrammarTokens, schema: Schema, good: list[str], bad: list[str]
) -> None:
    for text in good:
        assert accepts(letters, json_schema(schema), text), text
    for text in bad:
        assert not accepts(letters, json_schema(schema), text), text
    found = answers(tokens, json_schema(schema))
    assert found
    for answer in found:
        check_answer(json_schema(schema), answer)


@pytest.mark.parametrize("is_required", [True, False])
def test_an_object_may_have_many_properties(letters: GrammarTokens, is_required: bool) -> None:
    names = [f"property {number}" for number in range(1500 if is_required else 500)]
    schema: Schema = {"properties": {name: {"type": "null"} for name in names}}
    if is_required:
        schema["required"] = names
    subset = names if is_required else names[3::7]
    for kept in (subset, subset[:-1], subset[1:]):
        text = json.dumps(dict.fromkeys(kept), separators=(",", ":"))
        is_valid = not is_required or kept == names
        assert accepts(letters, json_schema(schema), text) == is_valid
    unordered = json.dumps(dict.fromkeys([*subset[1:], subset[0]]), separators=(",", ":"))
    assert not accepts(letters, json_schema(schema), unordered)


@given(
    size=st.integers(1, 20), required=st.sets(st.integers(0, 19)), kept=st.sets(st.integers(0, 19))
)
@settings(deadline=None, max_examples=200)
def test_properties_may_be_left_out_but_those_that_are_required(
    letters: GrammarTokens, size: int, required: set[int], kept: set[int]
) -> None:
    names = [chr(ord("a") + number) for number in range(size)]
    needed = [name for number, name in enumerate(names) if number in required]
    written = [name for number, name in enumerate(names) if number in kept]
    schema = {"properties": {name: {"type": "null"} for name in names}, "required": needed}
    text = json.dumps(dict.fromkeys(written), separators=(",", ":"))
    assert accepts(letters, json_schema(schema), text) == (set(needed) <= set(written))


@pytest.mark.parametrize("form", ["date", "time", "date-time", "uuid", "ipv4"])
def test_a_format_is_what_python_reads(tokens: GrammarTokens, form: str) -> None:
    read: dict[str, Any] = {
        "date": datetime.date.fromisoformat,
        "time": pydantic.TypeAdapter(datetime.time).validate_python,
        "date-time": pydantic.TypeAdapter(datetime.datetime).validate_python,
        "uuid": uuid.UUID,
        "ipv4": ipaddress.IPv4Address,
    }
    found = answers(tokens, json_schema({"type": "string", "format": form}), range(30))
    assert found
    for answer in found:
        read[form](json.loads(answer))


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "additionalProperties": {"type": "null"}},
        {"type": "array", "items": {"type": "integer"}},
        True,
    ],
)
def test_no_white_space_comes_without_end(letters: GrammarTokens, schema: Schema) -> None:
    assert not accepts(letters, json_schema(schema), " []")
    assert not accepts(letters, json_schema(schema), "[] ")
    for start in ('{"a": ', '{"a":null, ', "[1, ", "{", "["):
        matcher = letters.matcher(json_schema(schema), {END})
        for byte in start.encode():
            if byte in allowed(matcher):
                matcher.advance(byte)
        assert not allowed(matcher) & set(b" \n\t\r"), start


# Schemas that programs write.


class Colour(enum.Enum):
    red = "red"
    green = "green"


class Point(pydantic.BaseModel):
    """Where it is."""

    x: float
    y: Annotated[int, pydantic.Field(ge=0, lt=10, description="how high")] = 3


class Cat(pydantic.BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(pydantic.BaseModel):
    kind: Literal["dog"]
    name: Annotated[str, pydantic.StringConstraints(max_length=5, pattern="^[A-Z][a-z]*$")]


class Order(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")

    id: uuid.UUID
    day: datetime.date | None = None
    colour: Colour
    where: Point
    corners: list[Point] = pydantic.Field(max_length=2)
    size: tuple[int, str]
    counts: dict[str, int] = {}
    pet: Annotated[Cat | Dog, pydantic.Field(discriminator="kind")]
    parts: list[Order] = pydantic.Field(default=[], examples=[[]], max_length=1)


def test_a_pydantic_model_reads_what_its_own_schema_gives(tokens: GrammarTokens) -> None:
    found = answers(tokens, json_schema(Order.model_json_schema()), range(20))
    assert found
    for answer in found:
        Order.model_validate_json(answer)


def test_what_a_pydantic_model_writes_may_be_given(letters: GrammarTokens) -> None:
    order = Order(
        id=uuid.UUID(int=1),
        colour=Colour.red,
        where=Point(x=0.25),
        corners=[],
        size=(1, "é"),
        pet=Dog(kind="dog", name="Rex"),
    )
    assert accepts(letters, json_schema(Order.model_json_schema()), order.model_dump_json())


# What is refused, and what the error says.


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "integer", "multipleOf": 2}, "'multipleOf' (at #/multipleOf)"),
        ({"properties": {"a": {"not": {}}}}, "'not' (at #/properties/a/not)"),
        ({"items": {"if": {}}}, "'if' (at #/items/if)"),
        ({"type": "array", "uniqueItems": True}, "'uniqueItems'"),
        ({"$defs": {"a/b": {"florb": 1}}, "$ref": "#/$defs/a~1b"}, "(at #/$defs/a~1b/florb)"),
        ({"anyOf": [{"type": "null"}, {"contains": {}}]}, "(at #/anyOf/1/contains)"),
        ({"type": "strnig"}, '"strnig" is not a type (at #/type)'),
        ({"type": "string", "format": "florb"}, 'format "florb" is not known'),
        ({"type": "string", "pattern": "(?=a)"}, "looks ahead"),
        ({"type": "string", "pattern": "a("}, "(at #/pattern)"),
        ({"type": "string", "pattern": "^(ab|c)+$", "maxLength": 2}, "maxLength beside this"),
        ({"type": "string", "minLength": 3, "maxLength": 2}, "minLength is 3 and maxLength 2"),
        ({"type": "string", "maxLength": -1}, "-1, not a whole number"),
        ({"type": "array", "minItems": 3, "maxItems": 2}, "minItems is 3 and maxItems 2"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "no integer is in the range"),
        ({"type": "integer", "exclusiveMinimum": 2, "exclusiveMaximum": 3}, "no integer is in"),
        ({"type": "number", "minimum": 2, "exclusiveMaximum": 2}, "no number is in the range"),
        ({"type": "number", "minimum": True}, "true, not a number"),
        ({"type": "integer", "minimum": 10**30}, "10^18"),
        ({"$ref": "#/$defs/none"}, "there is nothing at '#/$defs/none'"),
        ({"$ref": "https://example.com/a"}, "is not a place in the schema"),
        ({"$ref": "#"}, "no value that ends"),
        ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, "no value that ends"),
        ({"anyOf": [{"$ref": "#"}, {"type": "null"}]}, "refers to itself"),
        ({"$ref": "#/$defs/a", "minimum": 1, "$defs": {"a": {}}}, "$ref stands beside minimum"),
        ({"type": "integer", "anyOf": [{}]}, "anyOf stands beside type"),
        ({"allOf": [{}, {}]}, "allOf has several schemas"),
        ({"anyOf": []}, "a list of schemas"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "both schemas 0 and 1 of oneOf"),
        ({"oneOf": [{"const": 1}, {"enum": [2, 1.0]}]}, "both schemas 0 and 1 of oneOf"),
        ({"oneOf": [{"type": "object"}, {"type": "object"}]}, "both schemas 0 and 1 of oneOf"),
        ({"enum": []}, "a list of values"),
        ({"enum": ["a"], "type": "integer"}, "no value that ends"),
        ({"required": ["a"], "additionalProperties": False}, "'a' is required"),
        ({"required": "a"}, "not a list of names"),
        ({"properties": []}, "not schemas by name"),
        (False, "no value that ends"),
        (3, "3 is not a schema"),
        ({"type": "string", "maxLength": 10**7}, "repeats too much"),
        ({"properties": {f"p{number}": {} for number in range(2000)}}, "is too large"),
        ({"oneOf": [{"const": number} for number in range(257)]}, "oneOf has 257 schemas"),
        ({"type": "string", "format": ["date"]}, "not a text"),
        ({"type": "string", "pattern": None}, "not a text"),
        ({"type": "string", "pattern": "^[a-z]{5,8}$", "maxLength": 3}, "as long as"),
    ],
)
def test_a_schema_that_cannot_be_held_to_is_refused(schema: Schema, message: str) -> None:
    with pytest.raises(InputError) as caught:
        check_grammar(json_schema(schema))
    assert message in caught.value.message


def test_a_keyword_that_is_refused_comes_with_those_that_are_not() -> None:
    with pytest.raises(InputError) as caught:
        check_grammar(json_schema({"patternProperties": {}}))
    assert "additionalProperties" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "source", ["", "{", "{'a': 1}", '{"minimum": NaN}', '"\\ud800"', "[" * 100_000, " " * 1_000_001]
)
def test_a_text_that_is_no_schema_is_refused(source: str) -> None:
    with pytest.raises(InputError, match="JSON schema"):
        check_grammar(Grammar("json_schema", source))


def test_what_describes_does_not_constrain(letters: GrammarTokens) -> None:
    described = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://example.com/a",
        "$comment": "none",
        "title": "A",
        "description": "a",
        "default": 1,
        "examples": [2],
        "deprecated": True,
        "readOnly": True,
        "writeOnly": False,
        "type": "integer",
    }
    assert accepts(letters, json_schema(described), "7")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("a(?=b)", "looks ahead"),
        ("(?<!a)b", "looks back"),
        (r"(a)\1", "refers to a group"),
        (r"(?P<n>a)(?P=n)", "refers to a group"),
        (r"a\bc", "a place between characters"),
        ("(?i)a", "flags"),
        ("a^b", "^ that is not at its beginning"),
        ("a$b", "$ before its end"),
        ("(a$)", "$ inside of a group"),
        ("(a", "( that no ) ends (at 0)"),
        ("a)", ") that no ( begins (at 1)"),
        ("[a", "[ that no ] ends"),
        ("[b-a]", "range from 'b' back to 'a'"),
        ("*a", "* with nothing to repeat"),
        ("a**", "repeats a repetition"),
        ("a*+", "possessive"),
        ("a{2,1}", "from 2 to 1"),
        ("a{x}", "no number of repetitions"),
        ("a\\", "ends with a backslash"),
        (r"\q", r"\q, which is not known"),
        (r"\p{L}", r"\p, which is not known"),
        (r"\u12", "without 4 hexadecimal digits"),
        ("[]", "nothing in them"),
        ("(" * 60 + ")" * 60, "groups in each other"),
        ("(a{1000}){1001}", "repeats too much"),
        ("a" * 20_000, "20,000 characters"),
        ("\ud800", "not Unicode"),
    ],
)
def test_a_regular_expression_that_no_grammar_can_hold_to_is_refused(
    source: str, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        check_grammar(regex(source))
    assert message in caught.value.message


@pytest.mark.filterwarnings("ignore:Possible nested set:FutureWarning")
@given(source=st.text(st.sampled_from("ab()[]{}*+?|^$\\.,-12dwWsx:=<P"), max_size=12))
@settings(deadline=None, max_examples=300)
def test_whatever_is_asked_is_taken_as_python_takes_it_or_refused(source: str) -> None:
    try:
        check_grammar(regex(source))
    except InputError:
        return
    re.compile(source)


KEYWORDS = (
    *("type", "enum", "const", "properties", "required", "additionalProperties", "anyOf", "oneOf"),
    *("items", "prefixItems", "minItems", "maxItems", "minLength", "maxLength", "pattern"),
    *("minimum", "exclusiveMaximum", "allOf", "$ref", "format", "title"),
)


@given(
    schema=st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-2, 3)
        | st.sampled_from(["string", "#", "a", "^("]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(KEYWORDS),
                inner,
                max_size=3,
            )
        ),
        max_leaves=10,
    )
)
@settings(deadline=None, max_examples=300)
def test_a_schema_of_any_form_is_taken_or_refused(tokens: GrammarTokens, schema: Schema) -> None:
    grammar = json_schema(schema)
    try:
        check_grammar(grammar)
    except InputError:
        return
    answer = random_answer(tokens.matcher(grammar, {END}), 0, most=60)
    if answer is not None:
        json.loads(answer)


# Masks.


def test_a_token_that_ends_the_answer_may_come_where_the_grammar_may_end(
    letters: GrammarTokens,
) -> None:
    matcher = letters.matcher(regex("ab?"), {END})
    assert not matcher.is_complete
    assert allowed(matcher) == {ord("a")}
    matcher.advance(ord("a"))
    assert (matcher.is_complete, matcher.is_over) == (True, False)
    assert allowed(matcher) == {ord("b"), END}
    matcher.advance(ord("b"))
    assert (matcher.is_complete, matcher.is_over) == (True, True)


def test_a_token_of_several_characters_may_come_where_all_of_them_may(
    tokens: GrammarTokens,
) -> None:
    matcher = tokens.matcher(regex("[ab1]{3}"), {END})
    assert allowed(matcher, len(TOKENS)) == {*b"ab1", TOKENS.index(b"ab")}
    matcher.advance(TOKENS.index(b"ab"))
    assert allowed(matcher, len(TOKENS)) == {*b"ab1"}


def test_a_model_may_have_more_logits_than_the_tokenizer_has_tokens(
    tokens: GrammarTokens,
) -> None:
    padded = len(TOKENS) + 50
    matcher = tokens.matcher(regex("."), {END, padded - 1, padded})
    assert max(allowed(matcher, padded)) < len(TOKENS)
    matcher.advance(ord("x"))
    assert allowed(matcher, padded) == {END, padded - 1}


def test_logits_keep_their_values_where_a_token_may_come(tokens: GrammarTokens) -> None:
    logits = np.arange(len(TOKENS), dtype=np.float32)
    tokens.matcher(regex("[ab]"), {END}).mask(logits)
    assert {place: logits[place] for place in np.flatnonzero(np.isfinite(logits))} == {
        97: 97,
        98: 98,
    }


def test_a_token_that_may_not_come_is_an_error(tokens: GrammarTokens) -> None:
    matcher = tokens.matcher(regex("a"), {END})
    with pytest.raises(InferenceError, match="cannot be held to its grammar"):
        matcher.advance(ord("b"))


def test_a_model_without_a_token_to_end_with_is_an_error(tokens: GrammarTokens) -> None:
    matcher = tokens.matcher(regex("a"), set())
    matcher.advance(ord("a"))
    assert matcher.is_over
    with pytest.raises(InferenceError, match="no token that the grammar allows"):
        allowed(matcher)


def test_a_character_may_come_in_several_tokens(letters: GrammarTokens) -> None:
    assert accepts(letters, regex("[é🙂]{2}"), "é🙂")
    assert not accepts(letters, regex("[é🙂]{2}"), "é".encode() + b"\xf0\x9f")


def test_answers_in_threads_do_not_touch_each_other(tmp_path: Path) -> None:
    tokens = GrammarTokens(write_tokenizer(tmp_path / "tokenizer.json"))
    found: dict[int, list[bytes]] = {}

    def answer(number: int) -> None:
        found[number] = answers(tokens, json_schema({"const": f"answer {number}"}))

    threads = [threading.Thread(target=answer, args=[number]) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [f'"answer {number}"'.encode()] * 8 for number in range(6)}


# Tokens.


def test_a_token_of_bytes_is_those_bytes(tmp_path: Path) -> None:
    assert token_bytes(write_tokenizer(tmp_path / "tokenizer.json")) == list(TOKENS)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_token_of_sentencepiece_is_what_it_writes(tmp_path: Path, kind: str) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models

    pieces = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "▁a", "漢"]
    model = (
        models.BPE({piece: n for n, piece in enumerate(pieces)}, [("▁", "a")], byte_fallback=True)
        if kind == "bpe"
        else models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0, byte_fallback=True)
    )
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens([AddedToken(each, special=True) for each in pieces[:2]])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    found = token_bytes(tmp_path / "tokenizer.json")
    assert found[:2] == [b"", b""]
    assert found[2:257] == [bytes([byte]) for byte in range(255)]
    assert found[258:] == [b" ", b"a", b" a", "漢".encode()]


def test_a_tokenizer_whose_tokens_are_no_bytes_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    file = tmp_path / "tokenizer.json"
    Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2}, unk_token="[UNK]")).save(str(file))
    with pytest.raises(SourceError, match=str(file)):
        token_bytes(file)
    with pytest.raises(InputError, match="cannot be held to a grammar"):
        GrammarTokens(file).matcher(regex("a"), {0})
