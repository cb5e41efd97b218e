"""Answers held to a grammar by openvino-genai: as valid, and the same ones, as in the core's own
loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("lepton_edge_openvino", reason="the OpenVINO backend is not installed")
pytest.importorskip("openvino_genai", reason="openvino-genai is not installed")
pytest.importorskip("torch", reason="torch is not installed")

from lepton_edge_openvino import OpenVINOBackend

from lepton_edge.backend import Generation, Generator, Vocabulary
from lepton_edge.builder.decoder import decoder_graph
from lepton_edge.errors import InputError
from lepton_edge.generation.grammar import GrammarTokens
from lepton_edge.generation.request import Grammar, Request
from lepton_edge.generation.sampling import Sampling
from lepton_edge.target import TARGETS
from tests.decoders import tiny_decoder
from tests.grammar_cases import CASES
from tests.grammars import (
    END,
    TOKENS,
    accepts,
    check_answer,
    json_schema,
    regex,
    regexes,
    schemas,
    write_tokenizer,
)

BACKEND = OpenVINOBackend()
# A model that has learnt nothing takes one token as often as another: what closes a text is there
# many times over, so that most end.
VOCABULARY = (*TOKENS, *[b'"', b"}", b"]"] * 15)


def opened(model: Any, tokens: Sequence[bytes], folder: Path, max_length: int) -> Generator:
    """A model of torch's, built in float32."""
    form = dataclasses.asdict(BACKEND.decoder)
    graph = dataclasses.replace(
        decoder_graph(model, attention=form["attention"], logits=form["logits"]),
        vocabulary=Vocabulary(tokens, (END,)),
    )
    made = BACKEND.build(graph, TARGETS["intel-cpu"], "fp32", BACKEND.Options(), folder)
    generation = Generation(max_length, folder / "tokenizer.json", cache_tokens=32_768)
    return BACKEND.load_generator(folder, made, generation)


def answered(generator: Generator, requests: Sequence[Request]) -> list[bytes | None]:
    """None for an answer that did not end."""
    found: list[bytes | None] = []
    for stream in generator.submit(requests):
        chunks = list(stream)
        tokens = [token for chunk in chunks for token in chunk.tokens]
        ended = chunks[-1].finish_reason == "stop"
        found.append(b"".join(VOCABULARY[token] for token in tokens) if ended else None)
    return found


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> GrammarTokens:
    """The core's own loop, with tokens of single bytes."""
    file = tmp_path_factory.mktemp("letters") / "tokenizer.json"
    return GrammarTokens(write_tokenizer(file, END + 1))


@pytest.fixture(scope="module")
def unlearnt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Generator]:
    """A model for which each token is about as likely as any other."""
    import torch

    model = tiny_decoder("llama", vocab_size=len(VOCABULARY))
    with torch.no_grad():
        model.lm_head.weight.mul_(0.05)
    generator = opened(model, VOCABULARY, tmp_path_factory.mktemp("unlearnt"), 128)
    yield generator
    generator.close()


def check_all(generator: Generator, letters: GrammarTokens, grammars: list[Grammar]) -> int:
    """Check an answer to each, and say how many ended."""
    sampled = [
        Request([1 + seed, 2], 120, frozenset({END}), Sampling(1.0, seed=seed), grammar=grammar)
        for seed, grammar in enumerate(grammars)
    ]
    answers = answered(generator, sampled)
    for grammar, answer in zip(grammars, answers, strict=True):
        if answer is not None:
            check_answer(grammar, answer)
            assert accepts(letters, grammar, answer)
    return sum(answer is not None for answer in answers)


@given(grammars=st.lists(schemas(), min_size=4, max_size=8))
@settings(deadline=None, max_examples=15)
def test_an_answer_is_valid_by_its_schema(
    unlearnt: Generator, letters: GrammarTokens, grammars: list[Grammar]
) -> None:
    check_all(unlearnt, letters, grammars)


@given(sources=st.lists(regexes(), min_size=4, max_size=8))
@settings(deadline=None, max_examples=15)
def test_an_answer_is_a_full_match(
    unlearnt: Generator, letters: GrammarTokens, sources: list[str]
) -> None:
    check_all(unlearnt, letters, [regex(source) for source in sources])


def test_an_answer_to_each_kind_of_schema_is_valid_and_ends(
    unlearnt: Generator, letters: GrammarTokens
) -> None:
    grammars = [json_schema(schema) for schema, _, _ in CASES for _ in range(4)]
    assert check_all(unlearnt, letters, grammars) > len(grammars) * 0.9


def test_a_grammar_that_no_answer_can_be_held_to_is_refused_before_any_is_begun(
    unlearnt: Generator,
) -> None:
    good = Request([1], 4, frozenset({END}), grammar=regex("[ab]{2}"))
    with pytest.raises(InputError, match="looks ahead"):
        unlearnt.submit([good, dataclasses.replace(good, grammar=regex("(?=a)"))])
    with pytest.raises(InputError, match="multipleOf"):
        unlearnt.submit([dataclasses.replace(good, grammar=json_schema({"multipleOf": 2}))])
    answer = answered(unlearnt, [good])[0]
    assert answer is not None
    check_answer(regex("[ab]{2}"), answer)


def test_a_text_that_is_known_is_given_whatever_is_in_it(unlearnt: Generator) -> None:
    # Digits follow each character: escapes of theirs must not be taken for a part of its own.
    texts = [
        "".join(f"{chr(number)}0aF{chr(number)}" for number in range(first, first + 8))
        for first in (*range(1, 0x180, 8), 0x7FC, 0x2028, 0xFFF8, 0x1F600)
    ]
    for text in texts:
        grammar = regex(
            "".join(f"\\u{ord(each):04x}" if ord(each) < 0x80 else each for each in text)
        )
        request = Request([1], 120, frozenset({END}), Sampling(1.0, seed=1), grammar=grammar)
        assert answered(unlearnt, [request]) == [text.encode()]


# What each answer of a case is begun at: a place in one text of all of them.
GOOD = [(json_schema(schema), text) for schema, good, _ in CASES for text in good]
BAD = [(json_schema(schema), text) for schema, _, bad in CASES for text in bad]


@pytest.fixture(scope="module")
def reciting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Generator]:
    """A model that goes on with a text that it knows by heart, by the place that it is at."""
    import torch

    tokens = [token for _, text in GOOD + BAD for token in (*text.encode(), END)]
    size = -(-len(tokens) // 8) * 8 + 8
    model = tiny_decoder(
        "gpt2",
        vocab_size=len(VOCABULARY),
        n_embd=size,
        n_layer=2,
        n_head=8,
        n_inner=8,
        n_positions=size,
        tie_word_embeddings=False,
    )
    with torch.no_grad():
        for name, weights in model.named_parameters():
            weights.zero_() if "ln_" not in name else None
        model.transformer.wpe.weight.copy_(torch.eye(size))
        for place, token in enumerate(tokens):
            model.lm_head.weight[token, place] = 1
    generator = opened(model, VOCABULARY, tmp_path_factory.mktemp("reciting"), size)
    yield generator
    generator.close()


def recited(generator: Generator, answers: list[tuple[Grammar, str]], start: int) -> list[Any]:
    requests = []
    for grammar, text in answers:
        length = len(text.encode()) + 1
        requests.append(Request([3] * (start + 1), length, frozenset({END}), grammar=grammar))
        start += length
    answered(generator, requests[-1:])  # the others' prompts begin this one's
    return answered(generator, requests)


def test_what_is_valid_may_be_given(reciting: Generator) -> None:
    found = recited(reciting, GOOD, 0)
    for (grammar, text), answer in zip(GOOD, found, strict=True):
        assert answer == text.encode(), grammar.source


def test_what_is_not_valid_may_not_be_given(reciting: Generator) -> None:
    start = sum(len(text.encode()) + 1 for _, text in GOOD)
    found = recited(reciting, BAD, start)
    for (grammar, text), answer in zip(BAD, found, strict=True):
        assert answer != text.encode(), grammar.source
