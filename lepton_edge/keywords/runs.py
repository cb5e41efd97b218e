"""A text cut at punctuation, line ends, and where a script without spaces begins or ends.

Characters are told apart by Unicode categories, after the rules of Unicode Standard Annex 29:
combining marks belong to the letter before them, and an apostrophe, hyphen or joiner between two
letters to the word.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

APOSTROPHES = "'’ʼ"
INVISIBLE = "\u00ad\u200c\u200d"  # soft hyphen, and the joiners of scripts and emoji
_JOINERS = APOSTROPHES + INVISIBLE + "-‐‑_·"
_LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"

# Scripts that are written without spaces: ranges of code points.
HAN, KATAKANA, HIRAGANA, SYLLABLES = "han", "katakana", "hiragana", "syllables"
_RANGES = (
    (0x0E00, 0x0E7F, SYLLABLES),  # Thai
    (0x0E80, 0x0EFF, SYLLABLES),  # Lao
    (0x1000, 0x109F, SYLLABLES),  # Myanmar
    (0x1780, 0x17FF, SYLLABLES),  # Khmer
    (0x3005, 0x3007, HAN),
    (0x3041, 0x309F, HIRAGANA),
    (0x30A1, 0x30FA, KATAKANA),
    (0x30FC, 0x30FF, KATAKANA),
    (0x31F0, 0x31FF, KATAKANA),
    (0x3400, 0x4DBF, HAN),
    (0x4E00, 0x9FFF, HAN),
    (0xF900, 0xFAFF, HAN),
    (0xFF66, 0xFF9F, KATAKANA),
    (0x20000, 0x323AF, HAN),
)


@dataclass(frozen=True)
class Run:
    """Characters between punctuation and line ends, of one script without spaces or of others."""

    start: int
    end: int
    script: str | None


def runs(text: str) -> Iterator[Run]:
    start, script = 0, None
    for place, letter in enumerate(text):
        kind = kind_of(letter)
        if kind == "joiner":
            kind = "mark" if _joins(text, place) else "break"
        if kind == "mark" and place > start:
            continue  # goes with what is before it
        here = kind if kind in SCRIPTS else None
        if kind == "break" or here != script:
            if place > start:
                yield Run(start, place, script)
            start, script = (place + 1, None) if kind == "break" else (place, here)
    if len(text) > start:
        yield Run(start, len(text), script)


def _joins(text: str, place: int) -> bool:
    """Whether a joiner is between two letters: an apostrophe, not a quotation mark. One that
    nobody sees never is punctuation."""
    if text[place] in INVISIBLE:
        return True
    before, after = text[place - 1 : place], text[place + 1 : place + 2]
    letters = ("letter", "mark", *SCRIPTS)
    return bool(before and after) and kind_of(before) in letters and kind_of(after) in letters


SCRIPTS = (HAN, KATAKANA, HIRAGANA, SYLLABLES)


def kind_of(letter: str) -> str:
    """One of the scripts without spaces, or: letter, mark, joiner, space, break."""
    if letter.isascii() and letter.isalnum():
        return "letter"
    if letter in _LINE_ENDS:
        return "break"
    if letter in _JOINERS:
        return "joiner"
    category = unicodedata.category(letter)
    if category[0] == "M":
        return "mark"
    if category[0] in "LN":
        code = ord(letter)
        return next((s for low, high, s in _RANGES if low <= code <= high), "letter")
    # Marks of direction are between words, but end no phrase.
    return "space" if category in ("Zs", "Cf") or letter == "\t" else "break"
