"""Holding answers to a grammar: a JSON schema, or a regular expression.

What a grammar allows is worked out here, the same for every backend, and written down for whoever
chooses tokens by it: for llguidance, which masks logits in the core's own loop (`Matcher`), and in
the form that xgrammar reads (`to_ebnf`), for a library that brings it.

A JSON answer is written in one line; one space may follow a comma and a colon.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Collection, Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_edge.errors import InferenceError, InputError, SourceError
from lepton_edge.generation.expressions import (
    Characters,
    Choice,
    Expression,
    Lexeme,
    Range,
    Repeat,
    Rule,
    Rules,
    Series,
    Text,
    choice,
    common,
    others,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lepton_edge.generation.request import Grammar

# Characters of one, two, three and four bytes in UTF-8, of which all but the first have 6 bits.
_BY_BYTES: tuple[Range, ...] = ((0, 0x7F), (0x80, 0x7FF), (0x800, 0xFFFF), (0x10000, 0x10FFFF))
_BITS = 6
_CARET = 0x5E


def check_grammar(grammar: Grammar) -> None:
    """Raise `InputError` unless answers can be held to this on every backend: for a schema that is
    not JSON, is not a schema, or uses a keyword that would not be enforced, and for a regular
    expression that cannot be read, or looks around."""
    rules_of(grammar)


@lru_cache(maxsize=64)
def rules_of(grammar: Grammar) -> Rules:
    """What an answer may be. Raises `InputError`."""
    if grammar.kind == "regex":
        from lepton_edge.generation.regular import matching

        return Rules(Lexeme(matching(grammar.source)), {})
    from lepton_edge.generation.schema import rules_of_schema

    return rules_of_schema(grammar.source)


@lru_cache(maxsize=64)
def to_ebnf(grammar: Grammar) -> str:
    """A grammar in the EBNF of xgrammar, from ``root``. Raises `InputError`."""
    rules = rules_of(grammar)
    writer = _Ebnf()
    lines = [f"root ::= {writer.written(rules.start)}"]
    lines += [f"{name} ::= {writer.written(each)}" for name, each in sorted(rules.named.items())]
    lines += [f"{name} ::= {body}" for body, name in writer.repeated.items()]
    return "\n".join(lines) + "\n"


class _Ebnf:
    """What is repeated is a rule of its own: xgrammar writes it out as often."""

    def __init__(self) -> None:
        self.repeated: dict[str, str] = {}

    def written(self, expression: Expression) -> str:
        if isinstance(expression, Rule):
            return expression.name
        if isinstance(expression, Lexeme):
            return self.written(expression.part)
        if isinstance(expression, Text):
            return _ebnf_text(expression.text)
        if isinstance(expression, Characters):
            return _ebnf_class(expression.ranges)
        if isinstance(expression, Repeat):
            most = "" if expression.most is None else expression.most
            return f"{self._part(expression.part)}{{{expression.least},{most}}}"
        if isinstance(expression, Series) and not expression.parts:
            return '""'
        between = " " if isinstance(expression, Series) else " | "
        return f"({between.join(map(self.written, expression.parts))})"

    def _part(self, part: Expression) -> str:
        written = self.written(part)
        if isinstance(part, (Rule, Characters)):
            return f"({written})"
        return self.repeated.setdefault(written, f"part{len(self.repeated)}")


def _ebnf_text(value: str) -> str:
    pieces = re.split(r"([\x00-\x1f\x7f-\xff])", value)
    # Written as a number, as xgrammar itself does with those of one byte, a character would take
    # the digits that follow it: it stands alone.
    found = [
        _ebnf_character(ord(piece)) if place % 2 else re.sub(r'(["\\])', r"\\\1", piece)
        for place, piece in enumerate(pieces)
    ]
    return " ".join(f'"{piece}"' for piece in found if piece)


def _ebnf_class(ranges: Iterable[Range]) -> str:
    # At its beginning xgrammar takes a ^ for a negation, in whichever way it is written.
    caret = any(first == _CARET for first, _ in ranges)
    if caret:
        ranges = [part for kept in others([(_CARET, _CARET)]) for part in common(ranges, kept)]
    same = (each for kept in _BY_BYTES for each in common(ranges, kept))
    found = "".join(_ebnf_range(piece) for each in same for piece in _even(*each))
    if not caret:
        return f"[{found}]"
    alone = f'"{_ebnf_character(_CARET)}"'
    return f"({alone} | [{found}])" if found else alone


def _even(first: int, last: int) -> list[Range]:
    """A range of characters of as many bytes in pieces of which the bytes are ranges by themselves.

    xgrammar takes others for bytes that are no characters (openvino-genai 2026.4.1).
    """
    for bits in range(_BITS, 3 * _BITS + 1, _BITS):
        rest = (1 << bits) - 1
        if first | rest == last | rest:
            break
        if first & rest:
            return [*_even(first, first | rest), *_even((first | rest) + 1, last)]
        if last & rest != rest:
            return [*_even(first, (last & ~rest) - 1), *_even(last & ~rest, last)]
    return [(first, last)]


def _ebnf_range(each: Range) -> str:
    first, last = map(_ebnf_character, each)
    return first if each[0] == each[1] else f"{first}-{last}"


def _ebnf_character(number: int) -> str:
    if number < 0x80 and chr(number).isalnum():
        return chr(number)
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


@lru_cache(maxsize=64)
def to_lark(grammar: Grammar) -> str:
    """A grammar in llguidance's form of Lark. Raises `InputError`."""
    rules = rules_of(grammar)
    writer = _Lark()
    lines = [f"start: {writer.rule(rules.start)}"]
    lines += [f"{name}: {writer.rule(each)}" for name, each in sorted(rules.named.items())]
    lines += [f"{name}: /{regex}/" for regex, name in writer.terminals.items()]
    return "\n".join(lines) + "\n"


class _Lark:
    """Each lexeme is a terminal. llguidance takes the longest one, and never goes back to another
    that ended before."""

    def __init__(self) -> None:
        self.terminals: dict[str, str] = {}

    def rule(self, expression: Expression) -> str:
        if isinstance(expression, Rule):
            return expression.name
        if isinstance(expression, Lexeme):
            return self.terminals.setdefault(_regex(expression.part), f"T{len(self.terminals)}")
        if isinstance(expression, Repeat):
            most = "" if expression.most is None else expression.most
            return f"({self.rule(expression.part)}){{{expression.least},{most}}}"
        if isinstance(expression, Series):
            return f"({' '.join(map(self.rule, expression.parts))})" if expression.parts else '""'
        assert isinstance(expression, Choice)
        lexemes = [part for part in expression.parts if isinstance(part, Lexeme)]
        found: list[Expression] = [
            part for part in expression.parts if not isinstance(part, Lexeme)
        ]
        if lexemes:
            found.append(Lexeme(choice(*(each.part for each in lexemes))))
        return f"({' | '.join(map(self.rule, found))})"


def _regex(expression: Expression) -> str:
    """Of what is regular, in the syntax of Rust's crate `regex`."""
    if isinstance(expression, Text):
        return "".join(map(_regex_character, map(ord, expression.text)))
    if isinstance(expression, Characters):
        return f"[{''.join(map(_regex_range, expression.ranges))}]"
    if isinstance(expression, Repeat):
        most = "" if expression.most is None else expression.most
        return f"(?:{_regex(expression.part)}){{{expression.least},{most}}}"
    assert isinstance(expression, (Series, Choice))
    pieces = map(_regex, expression.parts)
    return "".join(pieces) if isinstance(expression, Series) else f"(?:{'|'.join(pieces)})"


def _regex_range(each: Range) -> str:
    return f"{_regex_character(each[0])}-{_regex_character(each[1])}"


def _regex_character(number: int) -> str:
    letter = number < 0x80 and chr(number).isalnum()
    return chr(number) if letter else f"\\x{{{number:x}}}"


def token_bytes(tokenizer_json: Path) -> list[bytes]:
    """The bytes that each token id stands for, empty for special ones.

    Raises `SourceError` for a tokenizer whose tokens are no bytes of text.
    """
    tokenizer = _tokenizer(tokenizer_json)
    return [_bytes(tokenizer, token) for token in range(tokenizer.vocab_size)]


def _tokenizer(tokenizer_json: Path) -> Any:
    from llguidance import LLTokenizer

    try:
        given = json.loads(tokenizer_json.read_bytes())
        _without_prefix(given.get("pre_tokenizer"))
        return LLTokenizer(json.dumps(given))
    except (OSError, ValueError) as error:
        raise SourceError(
            f"the tokens of {tokenizer_json} cannot be read as bytes: {_first(str(error))}",
            hint="byte-level BPE, and BPE and Unigram with byte fallback, can be",
        ) from error


def _without_prefix(pre_tokenizer: Any) -> None:
    """Where only one text may follow, llguidance tokenizes it, and takes the blank that some
    tokenizers put before any text for a part of it."""
    if isinstance(pre_tokenizer, dict):
        for setting, none in (("add_prefix_space", False), ("prepend_scheme", "never")):
            if setting in pre_tokenizer:
                pre_tokenizer[setting] = none
        for each in pre_tokenizer.get("pretokenizers", ()):
            _without_prefix(each)


def _bytes(tokenizer: Any, token: int) -> bytes:
    found: bytes = b"" if tokenizer.is_special_token(token) else tokenizer.decode_bytes([token])
    return found


class GrammarTokens:
    """A model's tokens as grammars see them. Safe from many threads.

    The tokenizer is read when the first grammar comes.
    """

    def __init__(self, tokenizer: Path) -> None:
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._tokens: Any = None
        self._texts: NDArray[np.bool_] | None = None

    def matcher(self, grammar: Grammar, stop_tokens: Collection[int]) -> Matcher:
        """What holds one answer to a grammar. Raises `InputError`."""
        from llguidance import LLMatcher

        written = to_lark(grammar)
        with self._lock:
            if self._tokens is None:
                self._read()
        found = LLMatcher(self._tokens, LLMatcher.grammar_from_lark(written), log_level=0)
        if error := found.get_error():
            raise InputError(f"answers cannot be held to this {grammar.kind}: {_first(error)}")
        assert self._texts is not None
        return Matcher(found, self._texts, stop_tokens)

    def _read(self) -> None:
        import numpy as np

        try:
            self._tokens = _tokenizer(self._tokenizer)
        except SourceError as error:
            raise InputError(f"answers cannot be held to a grammar: {error.message}") from error
        size = range(self._tokens.vocab_size)
        self._texts = np.array([bool(_bytes(self._tokens, token)) for token in size], np.bool_)


class Matcher:
    """Where one answer is in its grammar. For one thread at a time."""

    def __init__(
        self, matcher: Any, texts: NDArray[np.bool_], stop_tokens: Collection[int]
    ) -> None:
        self._matcher = matcher
        self._texts = texts
        self._stop_tokens = sorted(stop_tokens)

    @property
    def is_complete(self) -> bool:
        """Whether the answer may end here."""
        return bool(self._matcher.is_accepting())

    @property
    def is_over(self) -> bool:
        """Whether it must end here: nothing may follow."""
        return bool(self._matcher.is_stopped())

    def mask(self, logits: NDArray[np.float32]) -> None:
        """Set the logits [vocabulary] of tokens that may not come to minus infinity, in place. A
        token that ends the answer may come where the grammar may end.

        Raises `InferenceError` where no token may come.
        """
        import numpy as np

        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        may_come = np.zeros(logits.shape, np.bool_)
        size = min(logits.size, self._texts.size)
        unpacked = np.unpackbits(bits, bitorder="little")[:size]
        np.logical_and(unpacked, self._texts[:size], out=may_come[:size])
        may_come[[token for token in self._stop_tokens if token < logits.size]] = self.is_complete
        logits[~may_come] = -np.inf
        if not np.isfinite(logits.max()):
            raise InferenceError("the model has no token that the grammar allows here")

    def advance(self, token: int) -> None:
        """The answer goes on with this token, which is none that ends it. Raises
        `InferenceError`."""
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if error := self._matcher.get_error():
            raise InferenceError(f"the answer cannot be held to its grammar: {_first(error)}")


def _first(error: str) -> str:
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    return lines[0] if lines else "unknown error"
