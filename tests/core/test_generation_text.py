"""Tokens to text as they come, and stop strings."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_edge.generation.text import Detokenizer, StopStrings

TEXTS = st.text(st.sampled_from("ab \n<|>é漢🙂"), max_size=30)


def decode_bytes(ids: list[int]) -> str:
    return bytes(ids).decode("utf-8", "replace")


def decode_words(ids: list[int]) -> str:
    """As a SentencePiece decoder does: the first word of a text loses its blank."""
    words = [" one", " two", "s", ",", " three"]
    return "".join(words[number] for number in ids).removeprefix(" ")


def told(detokenizer: Detokenizer, ids: list[int]) -> str:
    return "".join([*map(detokenizer.add, ids), detokenizer.rest()])


@given(text=st.text(max_size=30))
@settings(deadline=None)
def test_bytes_become_the_text_they_are_of(text: str) -> None:
    pieces = Detokenizer(decode_bytes)
    ids = list(text.encode())
    assert told(pieces, ids) == text


@given(ids=st.lists(st.integers(0, 255), max_size=30))
@settings(deadline=None)
def test_bytes_that_are_no_text_are_told_once(ids: list[int]) -> None:
    text = told(Detokenizer(decode_bytes), ids)
    assert text.replace("�", "") == decode_bytes(ids).replace("�", "")


def test_a_character_is_kept_until_it_is_whole() -> None:
    pieces = Detokenizer(decode_bytes)
    assert [pieces.add(byte) for byte in "é!".encode()] == ["", "é", "!"]
    assert pieces.rest() == ""


def test_half_a_character_at_the_end_is_told_as_such() -> None:
    pieces = Detokenizer(decode_bytes)
    assert pieces.add("é".encode()[0]) == ""
    assert pieces.rest() == "�"
    assert pieces.rest() == ""


@given(ids=st.lists(st.integers(0, 4), max_size=20))
@settings(deadline=None)
def test_words_in_pieces_are_the_whole_text(ids: list[int]) -> None:
    assert told(Detokenizer(decode_words), ids) == decode_words(ids)


@given(prompt=st.lists(st.integers(0, 4), min_size=1, max_size=9), ids=st.lists(st.integers(0, 4)))
@settings(deadline=None)
def test_a_continuation_goes_on_with_its_blank(prompt: list[int], ids: list[int]) -> None:
    text = told(Detokenizer(decode_words, prompt), ids)
    assert decode_words(prompt) + text == decode_words(prompt + ids)


def test_shown_tokens_are_part_of_the_text() -> None:
    pieces = Detokenizer(decode_words, shown={7: "[CALL]"})
    assert [pieces.add(token) for token in (0, 7, 1, 2)] == ["one", "[CALL]", "two", "s"]


def test_a_shown_token_comes_after_half_a_character() -> None:
    pieces = Detokenizer(decode_bytes, shown={300: "[CALL]"})
    assert pieces.add("é".encode()[0]) == ""
    assert pieces.add(300) == "�[CALL]"
    assert pieces.add(ord("a")) == "a"


@given(pieces=st.lists(TEXTS), stops=st.lists(TEXTS.filter(bool), max_size=3))
@settings(deadline=None, max_examples=300)
def test_text_ends_before_the_first_stop_string(pieces: list[str], stops: list[str]) -> None:
    finder = StopStrings(stops)
    text = "".join(map(finder.add, pieces)) + finder.rest()
    whole = "".join(pieces)
    assert finder.found == any(stop in whole for stop in stops)
    if finder.found:
        # The one that is whole first ends the text, though a longer one may begin before it.
        assert whole.startswith(text)
        assert any(whole.startswith(text + stop) for stop in stops)
        assert not any(stop in text for stop in stops)
    else:
        assert text == whole


@pytest.mark.parametrize("stop", ["END", "E", "EEND"])
def test_only_what_could_begin_a_stop_string_is_kept_back(stop: str) -> None:
    finder = StopStrings([stop])
    kept = partial(finder.add)
    assert kept("text ") == "text "
    assert kept("E") == ""
    assert finder.found == (stop == "E")
    if not finder.found:
        assert kept("xtra") == "Extra"


def test_nothing_comes_after_a_stop_string() -> None:
    finder = StopStrings(["."])
    assert finder.add("One. Two") == "One"
    assert finder.add(" more") == ""
    assert finder.rest() == ""
