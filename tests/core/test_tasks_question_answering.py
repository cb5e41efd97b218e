"""Question answering: spans, windows, whole words and characters, 'no answer', and inputs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lepton_edge import Answer, Answers, Question, load
from lepton_edge.bundle import Bundle
from lepton_edge.bundle.manifest import Text
from lepton_edge.cli.output import to_json
from lepton_edge.errors import InputError, RecipeError
from lepton_edge.recipe import Recipe
from lepton_edge.runtime.files import run_file
from lepton_edge.runtime.text import TextEncoder
from lepton_edge.tasks.base import Facts
from lepton_edge.tasks.question_answering import (
    QuestionAnswering,
    QuestionAnsweringConfig,
    QuestionAnsweringOptions,
)
from tests.core.parts import fails, invoke, printed
from tests.extractive import best_spans
from tests.kinds import KINDS

Bundles = Callable[..., Bundle]
WINDOW, STRIDE = 40, 8
PIECES = st.sampled_from(
    [
        "film", "happier", "Filmgood.", "größe", "cafe\u0301", "Na\u0308chste", "e\u0323\u0302",
        "👩\u200d👧", "👍🏽", "🇩🇪🇫🇷", "❤\ufe0f", "我的卡", "متى يصل", "מָתַי", "한국",
        "\u1112\u1161\u11ab", "ﬁn", " ", "  ", "\t", "\n", ".", ", ", "Bank", "bank", "'s",
    ]
)  # fmt: skip
CONTEXTS = st.lists(PIECES | st.text(max_size=5), min_size=1, max_size=40).map(" ".join)

Logit = Callable[[int, int], tuple[float, float]]


def task(window: int = WINDOW, stride: int = STRIDE) -> QuestionAnswering:
    return QuestionAnswering(QuestionAnsweringConfig(window, stride))


def encoder(
    folder: Path, kind: str = "wordpiece", window: int = WINDOW, stride: int = STRIDE
) -> TextEncoder:
    file = folder / f"{kind}.json"
    file.write_text(KINDS[kind](), encoding="utf-8")
    limits = Text(128, "truncate", 200_000, 0)
    return TextEncoder(file, limits, task(window, stride).tokenization())


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TextEncoder]:
    """An encoder of each kind of tokenizer."""
    return {kind: encoder(tmp_path_factory.mktemp("kinds"), kind) for kind in KINDS}


def answers(
    encoder: TextEncoder, question: str, context: str, logits: Logit, **parameters: Any
) -> Answers:
    """The result where a token with an id at a place has these two logits."""
    made = task()
    asked = made.parameters(parameters)
    (windows,) = made.tokenize([Question(question, context)], encoder, asked, 1)
    longest = max(map(len, windows)) + 1  # a padded batch: what stands there is not read
    outputs = {name: np.full((len(windows), longest), 1e9, np.float32) for name in made.outputs}
    for row, tokens in enumerate(windows):
        for place, token in enumerate(tokens.ids):
            for array, logit in zip(outputs.values(), logits(token, place), strict=True):
                array[row, place] = logit
    values = made.read(outputs, windows, asked)
    result: Answers = made.result(Question(question, context), windows, values, asked)
    return result


def favouring(
    encoder: TextEncoder, start: str, end: str, start_logit: float = 8, end_logit: float = 8
) -> Logit:
    """High for these tokens, 0 for others; higher still where nobody may look."""
    first, last = encoder.token_of(start), encoder.token_of(end)
    assert None not in (first, last)
    special = {encoder.token_of("[SEP]")}

    def logits(token: int, place: int) -> tuple[float, float]:
        if token in special:
            return 50, 50
        return (start_logit if token == first else 0), (end_logit if token == last else 0)

    return logits


# One window. The WordPiece tokens of "berlin": be ##r ##l ##i ##n; of "bankers": bank ##er ##s.

CONTEXT = "The film was good, my card was late and the bankers change."


def test_the_best_span_is_cut_out_of_the_context(encoders: dict[str, TextEncoder]) -> None:
    used = encoders["wordpiece"]
    result = answers(used, "was it good?", CONTEXT, favouring(used, "my", "late"))
    start = CONTEXT.index("my")
    assert (result.answer, result.start, result.end) == ("my card was late", start, start + 16)
    assert result.top == (Answer(result.answer, result.score, result.start, result.end),)
    # The tokens of the context and the first of all, each of 0 but for one.
    (others,) = {
        len(each.ids) - each.place - 1
        for each in task().tokenize([Question("was it good?", CONTEXT)], used, None, 1)[0]  # type: ignore[arg-type]
    }
    assert result.score == pytest.approx((np.exp(8) / (np.exp(8) + others)) ** 2, rel=1e-5)


def test_a_span_never_ends_before_it_starts(encoders: dict[str, TextEncoder]) -> None:
    used = encoders["wordpiece"]
    result = answers(used, "was it?", CONTEXT, favouring(used, "late", "my"), top_k=50)
    assert all(answer.start < answer.end for answer in result.top)
    assert all("my" not in answer.text or "late" in answer.text for answer in result.top[:2])


@pytest.mark.parametrize(("tokens", "found"), [(4, True), (3, False)])
def test_an_answer_has_no_more_tokens_than_are_asked_for(
    encoders: dict[str, TextEncoder], tokens: int, found: bool
) -> None:
    used = encoders["wordpiece"]
    result = answers(
        used, "was it?", CONTEXT, favouring(used, "my", "late"), max_answer_tokens=tokens
    )
    assert (result.answer == "my card was late") is found


def test_the_question_is_no_answer(encoders: dict[str, TextEncoder]) -> None:
    used = encoders["wordpiece"]
    result = answers(used, "the order", "my film", favouring(used, "order", "order"), top_k=9)
    assert {answer.text for answer in result.top} <= {"my film", "my", "film"}


def test_answers_are_whole_words_unless_asked_otherwise(encoders: dict[str, TextEncoder]) -> None:
    used = encoders["wordpiece"]
    favoured = favouring(used, "##er", "##er")
    assert answers(used, "who?", CONTEXT, favoured).answer == "bankers"
    assert answers(used, "who?", CONTEXT, favoured, align_to_words=False).answer == "er"


def test_equal_answers_are_one_with_the_sum_of_their_scores(
    encoders: dict[str, TextEncoder],
) -> None:
    used = encoders["wordpiece"]
    context = "my card and the Bank or bank is my card"
    result = answers(used, "where?", context, favouring(used, "bank", "bank"), top_k=3)
    assert (result.answer, result.start) == ("Bank", context.index("Bank"))
    # Each is a half; "Bank or bank" is a span of its own.
    assert result.score == pytest.approx(0.5, abs=0.02)
    assert result.top[1].text == "Bank or bank"
    assert result.top[1].score == pytest.approx(0.25, abs=0.01)


def test_top_k_limits_the_answers(encoders: dict[str, TextEncoder]) -> None:
    used = encoders["wordpiece"]
    favoured = favouring(used, "my", "late")
    for top_k in (1, 2, 5):
        assert len(answers(used, "was it?", CONTEXT, favoured, top_k=top_k).top) == top_k
    few = answers(used, "was it?", "my card", favoured, top_k=50).top
    assert sorted(answer.text for answer in few) == ["card", "my", "my card"]
    scores = [answer.score for answer in answers(used, "x?", CONTEXT, favoured, top_k=9).top]
    assert scores == sorted(scores, reverse=True)


# No answer.


def test_no_answer_wins_where_the_first_token_is_surest(encoders: dict[str, TextEncoder]) -> None:
    used = encoders["wordpiece"]
    first = used.token_of("[CLS]")

    def logits(token: int, place: int) -> tuple[float, float]:
        return (9, 9) if token == first else favouring(used, "my", "late")(token, place)

    result = answers(used, "was it?", CONTEXT, logits, no_answer=True, top_k=2)
    assert (result.answer, result.start, result.end) == ("", 0, 0)
    assert result.score > 0.5
    assert [answer.text for answer in result.top] == ["", "my card was late"]
    assert str(result) == f"no answer {result.score:.1%}"
    # Without the parameter it is none, though the first token takes its share all the same.
    given = answers(used, "was it?", CONTEXT, logits)
    assert given.answer == "my card was late"
    assert given.score == result.top[1].score


def test_no_answer_loses_where_one_window_has_an_answer(encoders: dict[str, TextEncoder]) -> None:
    used = encoders["wordpiece"]
    first, favoured = used.token_of("[CLS]"), favouring(used, "late", "late", 12, 12)

    def logits(token: int, place: int) -> tuple[float, float]:
        return (8, 8) if token == first else favoured(token, place)

    context = "the film was good " * 20 + "late"
    result = answers(used, "how?", context, logits, no_answer=True, top_k=3)
    assert (result.answer, result.start) == ("late", len(context) - 4)
    (none,) = [answer for answer in result.top if not answer.text]
    assert none.score < 0.01  # of the last window, the least


# Long contexts.


def test_an_answer_far_down_a_long_context_is_found_once(encoders: dict[str, TextEncoder]) -> None:
    used = encoders["wordpiece"]
    context = "the film was good . " * 200 + "my card " + "the film was good . " * 200
    result = answers(used, "whose?", context, favouring(used, "my", "card"))
    assert (result.answer, result.start) == ("my card", 4000)


def test_a_word_at_a_windows_edge_is_whole_in_the_next(encoders: dict[str, TextEncoder]) -> None:
    used = encoders["wordpiece"]
    favoured = favouring(used, "bank", "##s")
    for before in range(28, 40):
        context = "my " * before + "bankers" + " my" * 20
        result = answers(used, "whose?", context, favoured)
        assert (result.answer, result.start) == ("bankers", 3 * before)


def windows_of(
    folder: Path, question: str, context: str, window: int = WINDOW, stride: int = STRIDE
) -> list[Any]:
    made = task(window, stride)
    used = encoder(folder, window=window, stride=stride)
    (windows,) = made.tokenize([Question(question, context)], used, made.parameters({}), 1)
    return windows


def test_windows_hold_the_whole_question_and_share_the_stride(tmp_path: Path) -> None:
    windows = windows_of(tmp_path, "the film", "my card was late and good or bad " * 20)
    ids = [window.ids for window in windows]
    assert {tuple(each[:4]) for each in ids} == {tuple(ids[0][:4])}
    assert all(len(each) == WINDOW for each in ids[:-1])
    assert all(one[-1 - STRIDE : -1] == other[4 : 4 + STRIDE] for one, other in pairwise(ids))
    assert not any(window.truncated for window in windows)


def test_a_long_question_does_not_make_countless_windows(tmp_path: Path) -> None:
    """It leaves 11 of 40 tokens, of which 32 would have to be shared."""
    context = "my card was late " * 100
    windows = windows_of(tmp_path, "film " * 26, context, stride=32)
    room = WINDOW - 26 - 3
    assert all(len(window) == WINDOW for window in windows[:-1])
    assert len(windows) == pytest.approx(400 / (room - room * 3 // 4), abs=3)


def test_the_stride_is_at_most_half_of_a_window_that_the_model_cuts(tmp_path: Path) -> None:
    made = task(384, 128)
    file = tmp_path / "tokenizer.json"
    file.write_text(KINDS["wordpiece"]())
    used = TextEncoder(file, Text(64, "truncate", 10_000, 0), made.tokenization())
    given = Question("film?", "my card was late " * 50)
    (windows,) = made.tokenize([given], used, made.parameters({}), 1)
    assert len(windows[0]) == 64
    assert windows[1].start - windows[0].start == 64 - 5 - 32


def test_a_hundred_thousand_characters_are_read(tmp_path: Path) -> None:
    context = "my card was late " * 5_883
    first, *_, last = windows = windows_of(tmp_path, "whose?", context, 128, 32)
    assert last.encoding.offsets[last.end - 1][1] == len(context) - 1 == 100_010
    tokens, room = last.end - first.start, first.end - first.start
    assert len(windows) == -(-(tokens - 32) // (room - 32))


# Any text, any tokenizer: beside the definition, written span by span.


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=60)
@given(
    context=CONTEXTS.filter(str.strip),
    question=st.lists(st.sampled_from(["film", "my", "größe"]), min_size=1, max_size=2),
    seed=st.integers(0, 1000),
    parameters=st.fixed_dictionaries(
        {
            "top_k": st.integers(1, 4),
            "max_answer_tokens": st.integers(1, 20),
            "no_answer": st.booleans(),
            "align_to_words": st.booleans(),
        }
    ),
)
def test_answers_are_those_of_the_definition_in_any_text(
    encoders: dict[str, TextEncoder],
    kind: str,
    context: str,
    question: list[str],
    seed: int,
    parameters: dict[str, Any],
) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(KINDS[kind]())
    assume(1 in tokenizer.encode("film", context).sequence_ids)
    table = np.random.default_rng(seed).standard_normal((WINDOW, 400, 2)) * 2

    def logits(token: int, place: int) -> tuple[float, float]:
        start, end = table[place, token]
        return float(np.float32(start)), float(np.float32(end))

    def of_window(ids: list[int], types: list[int]) -> NDArray[np.float64]:
        return np.array([logits(token, place) for place, token in enumerate(ids)])

    expected = best_spans(
        tokenizer, WINDOW, STRIDE, " ".join(question), context, of_window, **parameters
    )
    result = answers(encoders[kind], " ".join(question), context, logits, **parameters)
    assert (result.answer, result.start, result.end) == (
        result.top[0].text,
        result.top[0].start,
        result.top[0].end,
    )
    assert [each.score for each in result.top] == pytest.approx([each[1] for each in expected])
    for answer, (text, _, start, end) in zip(result.top, expected, strict=True):
        assert (answer.text, answer.start, answer.end) == (text, start, end)
        assert answer.text == context[answer.start : answer.end]


# Inputs.


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ("who?", "input 1 is of type str: question-answering takes Question(question, context)"),
        ({"question": "w1"}, "input 1: Object missing required field `context`"),
        ({"question": "w1", "context": 3}, "input 1: Expected `str`, got `int` - at `$.context`"),
        ({"question": "w1", "context": "w2", "id": 3}, "input 1: unknown key 'id'"),
        (Question("w1", None), "input 1: context is of type NoneType: it is a text"),  # type: ignore[arg-type]
        (Question("", "w1"), "input 1: the question is empty"),
        (Question("w1", " \n"), "input 1: the context is empty"),
        ([Question("w1", "w2"), Question("w1", "")], "input 2: the context is empty"),
        (Question("w1", "w2 " * 4000), "input 1: the context has 12,000 characters"),
        (Question("w1", "\ud800"), "input 1: the context is not Unicode text"),
        (
            Question("w1 " * 60, "w2 " * 9),
            "input 1: the question is too long: it leaves 1 of the 64 tokens that the model reads "
            "at once for another text of 9",
        ),
        (Question("w1 " * 90, "w2"), "input 1: the question is too long: it leaves 0 of the 64"),
    ],
)
def test_inputs_that_cannot_be_answered_are_refused(
    fake_bundle: Bundles, given: Any, fault: str
) -> None:
    with load(fake_bundle(task="question-answering", max_length=64).path) as model:
        with pytest.raises(InputError) as caught:
            model(given)
        assert caught.value.message.startswith(fault)


def test_a_text_of_nothing_that_the_tokenizer_knows_is_refused(
    encoders: dict[str, TextEncoder],
) -> None:
    for pair, name in ((("\x00", "film"), "question"), (("film", "\x00"), "context")):
        with pytest.raises(InputError, match=f"^input 1: the {name} has no token"):
            answers(encoders["wordpiece"], *pair, lambda token, place: (0, 0))


def test_a_question_that_leaves_enough_for_a_short_context_is_answered(
    fake_bundle: Bundles,
) -> None:
    with load(fake_bundle(task="question-answering", max_length=64).path) as model:
        assert model(Question("w1 " * 60, "w2")).answer == "w2"


def test_mappings_and_questions_are_the_same(fake_bundle: Bundles) -> None:
    with load(fake_bundle(task="question-answering").path) as model:
        one = model({"question": "w1 w2", "context": "w3 w4 w5"})
        assert one == model(Question("w1 w2", "w3 w4 w5"))
        assert model([Question("w1 w2", "w3 w4 w5")] * 3) == [one] * 3


@pytest.mark.parametrize(
    ("parameters", "fault"),
    [
        ({"top_k": 0}, "top_k is 0: it is a number from 1"),
        ({"top_k": None}, "top_k is None: it is a number from 1"),
        ({"max_answer_tokens": 1.5}, "max_answer_tokens is 1.5: it is a number from 1"),
        ({"no_answer": "yes"}, "no_answer is 'yes': it is true or false"),
        ({"align_to_words": 1}, "align_to_words is 1: it is true or false"),
        ({"max_answer_len": 5}, "question-answering has no option 'max_answer_len'"),
    ],
)
def test_parameters_that_cannot_be_are_refused(parameters: dict[str, Any], fault: str) -> None:
    with pytest.raises(InputError) as caught:
        QuestionAnswering.parameters(parameters)
    assert caught.value.message == fault


# The recipe.


@pytest.mark.parametrize(
    ("options", "config"),
    [
        ({}, (384, 128)),
        ({"window": 100}, (100, 50)),
        ({"window": 512}, (512, 128)),
        ({"stride": 200}, (384, 200)),
        ({"stride": 0}, (384, 0)),
        ({"window": 64, "stride": 48}, (64, 48)),
    ],
)
def test_windows_are_the_recipes_or_the_usual_ones(
    options: dict[str, int], config: tuple[int, int]
) -> None:
    made = QuestionAnswering.configure(QuestionAnsweringOptions(**options), Facts())
    assert made == QuestionAnsweringConfig(*config)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"window": 4}, "window is 4: it is a number of tokens, from 8"),
        ({"window": 64, "stride": 64}, "stride is 64: .* from 0, below the window's 64"),
        ({"stride": 384}, "stride is 384: .* below the window's 384"),
        ({"stride": -1}, "stride is -1"),
        ({"window": "64"}, "task_options.window is '64'"),
    ],
)
def test_windows_that_cannot_be_are_refused_in_a_recipe(
    options: dict[str, Any], fault: str
) -> None:
    recipe = Recipe(name="x", task="question-answering", task_options=options)
    with pytest.raises(RecipeError, match=fault):
        recipe.options_of_task("question-answering")


# Measuring, and how results look.


@pytest.mark.parametrize("kind", KINDS)
def test_examples_fit_the_smallest_windows(kind: str, tmp_path: Path) -> None:
    made, texts = (
        task(),
        ["größe " * 30, "我的卡在哪里我的卡在哪里", "🙂👩\u200d👧🙂👩\u200d👧🙂" * 9, "w"],
    )
    examples, parameters = made.examples(texts)
    assert [example.context for example in examples] == [*texts[1:], texts[0]]
    assert made.characters(examples[0], parameters) > len(texts[1])
    groups = made.tokenize(examples, encoder(tmp_path, kind), parameters, 1)
    assert all(groups)


def test_an_example_of_one_text_asks_it_about_itself() -> None:
    ((example,), _) = task().examples(["the film"])
    assert example == Question("the", "the film")


def test_labels_to_compare_are_the_best_start_and_end() -> None:
    outputs = {
        "start_logits": np.array([0, 3, 1], np.float32),
        "end_logits": np.array([0, 1, 2], np.float32),
    }
    np.testing.assert_array_equal(task().labels_of(outputs), [[1, 2]])


def _best(*top: Answer) -> Answers:
    return Answers(top[0].text, top[0].score, top[0].start, top[0].end, top)


def test_a_result_prints_its_best_answer() -> None:
    ada = Answer("Ada\n Lovelace", 0.98765, 3, 16)
    assert str(_best(ada, Answer("", 0.1, 0, 0))) == "Ada Lovelace 98.8%  [3:16]"
    assert str(Answer("", 0.25, 0, 0)) == "no answer 25.0%"


def test_a_result_is_plain_json() -> None:
    data = json.loads(to_json(_best(Answer("東京", 0.5, 3, 5))))
    assert list(data) == ["answer", "score", "start", "end", "top"]
    assert data["top"] == [{"text": "東京", "score": 0.5, "start": 3, "end": 5}]


def test_a_score_is_a_number_of_python(encoders: dict[str, TextEncoder]) -> None:
    used = encoders["wordpiece"]
    result = answers(used, "x?", CONTEXT, favouring(used, "my", "my"), no_answer=True, top_k=3)
    for answer in (result, *result.top):
        assert {type(answer.score), type(answer.start), type(answer.end)} == {float, int}


def _rows(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    source = folder / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return source


def test_a_file_has_a_column_for_each_field(fake_bundle: Bundles, tmp_path: Path) -> None:
    rows = [{"question": f"w{n}", "paragraph": f"w{n + 1} w{n + 2}", "n": n} for n in range(9)]
    source, output = _rows(tmp_path, rows), tmp_path / "out.jsonl"
    with load(fake_bundle(task="question-answering").path) as model:
        run_file(model, source, output, columns={"context": "paragraph"}, top_k=2)
        expected = model([Question(row["question"], row["paragraph"]) for row in rows], top_k=2)
        with pytest.raises(InputError, match="there is no 'context'") as caught:
            run_file(model, source, tmp_path / "other.jsonl")
        assert "--column context=NAME" in str(caught.value.hint)
    written = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["n"] for row in written] == list(range(9))
    for row, result in zip(written, expected, strict=True):
        assert row["answer"] == result.answer == row["paragraph"][row["start"] : row["end"]]
        assert len(row["top"]) == 2


def test_a_file_at_fault_names_the_line(fake_bundle: Bundles, tmp_path: Path) -> None:
    rows = [{"question": "w1", "context": "w2"}, {"question": "w1 " * 40, "context": "w2 " * 9}]
    source = _rows(tmp_path, rows)
    path = fake_bundle(task="question-answering").path
    with load(path) as model, pytest.raises(InputError) as caught:
        run_file(model, source, tmp_path / "out.jsonl")
    assert caught.value.message.startswith(f"{source}:2: the question is too long")


def test_the_command_takes_questions_and_a_context(fake_bundle: Bundles, tmp_path: Path) -> None:
    path = fake_bundle(task="question-answering").path
    context = tmp_path / "context.txt"
    context.write_text("w3 w4 w5", encoding="utf-8")
    with load(path) as model:
        first, second = model([Question("w1", "w3 w4 w5"), Question("w2", "w3 w4 w5")], top_k=2)
    alone = invoke("run", path, "w1", "--context", f"@{context}")
    assert alone.stdout == f"{first}\n"
    both = invoke("run", path, "w1", "w2", "--context", "w3 w4 w5", "--top-k", 2).stdout
    width = max(len(str(first)), len(str(second)))
    lines = []
    for text, result in (("w1", first), ("w2", second)):
        lines += [f"{str(result).ljust(width)}  {text}", *(f"    {each}" for each in result.top)]
    assert both.splitlines() == lines
    (row,) = printed("run", path, "w1", "--context", "w3", "-p", "no_answer=true")
    assert row["input"] == {"question": "w1", "context": "w3"}
    assert set(row["result"]) == {"answer", "score", "start", "end", "top"}
    assert "question-answering needs a context" in fails("run", path, "w1")
