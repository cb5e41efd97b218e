"""Fill-mask: the tokens, their scores and places, the texts that they make, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_edge import FilledMasks, Model, load
from lepton_edge.builder.quality.metrics import metric_of
from lepton_edge.bundle import Bundle
from lepton_edge.bundle.manifest import Text
from lepton_edge.cli.output import to_json
from lepton_edge.errors import BundleError, InputError, SourceError
from lepton_edge.runtime.files import run_file
from lepton_edge.runtime.text import TextEncoder
from lepton_edge.tasks.base import Facts
from lepton_edge.tasks.fill_mask import (
    FillMask,
    FillMaskConfig,
    FillMaskOptions,
    Mask,
    Prediction,
    _best,
)
from tests.core.parts import fails, invoke, printed, rewrite
from tests.kinds import KINDS

Bundles = Callable[..., Bundle]
PIECES = st.sampled_from(
    ["{}", " {}", "{} ", "film", "größe", "e\u0301", "🙂👩\u200d👧", "我的卡", "مرحبا", " ", "\n"]
)
MASKS = {"wordpiece": "[MASK]", "byte-level": "<mask>", "unigram": "<mask>"}


@pytest.fixture
def model(fake_bundle: Bundles) -> Model:
    return load(fake_bundle(task="fill-mask").path)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TextEncoder]:
    """An encoder of each kind, as fill-mask has it."""
    folder = tmp_path_factory.mktemp("kinds")
    task = FillMask(FillMaskConfig("[MASK]"))
    made = {}
    for kind, tokenizer in KINDS.items():
        file = folder / f"{kind}.json"
        file.write_text(tokenizer(), encoding="utf-8")
        made[kind] = TextEncoder(file, Text(128, "truncate", 2000, 0), task.tokenization())
    return made


def _fill(encoder: TextEncoder, mask: str, text: str, *tokens: str) -> FilledMasks:
    """The result where the logits, which were not computed, favour these tokens, in this order."""
    task = FillMask(FillMaskConfig(mask))
    asked = task.parameters({"top_k": len(tokens)})
    ((sequence,),) = task.tokenize([text], encoder, asked, 1)
    logits = np.zeros((1, len(sequence) + 3, 400), dtype=np.float32)  # padded
    for rank, token in enumerate(tokens):
        place = encoder.token_of(token)
        assert place is not None, token
        logits[..., place] = len(tokens) - rank
    values = task.read({"logits": logits}, [sequence], asked)
    return task.result(text, [sequence], values[0:1], asked)


def _texts(result: FilledMasks) -> list[str]:
    (mask,) = result.masks
    return [prediction.text for prediction in mask.predictions]


def test_predictions_are_the_best_of_the_softmax_at_the_mask(model: Model) -> None:
    (mask,) = model("w1 [MASK] w2", top_k=105).masks
    ids = np.array([[model.encoder.token_of("[MASK]")]])
    logits = model.session.infer({"input_ids": ids, "attention_mask": np.ones_like(ids)})["logits"]
    expected = np.exp(logits[0, 0]) / np.exp(logits[0, 0]).sum()
    order = (-expected).argsort(kind="stable")
    assert [p.token for p in mask.predictions] == [
        model.encoder._tokenizer.id_to_token(i) for i in order
    ]
    np.testing.assert_allclose([p.score for p in mask.predictions], expected[order], rtol=1e-5)
    best = mask.predictions[0]
    assert best.text == f"w1 {best.token} w2"


@pytest.mark.parametrize(("top_k", "count"), [(1, 1), (7, 7), (500, 105)])
def test_top_k_limits_the_predictions(model: Model, top_k: int, count: int) -> None:
    assert len(model("w1 [MASK]", top_k=top_k).masks[0].predictions) == count
    assert len(model("w1 [MASK]").masks[0].predictions) == 5


def test_every_mask_has_its_own_predictions_and_others_stay(model: Model) -> None:
    text = "[MASK] w1 [MASK]"
    first, second = model(text, top_k=1).masks
    assert (first.start, first.end, second.start, second.end) == (0, 6, 10, 16)
    assert first.predictions[0].text == f"{first.predictions[0].token} w1 [MASK]"
    assert second.predictions[0].text == f"[MASK] w1 {second.predictions[0].token}"


@settings(deadline=None, max_examples=60)
@given(st.lists(PIECES, max_size=12), st.sampled_from(sorted(KINDS)))
def test_a_mask_is_found_in_the_text_as_it_was_given(
    encoders: dict[str, TextEncoder], pieces: list[str], kind: str
) -> None:
    mask = MASKS[kind]
    text = "".join([*pieces, "{}"]).replace("{}", mask)
    result = _fill(encoders[kind], mask, text, mask)
    places = [(each.start, each.end) for each in result.masks]
    assert [text[start:end] for start, end in places] == [mask] * text.count(mask)
    assert [start for start, _ in places] == sorted({start for start, _ in places})


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("wordpiece", "My [MASK], Größe!", {"card": "My card, Größe!", "##s": "Mys, Größe!"}),
        ("wordpiece", "[MASK] film", {"my": "my film", "##s": "s film"}),
        ("wordpiece", "我[MASK]卡 🙂", {"的": "我的卡 🙂"}),
        ("wordpiece", "un[MASK] ([MASK]", {}),
        ("byte-level", "My <mask>, Größe!", {"Ġcard": "My card, Größe!", "card": "Mycard, Größe!"}),
        ("byte-level", "is<mask>.", {"Ġcard": "is card.", "card": "iscard."}),
        ("byte-level", "<mask> film", {"Ġmy": "my film", "my": "my film"}),
        ("byte-level", "👍\n<mask> film", {"Ġmy": "👍\nmy film"}),
        ("unigram", "My <mask>, Größe!", {"▁card": "My card, Größe!", "y": "Myy, Größe!"}),
        ("unigram", "<mask> film", {"▁bank": "bank film"}),
        ("unigram", "我<mask>卡", {"的": "我的卡"}),
    ],
)
def test_a_token_is_put_where_the_tokenizer_would_put_it(
    encoders: dict[str, TextEncoder], kind: str, text: str, expected: dict[str, str]
) -> None:
    if expected:
        result = _fill(encoders[kind], MASKS[kind], text, *expected)
        assert _texts(result) == list(expected.values())
    else:
        masks = _fill(encoders[kind], MASKS[kind], text, "card").masks
        assert [mask.predictions[0].text for mask in masks] == ["uncard ([MASK]", "un[MASK] (card"]


def test_a_token_has_its_text_with_the_tokenizers_marks(encoders: dict[str, TextEncoder]) -> None:
    for kind, token, text in (
        ("wordpiece", "##s", "##s"),
        ("byte-level", "Ġcard", " card"),
        ("unigram", "▁card", "card"),
    ):
        mask = MASKS[kind]
        (found,) = _fill(encoders[kind], mask, f"my {mask}", token).masks
        assert found.predictions[0].token == text


def test_targets_are_all_that_is_chosen_from(model: Model) -> None:
    (everything,) = model("w1 [MASK]", top_k=105).masks
    scores = {each.token: each.score for each in everything.predictions}
    (mask,) = model("w1 [MASK]", targets=["w7", "w3", "w9"]).masks
    assert {each.token for each in mask.predictions} == {"w3", "w7", "w9"}
    for each in mask.predictions:  # of the whole vocabulary, not of the targets
        assert each.score == pytest.approx(scores[each.token], rel=1e-6)
    assert len(model("w1 [MASK]", targets=["w7", "w3", "w9"], top_k=2).masks[0].predictions) == 2


@pytest.mark.parametrize(
    ("kind", "word", "token"),
    [
        ("wordpiece", "card", "card"),
        ("wordpiece", "Card", "card"),
        ("wordpiece", "##s", "##s"),
        ("wordpiece", "我", "我"),
        ("byte-level", "card", " card"),
        ("byte-level", " card", " card"),
        ("byte-level", "Ġcard", " card"),
        ("unigram", "card", "card"),
        ("unigram", "▁card", "card"),
    ],
)
def test_a_target_is_a_word_inside_a_sentence(
    encoders: dict[str, TextEncoder], kind: str, word: str, token: str
) -> None:
    encoder, task = encoders[kind], FillMask(FillMaskConfig(MASKS[kind]))
    asked = task.parameters({"targets": [word]})
    ((sequence,),) = task.tokenize([f"my {MASKS[kind]}"], encoder, asked, 1)
    values = task.read({"logits": np.zeros((1, 8, 400), np.float32)}, [sequence], asked)
    (mask,) = task.result(f"my {MASKS[kind]}", [sequence], values, asked).masks
    assert [each.token for each in mask.predictions] == [token]
    assert mask.predictions[0].text.casefold() in (f"my {token.strip()}", "mys")


@pytest.mark.parametrize(
    ("targets", "problem"),
    [
        ("w1", "targets is of type str: a list of words"),
        ({"w1"}, "targets is of type set"),
        ([], "targets is empty"),
        (["w1", 3], "target 2 is of type int: a word"),
        (["w1", " "], "target 2 (' ') is empty"),
        (["w1", "w2 w3"], "target 2 ('w2 w3') is 2 tokens of the model: a mask takes one token"),
        (["w1", "größe"], "target 2 ('größe') is not in the model's vocabulary"),
        (["w1", "größe w1"], "target 2 ('größe w1') is not in the model's vocabulary"),
        (["w1", "w2", "w1 "], "target 3 ('w1 ') is the same token as target 1 ('w1')"),
        (["\ud83d"], "target 1 ('\\ud83d') is not Unicode text"),
    ],
)
def test_targets_that_are_no_tokens_are_refused_by_name(
    model: Model, targets: Any, problem: str
) -> None:
    with pytest.raises(InputError) as caught:
        model("w1 [MASK]", targets=targets)
    assert caught.value.message.startswith(problem)


@pytest.mark.parametrize("top_k", [0, -1, 2.0, "3", None, True])
def test_a_top_k_that_is_no_count_is_refused(model: Model, top_k: Any) -> None:
    with pytest.raises(InputError) as caught:
        model("w1 [MASK]", top_k=top_k)
    assert caught.value.message == f"top_k is {top_k!r}: it is a number from 1"


@pytest.mark.parametrize("text", ["w1 w2", "w1 <mask>", "w1 [mask]", "w1 MASK"])
def test_a_text_without_the_models_own_mask_is_refused_with_an_example(
    model: Model, text: str
) -> None:
    with pytest.raises(InputError) as caught:
        model(["w1 [MASK]", text])
    assert caught.value.message == "text 2 has no [MASK], which is what the model fills in"
    assert caught.value.hint == "put it in a word's place: 'The capital of France is [MASK].'"


def test_a_mask_that_is_cut_away_is_refused(fake_bundle: Bundles) -> None:
    model = load(fake_bundle(task="fill-mask", max_length=8).path)
    last, gone = "w1 " * 5 + "[MASK]", "w1 " * 6 + "[MASK]"
    assert len(model(last).masks) == 1
    for text in (gone, f"[MASK] {gone}", "w1 " * 90 + "[MASK]"):
        with pytest.raises(InputError) as caught:
            model(["[MASK]", text])
        assert caught.value.message == (
            "text 2 is longer than the 8 tokens that the model reads, and has a [MASK] after them"
        )
    result = model(f"[MASK] {'w1 ' * 90}w2", top_k=1)
    assert result.truncated
    assert result.masks[0].predictions[0].text.endswith("w1 w2")  # all of it
    assert str(result).endswith("(text truncated)")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (7, "text 2 is of type int"),
        ("  ", "text 2 is empty"),
        ("[MASK] a\udc00", "text 2 is not Unicode text"),
        ("[MASK] " + "w1 " * 4000, "text 2 has 12,007 characters; this bundle takes up to 10,000"),
    ],
)
def test_a_text_at_fault_is_named_by_its_position(model: Model, text: Any, problem: str) -> None:
    with pytest.raises(InputError) as caught:
        model(["w1 [MASK]", text])
    assert caught.value.message.startswith(problem)


def test_a_long_text_is_refused_where_the_bundle_says_so(fake_bundle: Bundles) -> None:
    model = load(fake_bundle(task="fill-mask", max_length=8, on_long_text="refuse").path)
    with pytest.raises(InputError, match=r"^text 1 has about 1\d tokens; this bundle takes up"):
        model("[MASK] " + "w1 " * 8)


def test_texts_together_answer_as_they_do_alone(model: Model) -> None:
    texts = [f"{'w1 ' * (n % 17)}[MASK] w{n}{' [MASK]' * (n % 3)}" for n in range(50)]
    for text, together in zip(texts, model(texts), strict=True):
        alone = model(text)
        for one, other in zip(alone.masks, together.masks, strict=True):
            assert [each.text for each in one.predictions] == [e.text for e in other.predictions]
            assert [each.score for each in one.predictions] == pytest.approx(
                [each.score for each in other.predictions], rel=1e-6
            )


def test_only_the_best_tokens_are_kept(model: Model) -> None:
    task, encoder = model.task, model.encoder
    asked = task.parameters({})
    ((sequence,),) = task.tokenize(["w1 [MASK] [MASK]"], encoder, asked, 1)
    (value,) = task.read({"logits": np.zeros((1, 8, 105), np.float32)}, [sequence], asked)
    assert value == [[(n, pytest.approx(1 / 105)) for n in range(5)]] * 2  # equal: the first ones


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.integers(1, 40), st.booleans())
def test_the_best_are_those_of_a_whole_sort(numbers: list[int], top_k: int, some: bool) -> None:
    logits = np.array(numbers, dtype=np.float32)
    ids = list(range(0, len(numbers), 2))[::-1] if some else list(range(len(numbers)))
    expected = sorted(ids, key=lambda token: -numbers[token])[:top_k]
    assert [token for token, _ in _best(logits, ids if some else None, top_k)] == expected


def test_the_mask_token_is_the_recipes_or_the_sources() -> None:
    facts = Facts(mask_token="<mask>")
    assert FillMask.configure(FillMaskOptions(), facts) == FillMaskConfig("<mask>")
    assert FillMask.configure(FillMaskOptions("[M]"), facts) == FillMaskConfig("[M]")
    with pytest.raises(SourceError, match="tokenizer names no mask token") as caught:
        FillMask.configure(FillMaskOptions(), Facts())
    assert "task_options: {mask_token: '[MASK]'}" in str(caught.value.hint)


def test_a_bundle_whose_tokenizer_has_no_such_token_says_so(fake_bundle: Bundles) -> None:
    bundle = rewrite(fake_bundle(task="fill-mask"), task_config={"mask_token": "<mask>"})
    with load(bundle.path) as model, pytest.raises(BundleError) as caught:
        model("w1 <mask>")
    assert caught.value.message == "the tokenizer has no token '<mask>'"


def test_a_result_prints_a_line_a_token() -> None:
    predictions = (Prediction(" card", 0.4567, "a card"), Prediction("##s", 0.01, "as"))
    one = FilledMasks((Mask(2, 8, predictions),))
    assert str(one) == " 45.7%  card\n  1.0%  ##s"
    two = FilledMasks((Mask(2, 8, predictions), Mask(9, 15, predictions[:1])), True)
    assert str(two) == ("mask 1\n 45.7%  card\n  1.0%  ##s\nmask 2\n 45.7%  card\n(text truncated)")


def test_a_result_is_plain_json(model: Model) -> None:
    data = json.loads(to_json(model("größe [MASK]", top_k=2)))
    assert list(data) == ["masks", "truncated"]
    ((first, _),) = (mask["predictions"] for mask in data["masks"])
    assert list(first) == ["token", "score", "text"]
    assert data["masks"][0]["start"] == 6


def test_examples_have_a_mask_that_no_truncation_reaches(fake_bundle: Bundles) -> None:
    model = load(fake_bundle(task="fill-mask", max_length=4).path)
    inputs, parameters = model.task.examples(["w1", "w1 " * 90])
    assert inputs[0] == "[MASK] w1"
    assert len(model(inputs)) == 2
    assert parameters == model.task.parameters({})
    model.warm_up()


def test_labels_to_compare_are_the_best_token_at_each_place(model: Model) -> None:
    logits = np.array([[0, 2, 1], [5, 1, 1]], dtype=np.float32)
    np.testing.assert_array_equal(model.task.labels_of({"logits": logits}), [[1], [0]])


def test_a_file_gets_its_masks_filled(model: Model, tmp_path: Path) -> None:
    source, output = tmp_path / "in.csv", tmp_path / "out.jsonl"
    source.write_text("body\nw1 [MASK]\n[MASK] größe\n")
    assert run_file(model, source, output, columns={"text": "body"}, top_k=1) == 2
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert rows[1]["body"] == "[MASK] größe"
    assert rows[1]["masks"][0]["predictions"][0]["text"].endswith(" größe")
    source.write_text("body\nw1 [MASK]\nw2\n")
    with pytest.raises(InputError, match=r"in\.csv:3: 'body' has no \[MASK\], which is what"):
        run_file(model, source, output, columns={"text": "body"}, force=True)


def test_the_metric_compares_the_first_token_of_each_mask(model: Model) -> None:
    metric = metric_of(model.task, None)
    result = model("w1 [MASK] [MASK]")
    best = [mask.predictions[0].token for mask in result.masks]
    assert metric.right(metric.gold({"label": [f" {token}" for token in best]}), [result])
    assert not metric.right(metric.gold({"label": [best[0], "w99"]}), [result])
    assert metric.gold({"label": "w1"}) == ["w1"]


def test_the_command_line_fills_masks(fake_bundle: Bundles) -> None:
    path = fake_bundle(task="fill-mask").path
    with load(path) as model:
        expected = model("w1 [MASK]", top_k=2)
    assert invoke("run", path, "w1 [MASK]", "--top-k", 2).stdout == f"{expected}\n"
    (row,) = printed("run", path, "w1 [MASK]", "-p", 'targets=["w3", "w4"]')
    tokens = {each["token"] for each in row["result"]["masks"][0]["predictions"]}
    assert tokens == {"w3", "w4"}
    assert "text 1 has no [MASK]" in fails("run", path, "w1")
    assert "targets is of type str" in fails("run", path, "w1 [MASK]", "-p", "targets=w3")
