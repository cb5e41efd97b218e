"""Texts of an exact number of tokens, made of the tokenizer's own words: the same each time."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

SHORT = "where is my new card?"

_WORDS = 5000
_SEED = 20261122


def mixed(tokenizer: Tokenizer, count: int, shortest: int, longest: int) -> list[str]:
    """Texts of ``shortest`` to ``longest`` tokens, each length as likely as another."""
    chance = random.Random(f"{_SEED} {shortest} {longest}")
    words = _words(tokenizer)
    # As often as in a language: the word of rank n about 1/n as often as the first.
    weights = [1 / rank for rank in range(3, len(words) + 3)]
    texts = []
    for _ in range(count):
        tokens = chance.randint(shortest, longest)
        drawn = chance.choices(words, weights, k=tokens + 8)
        texts.append(_cut(tokenizer, _sentences(drawn, chance), tokens))
    return texts


def _words(tokenizer: Tokenizer) -> list[str]:
    """Whole words of the vocabulary in its order, which is about that of their frequency."""
    marks = "▁Ġ"  # how SentencePiece and byte-level BPE mark a word's start
    ordered = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    found = [token.lstrip(marks) for token, _ in ordered]
    return [w for w in found if len(w) > 1 and w.isascii() and w.isalpha() and w.islower()][:_WORDS]


def _sentences(words: list[str], chance: random.Random) -> str:
    text, start = "", 0
    while start < len(words):
        end = start + chance.randint(5, 16)
        text += f"{' '.join(words[start:end]).capitalize()}. "
        start = end
    return text


def _cut(tokenizer: Tokenizer, text: str, tokens: int) -> str:
    """The start of ``text`` that has so many tokens, those that the tokenizer adds among them."""
    encoding: Encoding = tokenizer.encode(text)
    special = encoding.special_tokens_mask
    ends = [end for (_, end), added in zip(encoding.offsets, special, strict=True) if not added]
    wanted = tokens - sum(special)
    # A word that is cut short may split into other tokens than it did: look on both sides.
    for place in sorted(range(len(ends)), key=lambda index: abs(index + 1 - wanted)):
        start = text[: ends[place]]
        if len(tokenizer.encode(start)) == tokens:
            return start
    raise ValueError(f"no start of a text of {len(encoding)} tokens has {tokens}")
