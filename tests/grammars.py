"""Grammars to try: random JSON schemas and regular expressions, and what holds an answer to them.

A schema here has only what answers can be held to, and always some value that is valid by it.
"""

from __future__ import annotations

import datetime
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from lepton_edge.generation.grammar import GrammarTokens, Matcher
from lepton_edge.generation.request import Grammar

Schema = Any
END = 256
"""The token that ends an answer."""
_MERGED = ('{"', '":', '",', '"}', "[]", "{}", "true", "false", "null", "12", ", ", ": ", "ab")
TOKENS: tuple[bytes, ...] = (
    *(bytes([number]) for number in range(255)),
    b"",  # 255 is in no UTF-8, and marks special tokens for llguidance
    b"",
    *(piece.encode() for piece in _MERGED),
)
"""The bytes of each token of `write_tokenizer`: each byte, the end, and some of several."""
_CLOSING = b'"]}'


def write_tokenizer(file: Path, size: int = len(TOKENS)) -> Path:
    """A byte-level tokenizer whose tokens are the first of `TOKENS`."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    letters = _letters()
    vocabulary = {letters[number]: number for number in range(256)}
    vocabulary["</s>"] = END
    merges = []
    for place, piece in enumerate(_MERGED[: size - END - 1]):
        written = "".join(letters[byte] for byte in piece.encode())
        vocabulary[written] = END + 1 + place
        if len(written) == 2:
            merges.append((written[0], written[1]))
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("</s>", special=True)])
    tokenizer.save(str(file))
    return file


def _letters() -> dict[int, str]:
    """How byte-level tokenizers write each byte: itself where it can be seen, else one from 256 on
    (Radford et al. 2019)."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    unseen = [number for number in range(256) if number not in seen]
    return {number: chr(number) for number in seen} | {
        number: chr(256 + place) for place, number in enumerate(unseen)
    }


def json_schema(schema: Schema) -> Grammar:
    return Grammar("json_schema", json.dumps(schema))


def regex(source: str) -> Grammar:
    return Grammar("regex", source)


def accepts(tokens: GrammarTokens, grammar: Grammar, answer: str | bytes) -> bool:
    """Whether a whole answer may be given, with the tokens of single bytes. (Of what has to come,
    llguidance masks all ways to write it in tokens but the tokenizer's own.)"""
    data = answer.encode() if isinstance(answer, str) else answer
    matcher = tokens.matcher(grammar, {END})
    for byte in data:
        if matcher.is_over or byte not in allowed(matcher):
            return False
        matcher.advance(byte)
    return matcher.is_complete


def allowed(matcher: Matcher, size: int = END + 1) -> set[int]:
    """The tokens that may come, of a model with so many logits."""
    logits = np.zeros(size, np.float32)
    matcher.mask(logits)
    assert set(np.unique(logits)) <= {0.0, -np.inf}
    return set(np.flatnonzero(np.isfinite(logits)).tolist())


def random_answer(matcher: Matcher, seed: int, most: int = 300) -> bytes | None:
    """An answer from random logits, as a model gives that has learnt nothing; None for one that
    did not end. What closes a text becomes likelier with time, so that most end."""
    random = np.random.default_rng(seed)
    answer = b""
    for count in range(most):
        logits = random.standard_normal(len(TOKENS)).astype(np.float32)
        logits[list(_CLOSING)] += count / 20
        matcher.mask(logits)
        token = _drawn(logits, random)
        if token == END:
            return answer
        answer += TOKENS[token]
        matcher.advance(token)
        if matcher.is_over:
            return answer
    return None


def _drawn(logits: NDArray[np.float32], random: np.random.Generator) -> int:
    shares = np.exp(logits - logits.max(), dtype=np.float64)
    return int(random.choice(len(shares), p=shares / shares.sum()))


def check_answer(grammar: Grammar, answer: bytes) -> None:
    """Fail unless an answer is all that its grammar asks."""
    text = answer.decode()  # UTF-8, whatever tokens it came in
    if grammar.kind == "regex":
        assert re.fullmatch(grammar.source, text), (grammar.source, text)
        return
    schema = json.loads(grammar.source)
    jsonschema.validate(json.loads(text), schema, cls=jsonschema.Draft202012Validator)


_NAMES = st.text(st.sampled_from('ab "\\é漢/\n'), max_size=4)
_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**6), 10**6)
    | st.floats(-1e6, 1e6, width=32)
    | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_NAMES, inner, max_size=2),
    max_leaves=4,
).filter(lambda value: "\\u0000" not in json.dumps(value))


@st.composite
def _whole_ranges(draw: st.DrawFn) -> Schema:
    low, high = sorted((draw(st.integers(-1200, 1200)), draw(st.integers(-1200, 1200))))
    bounds: Schema = {"type": "integer"}
    if draw(st.booleans()):
        bounds |= draw(st.sampled_from([{"minimum": low}, {"exclusiveMinimum": low - 1}]))
    if draw(st.booleans()):
        bounds |= draw(st.sampled_from([{"maximum": high}, {"exclusiveMaximum": high + 1}]))
    return bounds


@st.composite
def _ranges(draw: st.DrawFn) -> Schema:
    numbers = st.decimals(-100, 100, places=3).map(float)
    low, width = draw(numbers), draw(st.sampled_from([0.002, 0.5, 1, 17.25]))
    bounds: Schema = {"type": "number"}
    if draw(st.booleans()):
        bounds[draw(st.sampled_from(["minimum", "exclusiveMinimum"]))] = low
    if draw(st.booleans()):
        bounds[draw(st.sampled_from(["maximum", "exclusiveMaximum"]))] = low + width
    return bounds


@st.composite
def _strings(draw: st.DrawFn) -> Schema:
    least = draw(st.integers(0, 4))
    return draw(
        st.sampled_from(
            [
                {"type": "string"},
                {"type": "string", "maxLength": least},
                {"type": "string", "minLength": least},
                {"type": "string", "minLength": least, "maxLength": least + 2},
                {"type": "string", "pattern": "^[a-c]{2,4}$"},
                {"type": "string", "pattern": "^[^a-z\\s]x|é+$"},
                {"type": "string", "pattern": '^"\\\\"$'},
                {"type": "string", "pattern": "^[a-d]*$", "maxLength": least},
                {"type": "string", "format": "date"},
                {"type": "string", "format": "ipv4"},
                {"type": "string", "format": "uuid"},
            ]
        )
    )


_PLAIN = (
    st.sampled_from([{"type": "null"}, {"type": "boolean"}, {"type": ["boolean", "null"]}])
    | st.sampled_from([{"type": "integer"}, {"type": "number"}, {"type": ["integer", "string"]}])
    | _whole_ranges()
    | _ranges()
    | _strings()
    | st.lists(_VALUES, min_size=1, max_size=3).map(lambda values: {"enum": values})
    | _VALUES.map(lambda value: {"const": value})
    | st.just({"$ref": "#/$defs/leaf"})
)


@st.composite
def _arrays(draw: st.DrawFn, inner: st.SearchStrategy[Schema]) -> Schema:
    least = draw(st.integers(0, 2))
    found: Schema = {"type": "array", "items": draw(inner), "minItems": least}
    if draw(st.booleans()):
        found["prefixItems"] = draw(st.lists(inner, min_size=1, max_size=3))
    if draw(st.booleans()):
        found["maxItems"] = least + draw(st.integers(0, 2))
    return found


@st.composite
def _objects(draw: st.DrawFn, inner: st.SearchStrategy[Schema]) -> Schema:
    properties = draw(st.dictionaries(_NAMES, inner, max_size=3))
    found: Schema = {"type": "object", "properties": properties}
    if draw(st.booleans()):
        found["required"] = [name for name in properties if draw(st.booleans())]
    if draw(st.booleans()):
        found["additionalProperties"] = draw(inner | st.just(False))
    # One more level of the same, which no answer needs.
    if draw(st.booleans()):
        properties["again"] = {"$ref": "#/$defs/tree"}
    return found


def _inner(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    return (
        _arrays(inner)
        | _objects(inner)
        | st.lists(inner, min_size=1, max_size=3).map(lambda found: {"anyOf": found})
        | inner.map(lambda found: {"allOf": [found], "title": "one"})
        | inner.map(lambda found: {"oneOf": [{"type": "array", "items": found}, {"type": "null"}]})
    )


@st.composite
def schemas(draw: st.DrawFn) -> Grammar:
    """Of values, arrays and objects in each other, and of a tree that refers to itself."""
    schema = draw(st.recursive(_PLAIN, _inner, max_leaves=6))
    tree = {
        "type": "object",
        "properties": {"value": draw(_PLAIN), "next": {"$ref": "#/$defs/tree"}},
        "required": ["value"],
        "additionalProperties": False,
    }
    return json_schema({"$defs": {"leaf": draw(_strings()), "tree": tree}, **schema})


_PIECES = st.sampled_from(
    (
        *(
            "a",
            "b",
            "é",
            "🙂",
            ".",
            "\\n",
            "\\.",
            "\\d",
            "\\w",
            "\\s",
            "\\S",
            "\\W",
            "\\D",
            "[ab]",
            "[^a]",
        ),
        *("[a-c\\d]", "[^\\W]", "[\\]\\-x]", "[-a]", "[\\x61-\\x63]", "\\u00e9", "[^é-漢]"),
    )
)


def _expressions(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    times = st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "{0,2}", "{2,}", "*?", "+?"])
    return (
        st.builds(lambda part, count: f"(?:{part}){count}", inner, times)
        | st.lists(inner, min_size=1, max_size=3).map("".join)
        | st.lists(inner, min_size=1, max_size=3).map(lambda parts: f"({'|'.join(parts)})")
    )


def regexes() -> st.SearchStrategy[str]:
    """Of what every dialect knows."""
    return st.recursive(_PIECES, _expressions, max_leaves=6)


def answers_to(grammar: Grammar) -> st.SearchStrategy[str]:
    """What is valid by one of `schemas`, as the grammar writes it."""
    schema = json.loads(grammar.source)
    dumps = st.sampled_from([(",", ":"), (", ", ": ")])
    return st.builds(
        lambda value, separators: json.dumps(value, ensure_ascii=False, separators=separators),
        _values(schema, schema, 3),
        dumps,
    )


def _values(schema: Schema, root: Schema, depth: int) -> st.SearchStrategy[Any]:
    """``depth`` is how many levels of what refers to itself it may still have."""
    if schema is True:
        return _VALUES
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return _values(root["$defs"][name], root, depth - (name == "tree"))
    for keyword in ("anyOf", "oneOf", "allOf"):
        if keyword in schema:
            return st.one_of([_values(each, root, depth) for each in schema[keyword]])
    if "enum" in schema or "const" in schema:
        return st.sampled_from(schema.get("enum") or [schema["const"]])
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return st.one_of([_values_of(kind, schema, root, depth) for kind in kinds])


def _values_of(kind: str, schema: Schema, root: Schema, depth: int) -> st.SearchStrategy[Any]:
    if kind == "null":
        return st.none()
    if kind == "boolean":
        return st.booleans()
    if kind == "integer":
        low = schema.get("minimum", schema.get("exclusiveMinimum", -9999) + 1)
        return st.integers(low, schema.get("maximum", schema.get("exclusiveMaximum", 9999) - 1))
    if kind == "number":
        low = schema.get("minimum", schema.get("exclusiveMinimum", -1e3))
        high = schema.get("maximum", schema.get("exclusiveMaximum", low + 1e4))
        least = round(low + 0.001, 3)
        return st.integers(0, max(int((high - least) * 1000) - 1, 0)).map(
            lambda steps: round(least + steps / 1000, 3)
        )
    if kind == "string":
        return _texts(schema)
    read = _lists if kind == "array" else _named
    return read(schema, root, depth)


def _texts(schema: Schema) -> st.SearchStrategy[str]:
    if "format" in schema:
        forms = {
            "date": st.dates(datetime.date(1000, 1, 1), datetime.date(2999, 12, 31))
            .filter(lambda day: (day.month, day.day) != (2, 29))
            .map(str),
            "ipv4": st.ip_addresses(v=4).map(str),
            "uuid": st.uuids().map(str),
        }
        return forms[schema["format"]]
    if "pattern" in schema:
        found = st.from_regex(schema["pattern"], fullmatch=False)
        return found.filter(
            lambda text: text.isprintable() and len(text) <= schema.get("maxLength", 99)
        )
    return st.text(
        st.characters(exclude_characters="\0", codec="utf-8"),
        min_size=schema.get("minLength", 0),
        max_size=schema.get("maxLength", 8),
    )


def _lists(schema: Schema, root: Schema, depth: int) -> st.SearchStrategy[Any]:
    first = [_values(each, root, depth) for each in schema.get("prefixItems", [])]
    least, most = schema.get("minItems", 0), schema.get("maxItems", 4)
    further = _values(schema["items"], root, depth)

    @st.composite
    def draw_list(draw: st.DrawFn) -> list[Any]:
        size = draw(st.integers(least, max(most, least)))
        return [draw(first[n] if n < len(first) else further) for n in range(size)]

    return draw_list()


def _named(schema: Schema, root: Schema, depth: int) -> st.SearchStrategy[Any]:
    required = schema.get("required", [])

    @st.composite
    def draw_object(draw: st.DrawFn) -> dict[str, Any]:
        found = {}
        for name, each in schema["properties"].items():
            if name in required or (draw(st.booleans()) and (depth > 0 or "$ref" not in each)):
                found[name] = draw(_values(each, root, depth))
        if not schema["properties"] and schema.get("additionalProperties", True) is not False:
            further = _values(schema.get("additionalProperties", True), root, depth)
            found = draw(st.dictionaries(_NAMES, further, max_size=2))
        return found

    return draw_object()
