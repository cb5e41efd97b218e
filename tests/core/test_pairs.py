"""Two texts put together of their own tokens: as the tokenizer itself encodes them together."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_edge.bundle.manifest import Text
from lepton_edge.errors import BundleError, InputError
from lepton_edge.runtime.pairs import room_for
from lepton_edge.runtime.text import TextEncoder, Tokenization
from tests.kinds import KINDS

Truncation = Literal["longest_first", "only_first"]
NAMES = ("the one", "the other")
WORDS = st.sampled_from(
    [
        "film",
        "good",
        "unhappier",
        "größe",
        "我的卡",
        "يصل",
        "🙂👍",
        "é",
        "?",
        "xyz",
        "<mask>",
        "[SEP]",
    ]
)
TEXTS = st.lists(WORDS, min_size=1, max_size=30).map(" ".join)
LENGTHS = st.integers(8, 40)


@pytest.fixture(scope="module", params=KINDS)
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kinds") / f"{request.param}.json"
    path.write_text(KINDS[request.param](), encoding="utf-8")
    return path


def _encoder(file: Path, truncation: Truncation = "longest_first", **text: Any) -> TextEncoder:
    limits = {"max_length": 16, "on_long_text": "truncate", "max_characters": 10_000, "pad_id": 0}
    return TextEncoder(file, Text(**{**limits, **text}), Tokenization(truncation))


def _joined(encoder: TextEncoder, first: str, second: str) -> Any:
    one, other = encoder.parts([first, second], NAMES.__getitem__)
    return encoder.join(one, other, NAMES)


def _library(file: Path, truncation: Truncation, max_length: int) -> Any:
    from tokenizers import Tokenizer

    tokenizer: Any = Tokenizer.from_file(str(file))
    tokenizer.enable_truncation(max_length, strategy=truncation)
    return tokenizer


@settings(deadline=None, max_examples=60)
@given(TEXTS, TEXTS, LENGTHS, st.sampled_from(["longest_first", "only_first"]))
def test_a_pair_is_what_the_tokenizers_library_makes_of_it(
    file: Path, first: str, second: str, max_length: int, truncation: Truncation
) -> None:
    encoder = _encoder(file, truncation, max_length=max_length)
    try:
        expected = _library(file, truncation, max_length).encode(first, second)
    except Exception:  # the library's word for a text that is too long and may not be cut
        with pytest.raises(InputError, match="is too long: it leaves no room for the other text"):
            _joined(encoder, first, second)
        return
    found = _joined(encoder, first, second)
    assert found.ids == expected.ids
    assert found.type_ids == expected.type_ids
    assert len(found) == len(expected.ids) <= max_length
    assert found.truncated == bool(expected.overflowing)


def test_of_two_texts_over_the_longest_input_the_longer_one_keeps_the_odd_token(file: Path) -> None:
    """Both are cut to the longest input first, and have to remember which was longer."""
    texts = ["film " * 90, "film " * 60]
    for max_length in (16, 17):
        encoder = _encoder(file, max_length=max_length)
        library = _library(file, "longest_first", max_length)
        for one, other in (texts, texts[::-1]):
            assert _joined(encoder, one, other).ids == library.encode(one, other).ids


def test_a_text_that_may_not_be_cut_and_leaves_no_room_is_named(file: Path) -> None:
    for length in (20, 90):  # under the longest input by itself, and over
        with pytest.raises(InputError) as caught:
            _joined(_encoder(file, "only_first", max_length=22), "film", "film " * length)
        assert caught.value.message == (
            "the other is too long: it leaves no room for the other text within the 22 tokens "
            "that the model reads at once"
        )
        assert caught.value.hint == "shorten it"


def test_a_pair_that_is_too_long_is_refused_where_the_bundle_says_so(file: Path) -> None:
    encoder = _encoder(file, on_long_text="refuse", max_length=24)
    assert not _joined(encoder, "film", "good").truncated
    with pytest.raises(InputError, match=r"^the one with the other has about") as caught:
        _joined(encoder, "film " * 11, "film " * 11)
    assert "text.on_long_text: truncate" in str(caught.value.hint)
    assert "tokens; this bundle takes up to 24" in caught.value.message


def test_both_texts_are_checked_under_their_names(file: Path) -> None:
    encoder = _encoder(file, max_characters=20)
    for bad, problem in (
        (" ", "the other is empty"),
        ("x" * 21, "the other has 21 characters; this bundle takes up to 20"),
        ("a\udc00", "the other is not Unicode text"),
        (None, "the other is of type NoneType"),
    ):
        with pytest.raises(InputError, match=f"^{problem}"):
            encoder.parts(["film", bad], NAMES.__getitem__)  # type: ignore[list-item]


def test_an_input_too_short_for_two_texts_is_a_fault_of_the_bundle(file: Path) -> None:
    with pytest.raises(BundleError, match="4 tokens are too few for two texts") as caught:
        _encoder(file, max_length=4).parts(["film"], NAMES.__getitem__)
    assert caught.value.hint == "build with a higher text.max_length"


def test_a_tokenizer_that_turns_the_texts_around_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, processors

    tokenizer: Any = Tokenizer.from_str(KINDS["wordpiece"]())
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $B [SEP] $A [SEP]",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.save(str(tmp_path / "odd.json"))
    with pytest.raises(BundleError, match="does not join two texts as the first and then"):
        _encoder(tmp_path / "odd.json").parts(["film"], NAMES.__getitem__)


def test_a_tokenizer_without_special_tokens_joins_texts_bare(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, processors

    tokenizer: Any = Tokenizer.from_str(KINDS["wordpiece"]())
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A", pair="$A $B:1", special_tokens=[]
    )
    tokenizer.save(str(tmp_path / "bare.json"))
    joined = _joined(_encoder(tmp_path / "bare.json"), "film film", "good")
    expected = tokenizer.encode("film film", "good")
    assert (joined.ids, joined.type_ids) == (expected.ids, [0, 0, 1])


def test_ten_thousand_pairs_share_a_long_text(file: Path) -> None:
    encoder = _encoder(file, "only_first", max_length=512)
    (text,) = encoder.parts(["film " * 600], NAMES.__getitem__)
    texts = ["good " * (1 + number % 7) for number in range(10_000)]
    labels = encoder.parts(texts, str)
    pairs = [encoder.join(text, label, NAMES) for label in labels]
    assert all(len(pair) == 512 for pair in pairs)
    # Lists of their own would be 4 kB of pointers each.
    assert max(map(sys.getsizeof, pairs)) < 200
    library = _library(file, "only_first", 512)
    for pair, label in zip(pairs[:7], texts, strict=False):
        assert pair.ids == library.encode("film " * 600, label).ids


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(2, 50))
def test_the_longer_of_two_is_cut_first(first: int, second: int, room: int) -> None:
    kept = room_for(first, second, room, "longest_first")
    assert kept is not None
    assert kept[0] <= first
    assert kept[1] <= second
    assert sum(kept) == min(first + second, room)
    if sum(kept) < first + second:
        assert min(kept) == min(first, second, room // 2)
