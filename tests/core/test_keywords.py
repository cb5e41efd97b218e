"""Keywords: which phrases a text has in any script, where they stand, and how they are chosen."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lepton_edge import Keyword, Model, extract_keywords, load
from lepton_edge.bundle import Bundle
from lepton_edge.errors import InputError
from lepton_edge.keywords import _documents, phrases
from lepton_edge.keywords.stop_words import stop_words_of
from tests.core.search_parts import unit_rows

Bundles = Callable[..., Bundle]


@pytest.fixture
def model(fake_bundle: Bundles) -> Iterator[Model]:
    with load(fake_bundle(task="feature-extraction").path) as opened:
        yield opened


def found(text: str, max_words: int = 3, stop_words: Any = None, most: int = 1000) -> list[str]:
    """The phrases of a text, sliced from it."""
    stops = stop_words_of(text) if stop_words is None else stop_words
    return [text[each.start : each.end] for each in phrases(text, stops, max_words, most)]


# Phrases.


def test_phrases_have_no_stop_words_at_their_ends() -> None:
    text = "The state of the art in machine learning is a moving target."
    assert found(text) == [
        "state",
        "art",
        "art in machine",
        "machine",
        "machine learning",
        "learning",
        "moving",
        "moving target",
        "target",
    ]
    assert "state of the art" in found(text, max_words=4)
    assert found(text, max_words=1) == ["state", "art", "machine", "learning", "moving", "target"]


@pytest.mark.parametrize(
    "mark", [",", ".", "; ", " – ", "\n", " (", "/", "!", " 🙂 ", "\u2028", "。"]
)
def test_phrases_cross_no_punctuation_and_no_line_end(mark: str) -> None:
    assert found(f"red{mark}apple") == ["red", "apple"]


@pytest.mark.parametrize("gap", [" ", "  ", "\t", "\u00a0", "\u3000", " \u200f"])
def test_phrases_cross_space(gap: str) -> None:
    assert found(f"red{gap}apple") == ["red", f"red{gap}apple", "apple"]


@pytest.mark.parametrize(
    "word",
    [
        "state-of-the-art",
        "O'Neill",
        "rock’n’roll",
        "snake_case",
        "col·laborar",
        "cafe\u0301",
        "nai\u0308ve",
        "می\u200cخواهم",  # Persian, with a joiner that nobody sees
        "हिन्दी",
        "தமிழ்",
        "עִבְרִית",
        "العَرَبِيَّة",
        "한국어",
        "ﬁne",
        "𝒳𝒴",
        "e\u0301\u0323\u0307",
        "auto\u00admatisch",
    ],
)
def test_a_word_is_whole(word: str) -> None:
    assert found(word) == [word]
    assert found(f"«{word}», '{word}'!") == [word]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("l'étude de l’eau", ["étude", "étude de l’eau", "eau"]),
        (
            "the company's growth was good",
            ["company", "company's growth", "growth", "growth was good", "good"],
        ),
        ("Apollo 11 landed", ["Apollo", "Apollo 11", "Apollo 11 landed", "landed"]),
        ("42 1969 7", []),
        ("a b c", []),
        ("-- ' -", []),
        ("❤️ 👩‍👩‍👧‍👦 1️⃣", []),
        ("I ❤️ red apples 👩‍👩‍👧‍👦 today", ["red", "red apples", "apples", "today"]),
        ("", []),
        ("x" * 101 + " word", ["word"]),
        ("e" + "\u0301" * 200 + " word", ["word"]),
    ],
)
def test_words_at_the_edge(text: str, expected: list[str]) -> None:
    stops = {"l", "de", "the", "was", "i"}
    assert found(text, max_words=4 if "eau" in text else 3, stop_words=stops) == expected


def test_a_phrase_stands_where_it_comes_first_however_it_is_written() -> None:
    text = "Red Apple, red apple, RED APPLE; cafe\u0301 CAFÉ café"
    kept = phrases(text, (), 2, 1000)
    assert [(text[each.start : each.end], each.count) for each in kept if each.count > 2] == [
        ("Red", 3),
        ("Red Apple", 3),
        ("Apple", 3),
        ("cafe\u0301", 3),
    ]


def test_of_many_phrases_the_frequent_are_kept() -> None:
    text = " . ".join(
        [*(f"once{n}" for n in range(50)), "twice", "twice", "thrice"] + ["thrice"] * 2
    )
    assert found(text, most=2) == ["twice", "thrice"]
    assert found(text, most=4) == ["once0", "once1", "twice", "thrice"]


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        (
            "自然语言处理是人工智能和机器学习的一个重要方向。机器学习使用Python编程，机器学习很重要。",
            {"机器学习", "人工智能", "自然语言", "Python", "编程"},
            {"的", "器学", "器学习使", "智能和机", "学习"},
        ),
        (
            "日本語の深層学習モデルを食べる。りんごについてのデータベース",
            {"日本語", "深層学習", "モデル", "データベース"},
            {"の", "を", "食", "データ"},
        ),
        ("ภาษาไทยเป็นภาษา", {"ไทยเป็นภาษา"}, set()),
        ("មជ្ឈមណ្ឌលស្រាវជ្រាវ", set(), set()),
        ("မြန်မာဘာသာစကား", set(), set()),
        ("𠮷野家で食事", {"𠮷野家", "食事"}, {"𠮷"}),
    ],
)
def test_scripts_without_spaces(text: str, inside: set[str], outside: set[str]) -> None:
    pieces = found(text)
    assert inside <= set(pieces)
    assert outside.isdisjoint(pieces)
    assert pieces
    for piece in pieces:
        assert unicodedata.category(piece[0])[0] != "M"
        after = text[text.index(piece) + len(piece) :][:1]
        assert not after or unicodedata.category(after)[0] != "M"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("I have been waiting for the card and it did not come", "the"),
        ("die Karte ist noch nicht bei mir und ich warte", "nicht"),
        ("la carte n'est pas arrivée et je ne sais pas pourquoi", "pas"),
        ("карта ещё не пришла и я не знаю почему", "не"),
        ("बैंक का कार्ड अभी तक नहीं आया है", "नहीं"),
        ("الذكاء الاصطناعي هو سلوك وخصائص في البرامج", "هو"),
        ("卡还没有到，我在等的是新的卡", "的"),
    ],
)
def test_stop_words_are_those_of_the_texts_language(text: str, word: str) -> None:
    stops = stop_words_of(text)
    assert word in stops
    assert all(piece.casefold() not in stops for piece in found(text))


def test_a_word_of_another_languages_list_stays() -> None:
    """ "war" and "die" are function words in German."""
    assert "war" in found("the history of the war and of those who die in it")
    assert stop_words_of("Zzz qqq") == frozenset()


SCRIPTS = (
    "aZ é ß ñ -'’_ \t\n.,!1 ह ि न ् द ी क ा ع َ ب ر ש ָ ל 字 漢 の カ ー ไ ท ย เ ์ ក ្ ម 한 🙂 ❤"
    "\ufe0f\u200d\u0301\u200c\u00ad\U0001f469"
)


@settings(deadline=None, max_examples=300)
@given(
    st.text(st.sampled_from(SCRIPTS), max_size=60)
    | st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
)
@example("漢" + "\u0301" * 9)
@example("เเเ")
@example("្្")
def test_offsets_are_of_whole_characters_in_any_text(text: str) -> None:
    kept = phrases(text, stop_words_of(text), 3, 1000)
    assert len({(each.start, each.end) for each in kept}) == len(kept)
    for each in kept:
        piece = text[each.start : each.end]
        assert 0 <= each.start < each.end <= len(text)
        assert piece == piece.strip()
        assert "\n" not in piece
        assert "," not in piece
        assert unicodedata.category(piece[0])[0] in "LN"
        after = text[each.end : each.end + 1]
        assert not after or unicodedata.category(after)[0] != "M", "a mark was cut from its letter"


@pytest.mark.parametrize(
    "text",
    [
        "漢" * 20_000,
        "カ" * 20_000,
        "の" * 20_000,
        "ไทย" * 7000,
        "漢" + "\u0301" * 20_000,
        "a " * 20_000,
        "'" * 20_000,
        "word" + " " * 20_000 + "word",
        "x" * 20_000,
        "-".join("ab" for _ in range(9000)),
    ],
    ids=lambda text: ascii(text[:3]),
)
def test_a_long_odd_text_takes_no_long_time(text: str) -> None:
    """Each is done in a moment; what grows with the square of the text would not end."""
    for piece in found(text):
        assert len(piece) < 1000


# Keywords.


def test_keywords_are_slices_of_the_text_nearest_first(model: Model) -> None:
    text = "w1 w2 w3, w4: größe 🙂 w5 w6. W1 w2"
    keywords = extract_keywords(model, text, top_k=5, diversity=0, stop_words=[])
    assert len(keywords) == 5
    for keyword in keywords:
        assert text[keyword.start : keyword.end] == keyword.text
    scores = [keyword.score for keyword in keywords]
    assert scores == sorted(scores, reverse=True)
    everything = extract_keywords(model, text, top_k=100, diversity=0, stop_words=[])
    assert everything[:5] == keywords
    expected = {
        each.text: pytest.approx(model(each.text).similarity(model(text)), abs=1e-5)
        for each in everything
    }
    assert {each.text: each.score for each in everything} == expected
    assert str(Keyword("red apple", 0.51239, 3, 12)) == "0.5124  red apple"


def test_the_order_is_that_of_maximal_marginal_relevance(model: Model) -> None:
    text = " . ".join(f"w{n} w{n + 3}" for n in range(10))
    pieces = found(text, stop_words=())
    vectors, whole = unit_rows(np.asarray(model(pieces))), np.asarray(model(text))
    relevance = vectors @ unit_rows(whole[None])[0]
    for diversity in (0.2, 0.7, 1.0):
        chosen = [int(relevance.argmax())]
        while len(chosen) < 6:
            value = (1 - diversity) * relevance
            value = value - diversity * (vectors @ vectors[chosen].T).max(axis=1)
            value[chosen] = -np.inf
            chosen.append(int(value.argmax()))
        result = extract_keywords(model, text, top_k=6, diversity=diversity, stop_words=())
        assert [each.text for each in result] == [pieces[n] for n in chosen]


def test_diversity_makes_keywords_less_alike(model: Model) -> None:
    text = " . ".join(f"w{n % 5} w{n}" for n in range(40))

    def likeness(diversity: float) -> float:
        keywords = extract_keywords(model, text, top_k=6, diversity=diversity)
        vectors = unit_rows(np.asarray(model([each.text for each in keywords])))
        return float((vectors @ vectors.T)[np.triu_indices(6, 1)].mean())

    assert likeness(0.9) < likeness(0.4) < likeness(0)


def test_pieces_of_a_script_without_spaces_do_not_overlap(model: Model) -> None:
    text = "自然语言处理技术发展迅速前景广阔"
    keywords = extract_keywords(model, text, diversity=0)
    places = sorted((each.start, each.end) for each in keywords)
    assert len(places) > 1
    assert all(a[1] <= b[0] for a, b in pairwise(places))


def test_a_list_of_texts_gives_a_list_each(model: Model) -> None:
    texts = ["w1 w2", "... !", "w3"]
    results = extract_keywords(model, texts)
    assert results == [extract_keywords(model, text) for text in texts]
    assert results[1] == []
    assert extract_keywords(model, []) == []


def test_the_end_of_a_long_text_counts(model: Model) -> None:
    """The model takes 32 tokens."""
    text = "w1 " * 40 + "w2 " * 40
    assert model(text).truncated
    (vector,) = _documents(model, [text])
    parts = unit_rows(np.asarray(model(["w1 " * 20, "w2 " * 20])))
    assert vector @ unit_rows(parts.sum(axis=0, keepdims=True))[0] > 0.999
    assert _documents(model, ["w1" * 5]).shape == (1, 8)
    unbroken = "w1\u3000" * 100
    assert len(extract_keywords(model, unbroken, stop_words=())) > 0


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"top_k": 0}, "top_k is 0"),
        ({"top_k": True}, "top_k is True"),
        ({"max_words": 0}, "max_words is 0"),
        ({"diversity": 1.1}, "diversity is 1.1"),
        ({"diversity": float("nan")}, "diversity is nan"),
        ({"diversity": "a"}, "diversity is 'a'"),
        ({"stop_words": "the"}, "stop_words is the text 'the'"),
    ],
)
def test_what_cannot_be_asked(model: Model, options: Any, problem: str) -> None:
    with pytest.raises(InputError) as caught:
        extract_keywords(model, "w1", **options)
    assert problem in caught.value.message


def test_a_text_or_a_model_that_cannot_be_used_is_named(fake_bundle: Bundles, model: Model) -> None:
    with pytest.raises(InputError, match="text 2 is empty"):
        extract_keywords(model, ["w1", " "])
    with (
        load(fake_bundle("classifier").path) as classifier,
        pytest.raises(InputError, match="keyword extraction needs a bundle of feature-extraction"),
    ):
        extract_keywords(classifier, "w1")
