"""Texts of an exact number of tokens, and inputs of each task made of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from lepton_edge import load
from lepton_edge.benchmark.cases import Workload, count_tokens, lengths_of, made_workloads
from lepton_edge.benchmark.inputs import examples, mixed, texts_of
from lepton_edge.benchmark.report import BenchSettings
from lepton_edge.bundle import Bundle
from lepton_edge.errors import InputError
from lepton_edge.tasks import SESSION_TASKS
from lepton_edge.testing import word_tokenizer
from tests.core.parts import byte_tokenizer

Bundles = Callable[..., Bundle]


def _tokenizer(text: str) -> Any:
    tokenizer: Any = Tokenizer.from_str(text)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


CONFIGS = {
    "token-classification": {"labels": ["O", "B-PER", "I-PER"], "stride": None},
    "question-answering": {"window": 24, "stride": 4},
}
WORDS, BYTES = _tokenizer(word_tokenizer()), _tokenizer(byte_tokenizer())


def han_tokenizer() -> Any:
    """A tokenizer of another script: one token a character, none added."""
    from tokenizers import models, pre_tokenizers

    letters = {"[UNK]": 0, **{chr(0x4E00 + n): n + 1 for n in range(200)}}
    tokenizer: Any = Tokenizer(models.WordLevel(letters, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return tokenizer


@settings(deadline=None, max_examples=25)
@given(st.integers(3, 300))
def test_texts_have_the_tokens_asked_for(tokens: int) -> None:
    for tokenizer in (WORDS, BYTES):
        found = texts_of(tokenizer, 3, tokens)
        assert [len(tokenizer.encode(text)) for text in found] == [tokens] * 3
        assert all(text.strip() for text in found)


def test_texts_are_the_same_each_time_and_differ_from_each_other() -> None:
    assert texts_of(WORDS, 8, 20) == texts_of(WORDS, 8, 20)
    assert len(set(texts_of(WORDS, 8, 20))) == 8


def test_another_script_makes_texts_too() -> None:
    tokenizer = han_tokenizer()
    (text,) = texts_of(tokenizer, 1, 40)
    assert len(tokenizer.encode(text)) == 40
    assert any("\u4e00" <= letter <= "\u9fff" for letter in text)


def test_mixed_texts_lie_between_the_ends() -> None:
    lengths = [len(WORDS.encode(text)) for text in mixed(WORDS, 60, 5, 12)]
    assert set(lengths) == set(range(5, 13))


def test_a_length_that_no_text_has_is_refused() -> None:
    with pytest.raises(InputError, match="no text of 2 tokens can be made") as caught:
        texts_of(WORDS, 1, 2)  # [CLS] and [SEP] alone are two
    assert "adds 2 tokens to every text" in str(caught.value)
    assert "--texts FILE" in str(caught.value)


def test_lengths_end_with_the_longest() -> None:
    assert lengths_of(BenchSettings(), 512) == (8, 32, 128, 512)
    assert lengths_of(BenchSettings(), 128) == (8, 32, 128)
    assert lengths_of(BenchSettings(), 6) == (6,)
    assert lengths_of(BenchSettings(lengths=(16, 4, 16)), 32) == (4, 16)


def test_a_length_that_the_bundle_does_not_take_is_refused() -> None:
    with pytest.raises(InputError, match="texts of 64 tokens cannot be measured") as caught:
        lengths_of(BenchSettings(lengths=(8, 64)), 32)
    assert "takes up to 32 tokens" in str(caught.value)


def test_batches_are_whole_and_go_through_the_texts() -> None:
    work = Workload(None, ("a", "b", "c", "d", "e"))
    assert work.batches(1) == [["a"], ["b"], ["c"], ["d"], ["e"]]
    assert work.batches(2) == [["a", "b"], ["c", "d"]]
    assert work.batches(7) == [["a", "b", "c", "d", "e", "a", "b"]]


def test_made_up_workloads_have_several_batches_of_the_largest_size() -> None:
    short, long = made_workloads(WORDS, [4, 9], [1, 16])
    assert (short.length, long.length) == (4, 9)
    assert len(long.batches(16)) == 4
    assert len({tuple(batch) for batch in long.batches(16)}) == 4


@pytest.mark.parametrize("name", SESSION_TASKS)
def test_every_task_answers_inputs_made_of_texts(fake_bundle: Bundles, name: str) -> None:
    with load(fake_bundle(task=name, task_config=CONFIGS.get(name)).path) as model:
        texts = texts_of(WORDS, 3, 12)
        inputs, parameters = examples(model, texts)
        assert len(inputs) == 3
        assert len(model(inputs, **parameters)) == 3
        assert count_tokens(model, inputs, parameters) >= 36


def test_tokens_are_counted_without_padding(fake_bundle: Bundles) -> None:
    with load(fake_bundle().path) as model:
        assert count_tokens(model, ["w1"], {}) == 3
        assert count_tokens(model, ["w1", "w1 w2 w3 w4"], {}) == 3 + 6
        assert count_tokens(model, ["w1 " * 500], {}) == 32  # cut at the bundle's length
