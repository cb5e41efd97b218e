"""Places in a text, moved so that they never fall inside a character as people see it."""

from __future__ import annotations

from unicodedata import category

# A character of more code points belongs to no writing system, and a text may be made of one.
_LONGEST = 512

_MARKS = ("Mn", "Me", "Mc")  # accents, vowel signs, variation selectors, the keycap
_JOINER = "\u200d"
# What continues a character and is no mark by its category: the joiners, Thai and Lao vowel signs,
# and the voicing marks of narrow Katakana.
_CONTINUING = frozenset("\u200c\u200d\u0e33\u0eb3\uff9e\uff9f")
_REGIONAL = "".join(map(chr, range(0x1F1E6, 0x1F200)))
# What may stand before a part of a Hangul syllable, by the part's kind.
_BEFORE_JAMO = {"L": ("L",), "V": ("L", "V", "LV"), "T": ("V", "T", "LV", "LVT")}
_BEFORE_JAMO |= {"LV": ("L",), "LVT": ("L",)}


def whole_characters(text: str, start: int, end: int) -> tuple[int, int]:
    """The span from ``start`` up to ``end``, wider where it begins or ends inside a character.

    A character is an extended grapheme cluster (Unicode Standard Annex #29): a letter with its
    combining marks, an emoji with its variation selector, modifiers and what is joined to it, the
    two halves of a flag, the jamo of a Hangul syllable. Of Indic scripts a conjunct of consonants
    counts as several. An empty span stays as it is.
    """
    if start < end:
        last = min(len(text), end + _LONGEST)
        while end < last and _continues(text, end):
            end += 1
        first = max(0, start - _LONGEST)
        while start > first and _continues(text, start):
            start -= 1
    return start, end


def _continues(text: str, place: int) -> bool:
    """Whether the code point at ``place`` belongs to the one before it. For 0 < place < len."""
    if place == 0:
        return False
    before, letter = text[place - 1], text[place]
    if (
        letter < "\u0300" or before < " "
    ):  # nearly every letter there is; nothing joins a line's end
        return before == "\r" and letter == "\n"
    kind = category(letter)
    if kind in _MARKS or letter in _CONTINUING or _modifies_emoji(letter):
        return True
    if letter in _REGIONAL:
        above = text[max(0, place - _LONGEST) : place]
        return (len(above) - len(above.rstrip(_REGIONAL))) % 2 == 1
    if before == _JOINER:
        return kind[0] == "S"  # an emoji; a letter after a joiner begins anew
    return _jamo(before) in _BEFORE_JAMO.get(_jamo(letter), ())


def _modifies_emoji(letter: str) -> bool:
    """Skin tones, and the tags that spell the flag of a region."""
    return "\U0001f3fb" <= letter <= "\U0001f3ff" or "\U000e0020" <= letter <= "\U000e007f"


def _jamo(letter: str) -> str:
    """The kind of a part of a Hangul syllable, or of a whole one; nothing for other letters."""
    if "\uac00" <= letter <= "\ud7a3":
        return "LVT" if (ord(letter) - 0xAC00) % 28 else "LV"
    if "\u1100" <= letter <= "\u115f" or "\ua960" <= letter <= "\ua97c":
        return "L"
    if "\u1160" <= letter <= "\u11a7" or "\ud7b0" <= letter <= "\ud7c6":
        return "V"
    return "T" if "\u11a8" <= letter <= "\u11ff" or "\ud7cb" <= letter <= "\ud7fb" else ""
