"""Text to tensors: what is refused, what is cut, and how batches are laid out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_edge.bundle.manifest import Text
from lepton_edge.errors import BundleError, InputError
from lepton_edge.runtime.batching import Batch
from lepton_edge.runtime.text import TextEncoder, check_inputs, takes_padding
from lepton_edge.testing import word_tokenizer
from tests.core.parts import IDS, MASK, TYPES, byte_encoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("text")


def _words(folder: Path, **text: Any) -> TextEncoder:
    file = folder / "words.json"
    file.write_text(word_tokenizer(), encoding="utf-8")
    limits = {"max_length": 8, "on_long_text": "truncate", "max_characters": 2000, "pad_id": 0}
    return TextEncoder(file, Text(**{**limits, **text}))


@pytest.mark.parametrize("text", ["", " ", "\n\t ", "\u2003\u00a0"])
def test_an_empty_text_is_refused_with_its_position(folder: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"^text 3 is empty") as caught:
        _words(folder).encode(["w1", "w2", text])
    assert caught.value.hint == "leave empty texts out"


@pytest.mark.parametrize(
    ("text", "kind"),
    [(None, "NoneType"), (7, "int"), (b"w1", "bytes"), (["w1"], "list"), (1.5, "float")],
)
def test_what_is_not_a_string_is_refused_with_its_type_and_position(
    folder: Path, text: Any, kind: str
) -> None:
    with pytest.raises(InputError, match=rf"^text 2 is of type {kind}: a model takes text \(str\)"):
        _words(folder).encode(["w1", text])


@pytest.mark.parametrize("others", [0, 2])
def test_a_lone_surrogate_is_refused_with_its_place(folder: Path, others: int) -> None:
    with pytest.raises(InputError) as caught:
        _words(folder).encode([*["w1"] * others, "ab\ud83d c"])
    expected = rf"text {others + 1} is not Unicode text: .*'\\ud83d' at character 3"
    assert re.match(expected, caught.value.message)
    assert "errors='replace'" in str(caught.value.hint)


def test_positions_count_from_where_the_caller_says(folder: Path) -> None:
    encoder = _words(folder, on_long_text="refuse", max_characters=100)
    for text in ("", "w " * 20, "x" * 101, "\udc00", None):
        with pytest.raises(InputError, match=r"^text 4098 "):
            encoder.encode(["w1", text], 4097)  # type: ignore[list-item]


def test_a_megabyte_is_refused_with_both_numbers(folder: Path) -> None:
    with pytest.raises(InputError) as caught:
        _words(folder).encode(["w1 " * 350_000])
    assert "text 1 has 1,050,000 characters; this bundle takes up to 2,000" in str(caught.value)
    assert "text.max_characters" in str(caught.value.hint)


def test_a_text_of_the_most_characters_is_taken(folder: Path) -> None:
    assert len(_words(folder).encode(["x" * 2000])[0]) == 3


def test_a_megabyte_that_the_bundle_allows_is_cut(folder: Path) -> None:
    (encoding,) = _words(folder, max_characters=2_000_000).encode(["w1 " * 350_000])
    assert len(encoding) == 8
    assert encoding.truncated


def test_a_text_of_the_longest_length_is_whole_and_one_token_more_is_cut(folder: Path) -> None:
    whole, cut = _words(folder).encode(["w1 w2 w3 w4 w5 w6", "w1 w2 w3 w4 w5 w6 w7"])
    assert whole.ids == cut.ids  # both with the special tokens at the ends
    assert not whole.truncated
    assert cut.truncated


def test_a_long_text_is_refused_with_both_numbers_where_the_bundle_says_so(folder: Path) -> None:
    encoder = _words(folder, on_long_text="refuse")
    assert len(encoder.encode(["w1 w2 w3 w4 w5 w6"])[0]) == 8
    with pytest.raises(InputError) as caught:
        encoder.encode(["w1", "w " * 18])
    found = re.match(
        r"text 2 has about (\d+) tokens; this bundle takes up to 8$", caught.value.message
    )
    assert found
    assert 20 <= int(found[1]) <= 26  # 18 words and the special tokens of each part
    assert "text.on_long_text: truncate" in str(caught.value.hint)


@pytest.mark.parametrize(
    "text",
    [
        "🙂👩‍👩‍👧",
        "我的卡在哪里",
        "אבגד",
        "مرحبا",
        "e\u0301",
        "\u200b",
        "\x00",
        "w1\x00w2",
        "\ufeffw1",
        "\U0010ffff",
    ],
)
def test_any_script_becomes_tokens(folder: Path, text: str) -> None:
    alone = byte_encoder(folder, max_length=512).encode([text])[0]
    among = byte_encoder(folder, max_length=512).encode(["w1", text, "w2"])[1]
    assert alone.ids == among.ids
    assert len(alone) == 1 + len(text.encode())


@settings(deadline=None, max_examples=100)
@given(st.lists(st.text(min_size=1, max_size=12).filter(str.strip), min_size=1, max_size=6))
def test_tokens_of_a_text_do_not_depend_on_its_neighbours(folder: Path, texts: list[str]) -> None:
    encoder = byte_encoder(folder)
    together = [encoding.ids for encoding in encoder.encode(texts)]
    assert together == [encoder.encode([text])[0].ids for text in texts]
    for text, ids in zip(texts, together, strict=True):
        assert len(ids) == min(16, 1 + len(text.encode()))


def test_feeds_are_padded_on_the_right_with_the_bundles_token(folder: Path) -> None:
    encoder = byte_encoder(folder, pad_id=9)
    encodings = encoder.encode(["abcd", "a", "ab"])
    feeds = encoder.feeds(encodings, Batch((2, 0), 6), (MASK, TYPES, IDS))
    assert list(feeds) == ["attention_mask", "token_type_ids", "input_ids"]
    np.testing.assert_array_equal(
        feeds["input_ids"], [[*encodings[2].ids, 9, 9, 9], [*encodings[0].ids, 9]]
    )
    np.testing.assert_array_equal(feeds["attention_mask"], [[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0]])
    np.testing.assert_array_equal(feeds["token_type_ids"], [[0, 1, 1, 0, 0, 0], [0, 1, 1, 1, 1, 0]])
    assert all(array.flags.c_contiguous for array in feeds.values())


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_feeds_have_the_dtype_of_the_session(folder: Path, dtype: str) -> None:
    encoder = _words(folder)
    spec = type(IDS)("input_ids", dtype, IDS.shape)
    assert encoder.feeds(encoder.encode(["w1"]), Batch((0,), 8), [spec])["input_ids"].dtype == dtype


def test_only_the_inputs_of_the_session_are_made(folder: Path) -> None:
    encoder = _words(folder)
    assert list(encoder.feeds(encoder.encode(["w1"]), Batch((0,), 3), [IDS])) == ["input_ids"]


@pytest.mark.parametrize("data", [b"", b"{}", b"not json", b"\xff\xfe", b'{"model": {}}'])
def test_a_damaged_tokenizer_is_a_bundle_error_that_names_it(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_bytes(data)
    with pytest.raises(BundleError, match="is not a tokenizer that can be read") as caught:
        TextEncoder(file, Text(8, "truncate", 100, 0))
    assert str(file) in caught.value.message
    assert caught.value.hint == "build the bundle again"


def test_an_input_that_text_does_not_give_is_named() -> None:
    pixels = type(IDS)("pixel_values", "float32", ("batch", 3))
    check_inputs([IDS, MASK, TYPES])
    with pytest.raises(BundleError, match="the model takes pixel_values; text gives input_ids"):
        check_inputs([IDS, pixels])


def test_a_model_takes_padding_only_with_a_mask() -> None:
    assert takes_padding([IDS, MASK])
    assert not takes_padding([IDS, TYPES])


def test_a_text_without_a_token_is_refused(folder: Path) -> None:
    """A tokenizer without special tokens can drop all of a text."""
    from tokenizers import Tokenizer, models, normalizers

    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "w1": 1}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Replace("\u200b", "")
    file = folder / "plain.json"
    file.write_text(tokenizer.to_str(), encoding="utf-8")
    encoder = TextEncoder(file, Text(8, "truncate", 2000, 0))
    with pytest.raises(InputError, match=r"^text 2 has no token"):
        encoder.encode(["w1", "\u200b"])
    with pytest.raises(InputError, match=r"^text 1 has no token"):
        encoder.encode(["\u200b"])
