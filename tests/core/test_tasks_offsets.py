"""Spans that never cut a character as people see it."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_edge.tasks.offsets import whole_characters

CHARACTERS = [
    "a",
    "é",
    "e\u0301",  # a letter and its accent
    "o\u0323\u0302",  # two accents
    "🙂",
    "❤\ufe0f",  # a variation selector
    "👍🏽",  # a skin tone
    "👩‍👩‍👧",  # joined
    "🏳\ufe0f‍🌈",
    "👩🏽‍🔬",
    "1\ufe0f\u20e3",  # a keycap
    "🇩🇪",  # a flag of two letters
    "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",  # a flag of tags
    "東",
    "한",
    "\u1112\u1161\u11ab",  # the same in jamo
    "가",
    "가\u11ab",
    "م\u064e",  # an Arabic vowel sign
    "ש\u05b8",  # a Hebrew one
    "ก\u0e33",  # Thai sara am
    "कि",  # a vowel sign that takes room of its own
    "ｶ\uff9e",  # narrow Katakana and its voicing mark
    "\r\n",
]


def pieces(character: str) -> str:
    return " ".join(unicodedata.name(point, f"{ord(point):04x}") for point in character)


@pytest.mark.parametrize("character", CHARACTERS, ids=pieces)
def test_a_span_that_ends_or_begins_inside_a_character_takes_all_of_it(character: str) -> None:
    text = f"x{character}y"
    whole = (1, 1 + len(character))
    for place in range(1, len(character)):
        assert whole_characters(text, 1, 1 + place) == whole
        assert whole_characters(text, 1 + place, 1 + len(character)) == whole
    assert whole_characters(text, *whole) == whole
    assert whole_characters(text, 0, 1) == (0, 1)
    assert whole_characters(text, whole[1], len(text)) == (whole[1], len(text))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("🇩🇪🇫🇷🇯🇵", (2, 4)),  # three flags
        ("ab", (1,)),
        ("한국", (1,)),
        ("م\u200dن", (2,)),  # a joiner between letters shapes them, and makes them no one letter
        ("\n\u0301", (1,)),  # an accent has nothing to stand on after a line's end
        ("🙂👍🏽", (1,)),
    ],
)
def test_neighbours_stay_apart(text: str, parts: tuple[int, ...]) -> None:
    for place in parts:
        assert whole_characters(text, 0, place) == (0, place)
        assert whole_characters(text, place, len(text)) == (place, len(text))


def test_an_empty_span_stays_where_it_is() -> None:
    assert whole_characters("e\u0301", 1, 1) == (1, 1)
    assert whole_characters("", 0, 0) == (0, 0)


def test_a_text_that_is_one_endless_character_is_read_only_so_far() -> None:
    text = "a" + "\u0301" * 100_000
    start, end = whole_characters(text, 50_000, 50_001)
    assert 0 < 50_000 - start == end - 50_001 < 1000


@settings(deadline=None, max_examples=200)
@given(st.lists(st.sampled_from(CHARACTERS), min_size=1, max_size=8), st.data())
def test_every_span_of_a_text_becomes_whole(characters: list[str], data: st.DataObject) -> None:
    text = "|".join(characters)  # apart, so that two of them do not become one
    bounds = {0, len(text)}
    for index in range(1, len(characters)):
        bar = len("|".join(characters[:index]))
        bounds |= {bar, bar + 1}
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    expected = max(b for b in bounds if b <= start), min(b for b in bounds if b >= end)
    assert whole_characters(text, start, end) == expected
