"""Grammars over the tokenizers of the field: what is written in tokens is the grammar's text."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from lepton_edge.generation.grammar import GrammarTokens, token_bytes
from lepton_edge.generation.request import Grammar

_WORDS = ("no", "yes", "name", '{"', '":', "th", "the", "in", "on", "an", "12", "he")
_BLANK = "\u2581"  # as SentencePiece writes it
_END = 1


def _byte_level(**options: Any) -> Tokenizer:
    """As GPT-2 has it."""
    pieces, merges = _pieces(
        ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())], "\u0120"
    )
    tokenizer = Tokenizer(models.BPE({piece: n for n, piece in enumerate(pieces)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(**options)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return tokenizer


def _sentencepiece(
    normalizer: Any = None, pre_tokenizer: Any = None, *, unigram: bool = False
) -> Tokenizer:
    """With byte fallback, as Llama and Gemma have it."""
    letters = [f"<0x{number:02X}>" for number in range(256)]
    letters += [_BLANK, *map(chr, range(0x21, 0x7F))]
    pieces, merges = _pieces(["<unk>", "</s>", "<s>", *letters], _BLANK)
    model: Any = models.BPE(
        {piece: n for n, piece in enumerate(pieces)}, merges, unk_token="<unk>", byte_fallback=True
    )
    if unigram:
        scores = [(piece, -n / 100) for n, piece in enumerate(pieces)]
        model = models.Unigram(scores, unk_id=0, byte_fallback=True)
    tokenizer = Tokenizer(model)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_BLANK, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens(["<unk>", "</s>", "<s>"])
    return tokenizer


def _pieces(letters: list[str], blank: str) -> tuple[list[str], list[tuple[str, str]]]:
    """A vocabulary with some words, with and without a blank before them, and its merges."""
    pieces, merges = list(letters), []
    for word in (form for each in _WORDS for form in (each, blank + each)):
        for end in range(2, len(word) + 1):
            if word[:end] not in pieces:
                pieces.append(word[:end])
                merges.append((word[: end - 1], word[end - 1]))
    return pieces, merges


def _metaspace(scheme: str, split: bool = True) -> Any:
    return pre_tokenizers.Metaspace(_BLANK, scheme, split)


def _prepended() -> Any:
    return normalizers.Sequence([normalizers.Prepend(_BLANK), normalizers.Replace(" ", _BLANK)])


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "byte-level": lambda: _byte_level(add_prefix_space=False),
    "byte-level-whole": lambda: _byte_level(add_prefix_space=False, use_regex=False),
    "byte-level-with-a-blank-first": lambda: _byte_level(add_prefix_space=True),
    "prepended": lambda: _sentencepiece(_prepended()),
    "replaced": lambda: _sentencepiece(normalizers.Replace(" ", _BLANK)),
    "metaspace-first": lambda: _sentencepiece(pre_tokenizer=_metaspace("first", False)),
    "metaspace-always": lambda: _sentencepiece(pre_tokenizer=_metaspace("always")),
    "metaspace-never": lambda: _sentencepiece(pre_tokenizer=_metaspace("never")),
    "unigram-always": lambda: _sentencepiece(pre_tokenizer=_metaspace("always"), unigram=True),
    "unigram-prepended": lambda: _sentencepiece(_prepended(), unigram=True),
}


@pytest.fixture(params=KINDS)
def tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Tokenizer, Path]:
    made = KINDS[request.param]()
    file = tmp_path / "tokenizer.json"
    made.save(str(file))
    return made, file


def test_the_bytes_of_tokens_are_the_text_that_they_decode_to(
    tokenizer: tuple[Tokenizer, Path],
) -> None:
    made, file = tokenizer
    found = token_bytes(file)
    assert len(found) == made.get_vocab_size()
    for text in (' the name no {"on": 12}', " é 字 🙂 the"):
        ids = made.encode(text, add_special_tokens=False).ids
        assert b"".join(found[token] for token in ids).decode().strip() == text.strip()
        assert made.decode(ids).strip() == text.strip()
    empty = {made.id_to_token(token) for token, text in enumerate(found) if not text}
    # \xff, a byte that is in no text, is what llguidance marks special tokens by.
    assert empty - {"\xff", "<0xFF>"} == {"<unk>", "<s>", "</s>"} & {*made.get_vocab()}


@pytest.mark.parametrize(
    ("source", "texts"),
    [
        ("(yes|no) the name", 2),
        (r'\{"name": "th(e|is) ?\w*"\}', 5),
        ("the(12)+ no", 2),
        ("é(字|no)🙂", 2),
    ],
)
def test_what_has_to_come_is_written_as_it_is(
    tokenizer: tuple[Tokenizer, Path], source: str, texts: int
) -> None:
    """Where only one text may follow, llguidance asks the tokenizer for its tokens."""
    _, file = tokenizer
    tokens, written = GrammarTokens(file), token_bytes(file)
    found = set()
    for seed in range(20):
        random = np.random.default_rng(seed)
        matcher = tokens.matcher(Grammar("regex", source), {_END})
        answer = b""
        while not matcher.is_over:
            logits = random.standard_normal(len(written)).astype(np.float32)
            logits[_END] += 2
            matcher.mask(logits)
            token = int(logits.argmax())
            if token == _END:
                break
            matcher.advance(token)
            answer += written[token]
        assert re.fullmatch(source, answer.decode())
        found.add(answer)
    assert len(found) >= texts
