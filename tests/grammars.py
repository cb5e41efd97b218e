"""Grammars to try: random JSON schemas and regular expressions, and what holds an answer to them.

A schema here has only what answers can be held to, and always some value that is valid by it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from lepton_edge.generation.grammar import GrammarTokens, Matcher, token_bytes
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


def write_tokenizer(file: Path) -> Path:
    """A byte-level tokenizer whose tokens are `TOKENS`."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    letters = _letters()
    vocabulary = {letters[number]: number for number in range(256)}
    vocabulary["</s>"] = END
    merges = []
    for place, piece in enumerate(_MERGED):
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
    """Whether a whole answer may be given, byte by byte."""
    data = answer.encode() if isinstance(answer, str) else answer
    matcher = tokens.matcher(grammar, {END})
    for byte in data:
        if matcher.is_over or not _may_come(matcher, byte):
            return False
        matcher.advance(byte)
    return matcher.is_complete


def _may_come(matcher: Matcher, token: int) -> bool:
    logits = np.zeros(len(TOKENS), np.float32)
    matcher.mask(logits)
    return bool(np.isfinite(logits[token]))


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
    [*("a", "b", "é", "🙂", ".", "\\n", "\\.", "\\d", "\\w", "\\s", "\\S", "\\W", "\\D", "[ab]")]
    + ["[^a]", "[a-c\\d]", "[^\\W]", "[\\]\\-x]", "[-a]", "[\\x61-\\x63]", "\\u00e9", "[^é-漢]"]
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


def tokens_of(file: Path) -> GrammarTokens:
    assert token_bytes(file) == list(TOKENS)
    return GrammarTokens(file)
