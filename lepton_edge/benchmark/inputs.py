"""What a model is measured on: texts of an exact number of tokens, the same each time."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lepton_edge.bundle import TOKENIZER
from lepton_edge.errors import InputError

if TYPE_CHECKING:
    from random import Random

    from tokenizers import Encoding, Tokenizer

    from lepton_edge.bundle import Bundle
    from lepton_edge.runtime.session_model import SessionModel

_WORDS = 5000
_FEWEST_WORDS = 50
_SEED = 20261122
_ATTEMPTS = 5


def open_tokenizer(bundle: Bundle) -> Tokenizer:
    """The bundle's tokenizer, one of its own that neither cuts nor pads."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(bundle.path / TOKENIZER))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def examples(model: SessionModel, texts: Sequence[str]) -> tuple[list[Any], dict[str, Any]]:
    """Inputs of the model's task made of these texts, and what to call it with beside them."""
    inputs, parameters = model.task.examples(texts)
    given = dataclasses.fields(parameters)
    return inputs, {field.name: getattr(parameters, field.name) for field in given}


def texts_of(tokenizer: Tokenizer, count: int, tokens: int) -> list[str]:
    """Texts of exactly so many tokens, those that the tokenizer adds among them."""
    return mixed(tokenizer, count, tokens, tokens)


def mixed(tokenizer: Tokenizer, count: int, shortest: int, longest: int) -> list[str]:
    """Texts of ``shortest`` to ``longest`` tokens, each length as likely as another, made of the
    tokenizer's own words.

    Raises `InputError` where the tokenizer's words make no such text.
    """
    from random import Random

    chance = Random(f"{_SEED} {shortest} {longest}")
    words = _words(tokenizer)
    # As often as in a language: the word of rank n about 1/n as often as the first.
    weights = [1 / rank for rank in range(3, len(words) + 3)]
    return [
        _text(tokenizer, words, weights, chance.randint(shortest, longest), chance)
        for _ in range(count)
    ]


def _text(
    tokenizer: Tokenizer,
    words: Sequence[str],
    weights: Sequence[float],
    tokens: int,
    chance: Random,
) -> str:
    for _ in range(_ATTEMPTS if words else 0):
        drawn = chance.choices(words, weights, k=tokens + 8)
        text = _cut(tokenizer, _sentences(drawn, chance), tokens)
        if text is not None:
            return text
    added = len(tokenizer.encode(""))
    raise InputError(
        f"no text of {tokens} tokens can be made of this tokenizer's words "
        f"(it adds {added} tokens to every text)",
        hint="ask for another length, or measure texts of your own: --texts FILE",
    )


def _words(tokenizer: Tokenizer) -> list[str]:
    """Whole words of the vocabulary in its order, which is about that of their frequency."""
    marks = "▁Ġ"  # how SentencePiece and byte-level BPE mark a word's start
    ordered = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    found = [token.lstrip(marks) for token, _ in ordered]
    plain = [w for w in found if len(w) > 1 and w.isascii() and w.isalpha() and w.islower()]
    if len(plain) >= _FEWEST_WORDS:
        return plain[:_WORDS]
    # Another script, or a small vocabulary: whatever its tokens are the text of.
    texts = (tokenizer.decode([number]).strip() for _, number in ordered)
    return list(dict.fromkeys(text for text in texts if text.isalnum()))[:_WORDS]


def _sentences(words: Sequence[str], chance: Random) -> str:
    text, start = "", 0
    while start < len(words):
        end = start + chance.randint(5, 16)
        text += f"{' '.join(words[start:end]).capitalize()}. "
        start = end
    return text


def _cut(tokenizer: Tokenizer, text: str, tokens: int) -> str | None:
    """The start of ``text`` that has so many tokens; None where there is no such start."""
    encoding: Encoding = tokenizer.encode(text)
    special = encoding.special_tokens_mask
    ends = [end for (_, end), added in zip(encoding.offsets, special, strict=True) if not added]
    wanted = tokens - sum(special)
    # A word that is cut short may split into other tokens than it did: look on both sides.
    for place in sorted(range(len(ends)), key=lambda index: abs(index + 1 - wanted)):
        start = text[: ends[place]]
        if start.strip() and len(tokenizer.encode(start)) == tokens:
            return start
    return None
