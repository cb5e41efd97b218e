"""Token classification: words, entities, their places, windows, and how results look."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lepton_edge import Entities, Entity, load
from lepton_edge.bundle import Bundle
from lepton_edge.bundle.manifest import Text
from lepton_edge.cli.output import to_json
from lepton_edge.errors import BundleError, InferenceError, InputError, RecipeError, SourceError
from lepton_edge.recipe import Recipe
from lepton_edge.runtime.files import run_file
from lepton_edge.runtime.text import TextEncoder
from lepton_edge.tasks.base import Facts
from lepton_edge.tasks.offsets import whole_characters
from lepton_edge.tasks.token_classification import (
    TokenClassification,
    TokenClassificationConfig,
    TokenClassificationOptions,
)
from tests.core.parts import invoke, printed
from tests.kinds import KINDS

Bundles = Callable[..., Bundle]
LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC", "E-ORG")
STRATEGIES = ("none", "simple", "first", "average", "max")
PIECES = st.sampled_from(
    [
        "film", "happier", "Filmgood.", "größe", "cafe\u0301", "Na\u0308chste", "e\u0323\u0302",
        "👩\u200d👧", "👍🏽", "🇩🇪🇫🇷", "❤\ufe0f", "我的卡", "متى يصل", "מָתַי", "한국",
        "\u1112\u1161\u11ab",
        "ﬁn", "İstanbul", " ", "  ", "\t", "\n", ".", ", ", "<unk>", "[UNK]", "\u0301", "'s",
    ]
)  # fmt: skip
TEXTS = st.lists(PIECES | st.text(max_size=5), min_size=1, max_size=12).map("".join)

Array = NDArray[np.float32]


def task(stride: int | None = None, labels: Sequence[str] = LABELS) -> TokenClassification:
    return TokenClassification(TokenClassificationConfig(tuple(labels), stride))


def encoder(
    folder: Path, kind: str, stride: int | None = None, max_length: int = 128
) -> TextEncoder:
    file = folder / f"{kind}.json"
    file.write_text(KINDS[kind](), encoding="utf-8")
    return TextEncoder(file, Text(max_length, "truncate", 2000, 0), task(stride).tokenization())


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TextEncoder]:
    """An encoder of each kind of tokenizer."""
    return {kind: encoder(tmp_path_factory.mktemp("kinds"), kind) for kind in KINDS}


def entities(
    encoder: TextEncoder,
    text: str,
    score: Callable[[int, int], Sequence[float]],
    stride: int | None = None,
    **parameters: Any,
) -> Entities:
    """The result where the logits of the token with an id at a place are ``score(id, place)``."""
    made = task(stride)
    asked = made.parameters(parameters)
    (sequences,) = made.tokenize([text], encoder, asked, 1)
    longest = max(map(len, sequences)) + 1  # a padded batch: what stands there is not read
    logits = np.full((len(sequences), longest, len(LABELS)), 1e9, np.float32)
    for row, tokens in zip(logits, sequences, strict=True):
        for place, token in enumerate(tokens.ids):
            row[place] = score(token, place)
    values = made.read({"logits": logits}, sequences, asked)
    result: Entities = made.result(text, sequences, values, asked)
    return result


def labelled(encoder: TextEncoder, text: str, labels: str, **parameters: Any) -> Entities:
    """The result where the tokens of the text have these labels, each with a logit of 9, or what
    stands behind a colon, where that of all others is 5."""
    names = [name.partition(":") for name in labels.split()]

    def score(_: int, place: int) -> list[float]:
        row = [5.0] * len(LABELS)
        if 0 < place <= len(names):
            name, _, logit = names[place - 1]
            row[LABELS.index(name)] = float(logit or 9)
        else:
            row[LABELS.index("B-PER")] = 9.0  # of special tokens, which nobody reads
        return row

    return entities(encoder, text, score, **parameters)


def brief(result: Entities) -> list[tuple[str, str]]:
    return [(entity.label, entity.text) for entity in result.entities]


def share(logit: float) -> float:
    """The probability of a label with that logit, beside others of 5."""
    return float(np.exp(logit) / (np.exp(logit) + (len(LABELS) - 1) * np.exp(5)))


# Words and strategies. The WordPiece tokens: be ##r ##l ##i ##n, film, bank ##er ##s.

BERLIN = "MISC:6 B-PER:12 B-LOC B-LOC B-LOC O"


def test_none_gives_each_token_with_its_full_label(encoders: dict[str, TextEncoder]) -> None:
    result = labelled(encoders["wordpiece"], "Berlin film", BERLIN, aggregation_strategy="none")
    assert [(each.label, each.text, each.start, each.end) for each in result.entities] == [
        ("MISC", "Be", 0, 2),
        ("B-PER", "r", 2, 3),
        ("B-LOC", "l", 3, 4),
        ("B-LOC", "i", 4, 5),
        ("B-LOC", "n", 5, 6),
    ]
    scores = [entity.score for entity in result.entities]
    assert scores == pytest.approx([share(6), share(12), *[share(9)] * 3], rel=1e-5)


def test_simple_joins_neighbours_of_one_label(encoders: dict[str, TextEncoder]) -> None:
    labels = "I-LOC I-LOC:8 O B-PER I-PER I-LOC B-LOC B-LOC I-LOC"
    text = "Berlin film bankers"
    result = labelled(encoders["wordpiece"], text, labels, aggregation_strategy="simple")
    assert brief(result) == [
        ("LOC", "Ber"),
        ("PER", "in"),
        ("LOC", "film"),
        ("LOC", "bank"),
        ("LOC", "ers"),
    ]
    assert result.entities[0].score == pytest.approx((share(9) + share(8)) / 2, rel=1e-5)


@pytest.mark.parametrize(
    ("strategy", "label", "score"),
    [
        ("first", "MISC", share(6)),
        ("max", "PER", share(12)),
        # Of three tokens, and of two where it is one of the others.
        ("average", "LOC", (3 * share(9) + (1 - share(6)) / 6 + (1 - share(12)) / 6) / 5),
    ],
)
def test_a_word_has_one_label(
    encoders: dict[str, TextEncoder], strategy: str, label: str, score: float
) -> None:
    result = labelled(encoders["wordpiece"], "Berlin film", BERLIN, aggregation_strategy=strategy)
    assert brief(result) == [(label, "Berlin")]
    assert result.entities[0].score == pytest.approx(score, rel=1e-5)


def test_of_equally_sure_tokens_the_first_counts(encoders: dict[str, TextEncoder]) -> None:
    labels = "B-LOC:7 B-PER:200 MISC:200 O O O"
    result = labelled(encoders["wordpiece"], "Berlin film", labels, aggregation_strategy="max")
    assert brief(result) == [("PER", "Berlin")]


def test_words_of_one_label_are_one_entity_until_another_begins(
    encoders: dict[str, TextEncoder],
) -> None:
    labels = "I-PER O O O O I-PER B-PER O O I-PER"
    text = "Berlin film bankers film"
    result = labelled(encoders["wordpiece"], text, labels, aggregation_strategy="first")
    assert brief(result) == [("PER", "Berlin film"), ("PER", "bankers film")]


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        ("MISC MISC", [("MISC", "film good")]),
        ("E-ORG E-ORG", [("ORG", "film good")]),
        ("B-LOC I-PER", [("LOC", "film"), ("PER", "good")]),
        ("I-LOC B-LOC", [("LOC", "film"), ("LOC", "good")]),
        ("O I-LOC", [("LOC", "good")]),
    ],
)
def test_labels_go_together_by_their_prefixes(
    encoders: dict[str, TextEncoder], labels: str, found: list[tuple[str, str]]
) -> None:
    assert brief(labelled(encoders["wordpiece"], "film good", labels)) == found


def test_words_are_whole_by_default_where_the_tokenizer_marks_their_pieces(
    encoders: dict[str, TextEncoder],
) -> None:
    labels = "B-PER O O O O O"
    assert brief(labelled(encoders["wordpiece"], "Berlin film", labels)) == [("PER", "Berlin")]
    for kind in ("byte-level", "unigram"):
        given = entities(
            encoders[kind], "the film, the bank.", lambda token, place: [place == 1, 5, *[0] * 5]
        )
        default = entities(
            encoders[kind],
            "the film, the bank.",
            lambda token, place: [place == 1, 5, *[0] * 5],
            aggregation_strategy="simple",
        )
        assert given == default


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        ("byte-level", "film, good\tbank", ["film,", "good\tbank"]),
        ("unigram", "my film, the good", ["film,", "the", "good"]),
    ],
)
def test_a_word_ends_at_a_blank_only_where_pieces_are_not_marked(
    encoders: dict[str, TextEncoder], kind: str, text: str, words: list[str]
) -> None:
    result = entities(
        encoders[kind], text, lambda token, place: [0, 5, *[0] * 5], aggregation_strategy="max"
    )
    found = [entity.text.strip() for entity in result.entities]
    # Unigram has tokens that are a blank alone.
    assert [each for each in found if each][-len(words) :] == words


def test_an_unknown_token_begins_a_word(encoders: dict[str, TextEncoder]) -> None:
    result = entities(
        encoders["unigram"],
        "film\U0001f9ff",
        lambda token, place: [0, 5, *[0] * 5],
        aggregation_strategy="first",
    )
    assert [entity.text for entity in result.entities] == ["film", "\U0001f9ff"]


def test_labels_to_ignore_are_those_of_the_entities(encoders: dict[str, TextEncoder]) -> None:
    text, labels = "film good bank", "B-PER I-LOC O"
    wordpiece = encoders["wordpiece"]
    assert brief(labelled(wordpiece, text, labels, ignore_labels=["PER"])) == [
        ("LOC", "good"),
        ("O", "bank"),
    ]
    assert brief(labelled(wordpiece, text, labels, ignore_labels=())) == [
        ("PER", "film"),
        ("LOC", "good"),
        ("O", "bank"),
    ]
    tokens = labelled(wordpiece, text, labels, ignore_labels=["B-PER"], aggregation_strategy="none")
    assert brief(tokens) == [("I-LOC", "good"), ("O", "bank")]


# Any text, any tokenizer, any strategy: beside the definition, written a token at a time.


def reference(
    encoder: TextEncoder, encoding: Any, text: str, logits: Array, strategy: str
) -> list[tuple[str, float, int, int]]:
    words: list[list[int]] = []
    for place in np.flatnonzero(np.array(encoding.special_tokens_mask) == 0):
        start, end = encoding.offsets[place]
        inside = start > 0 and " " not in text[start - 1 : start + 1]
        if encoder.subword_prefix:
            inside = len(encoding.tokens[place]) != end - start
        if encoding.tokens[place] in ("[UNK]", "<unk>") or encoding.ids[place] == 3:
            inside = inside and encoding.ids[place] != encoder.unknown_id
        if inside and words and strategy in ("first", "average", "max"):
            words[-1].append(place)
        else:
            words.append([place])
    scores = np.exp(logits.astype(np.float64))
    scores /= scores.sum(axis=1, keepdims=True)
    found: list[tuple[str, list[float], int, int]] = []
    previous = None
    for word in words:
        row = scores[word[0]]
        if strategy == "average":
            row = scores[word].mean(axis=0)
        elif strategy == "max":
            row = scores[max(word, key=lambda place: float(scores[place].max()))]
        label, score = LABELS[row.argmax()], float(row.max())
        start, end = encoding.offsets[word[0]][0], encoding.offsets[word[-1]][1]
        tag = label[2:] if label[:2] in ("B-", "I-") else label
        if strategy != "none" and tag == previous and not label.startswith("B-"):
            name, parts, begin, _ = found.pop()
            found.append((name, [*parts, score], begin, end))
        else:
            name = label if strategy == "none" else label.split("-", 1)[-1]
            found.append((name, [score], start, end))
        previous = tag
    kept = [each for each in found if each[0] != "O"]
    return [(name, float(np.mean(parts)), start, end) for name, parts, start, end in kept]


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=80)
@given(text=TEXTS.filter(str.strip), seed=st.integers(0, 1000), data=st.data())
def test_entities_are_those_of_the_definition_in_any_text(
    encoders: dict[str, TextEncoder], kind: str, text: str, seed: int, data: st.DataObject
) -> None:
    strategy = data.draw(st.sampled_from(STRATEGIES))
    table = np.random.default_rng(seed).standard_normal((509, len(LABELS)), dtype=np.float32) * 3
    table[:, 0] += 1

    def logits(token: int, place: int) -> Array:
        return table[(token + 31 * place) % len(table)]

    used = encoders[kind]
    result = entities(used, text, logits, aggregation_strategy=strategy)
    (tokens,) = used.encode([text])
    rows = np.array([logits(token, place) for place, token in enumerate(tokens.ids)])
    expected = reference(used, tokens.encoding, text, rows, strategy)
    assert [entity.label for entity in result.entities] == [label for label, *_ in expected]
    for entity, (_, score, start, end) in zip(result.entities, expected, strict=True):
        assert entity.score == pytest.approx(score, rel=1e-4)
        assert (entity.start, entity.end) == whole_characters(text, start, end)
        assert entity.text == text[entity.start : entity.end]
        assert entity.start <= start <= end <= entity.end


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name",
    [
        "Zoe\u0308",  # decomposed
        "Zoë",
        "e\u0323\u0302n",
        "👩\u200d👩\u200d👧",
        "👍🏽",
        "🇩🇪",
        "東京都",
        "الْقَاهِرَة",
        "יְרוּשָׁלַיִם",
        "\u1112\u1161\u11ab\u1100\u116e\u11a8",
        "दिल्ली",
    ],
)
@pytest.mark.parametrize("around", ["{}", "film {} film", "\t{}\nfilm", "مدينة {} כאן"])
def test_an_entity_is_cut_out_of_the_text_as_it_was_given(
    encoders: dict[str, TextEncoder], kind: str, name: str, around: str
) -> None:
    text = around.format(name)
    begin, end = text.index(name), text.index(name) + len(name)
    (tokens,) = encoders[kind].encode([text])
    named = [
        start < end and stop > begin and stop > start for start, stop in tokens.encoding.offsets
    ]
    result = entities(
        encoders[kind],
        text,
        lambda token, place: [0 if named[place] else 5, 0, 4 if named[place] else 0, *[0] * 4],
        aggregation_strategy="simple",
    )
    assert result.entities
    for entity in result.entities:
        assert entity.text == text[entity.start : entity.end]
        assert whole_characters(text, entity.start, entity.end) == (entity.start, entity.end)
    assert result.entities[0].start <= begin
    # Unigram makes one unknown token of a name and the white space beside it.
    assert result.entities[-1].end == end or (kind == "unigram" and result.entities[-1].end > end)


# Long texts.


def test_a_text_that_was_cut_is_flagged(tmp_path: Path) -> None:
    short = encoder(tmp_path, "wordpiece", max_length=5)
    result = labelled(short, "film good bank film good", "B-PER O O")
    assert brief(result) == [("PER", "film")]
    assert result.truncated
    assert not labelled(short, "film good bank", "B-PER O O").truncated


def test_windows_find_what_is_behind_the_longest_input(tmp_path: Path) -> None:
    windows = encoder(tmp_path, "wordpiece", stride=2, max_length=6)
    words = ["film", "good", "bank", "bad", "the", "was", "card", "order"]
    text = " ".join(words)
    for name in words:
        wanted = windows.token_of(name)
        assert wanted is not None

        def score(token: int, place: int, wanted: int = wanted) -> list[float]:
            return [1, 5 if token == wanted else 0, *[0] * 5]

        result = entities(windows, text, score, stride=2)
        assert brief(result) == [("PER", name)]
        assert not result.truncated


def test_of_entities_that_overlap_the_longer_stays_or_the_surer(tmp_path: Path) -> None:
    """Four tokens to a window, two of them shared: film good | bank bad | the was."""
    windows = encoder(tmp_path, "wordpiece", stride=2, max_length=6)
    text = "film good bank bad the was"
    made = task(2)
    asked = made.parameters({})
    (sequences,) = made.tokenize([text], windows, asked, 1)
    assert [len(each) for each in sequences] == [6, 6]

    def found(first: str, second: str) -> list[tuple[str, str]]:
        logits = np.full((2, 6, len(LABELS)), 5, np.float32)
        for row, labels in zip(logits, (first, second), strict=True):
            for place, name in enumerate(labels.split(), 1):
                label, _, logit = name.partition(":")
                row[place, LABELS.index(label)] = float(logit or 9)
        return brief(
            made.result(text, sequences, made.read({"logits": logits}, sequences, asked), asked)
        )

    assert found("O O I-PER I-PER", "I-LOC I-LOC I-LOC O") == [("LOC", "bank bad the")]
    assert found("O I-PER I-PER I-PER", "I-LOC I-LOC O O") == [("PER", "good bank bad")]
    assert found("O O I-PER I-PER", "I-LOC:8 I-LOC O O") == [("PER", "bank bad")]
    assert found("O O I-PER:8 I-PER", "I-LOC I-LOC O O") == [("LOC", "bank bad")]
    assert found("O O I-PER I-PER", "I-LOC I-LOC O O") == [("PER", "bank bad")]
    assert found("I-PER O O O", "O O O I-LOC") == [("PER", "film"), ("LOC", "was")]


def test_windows_that_share_more_than_they_hold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError) as caught:
        encoder(tmp_path, "wordpiece", stride=14, max_length=16)
    assert "windows that share 14 tokens have to be longer" in caught.value.message
    assert "have 14 of a text" in caught.value.message
    assert "lower stride" in str(caught.value.hint)
    encoder(tmp_path, "wordpiece", stride=13, max_length=16)


# What is refused.


def test_another_strategy_is_refused(encoders: dict[str, TextEncoder]) -> None:
    with pytest.raises(InputError) as caught:
        labelled(encoders["wordpiece"], "film", "O", aggregation_strategy="last")
    assert caught.value.message == (
        "aggregation_strategy is 'last': it is one of none, simple, first, average, max"
    )


@pytest.mark.parametrize("ignored", ["O", [1], None, 3])
def test_labels_to_ignore_are_a_list(ignored: Any, encoders: dict[str, TextEncoder]) -> None:
    with pytest.raises(InputError, match=r"^ignore_labels is .*: it is a list of labels"):
        labelled(encoders["wordpiece"], "film", "O", ignore_labels=ignored)


def test_scores_for_other_labels_than_the_manifests_are_refused(
    encoders: dict[str, TextEncoder],
) -> None:
    made, used = task(), encoders["wordpiece"]
    asked = made.parameters({})
    (sequences,) = made.tokenize(["film"], used, asked, 1)
    with pytest.raises(InferenceError, match=r"gives 3 scores; .* names 7 labels"):
        made.read({"logits": np.zeros((1, 3, 3), np.float32)}, sequences, asked)


def test_the_recipes_labels_win_over_the_models() -> None:
    facts = Facts(labels=("x", "y"))
    given = TokenClassificationOptions(("O", "B-PER"), 16)
    assert TokenClassification.configure(given, facts) == TokenClassificationConfig(
        ("O", "B-PER"), 16
    )
    assert TokenClassification.configure(
        TokenClassificationOptions(), facts
    ) == TokenClassificationConfig(("x", "y"), None)
    with pytest.raises(SourceError, match="does not name its labels"):
        TokenClassification.configure(TokenClassificationOptions(), Facts())


def test_a_stride_below_zero_is_refused_in_a_recipe() -> None:
    recipe = Recipe(name="x", task="token-classification", task_options={"stride": -1})
    with pytest.raises(RecipeError, match="stride is -1: it is a number of tokens, from 0"):
        recipe.options_of_task("token-classification")


def test_a_text_without_tokens_has_no_entities(encoders: dict[str, TextEncoder]) -> None:
    for strategy in STRATEGIES:
        result = labelled(encoders["wordpiece"], "\x00", "", aggregation_strategy=strategy)
        assert result == Entities(())


# How results look, and the ways to them.

FOUND = Entities(
    (Entity("PER", 0.98765, "Ada\n Lovelace", 0, 13), Entity("LOC", 0.5, "東京", 20, 22))
)


def test_a_result_prints_a_line_an_entity() -> None:
    assert str(FOUND) == "PER 98.8%  Ada Lovelace  [0:13]\nLOC 50.0%  東京  [20:22]"
    assert str(Entities(())) == "no entity"
    assert str(Entities((), truncated=True)) == "no entity  (text truncated)"
    assert str(dataclasses.replace(FOUND, truncated=True)).endswith("[20:22]  (text truncated)")


def test_a_result_is_plain_json() -> None:
    data = json.loads(to_json(FOUND))
    assert list(data) == ["entities", "truncated"]
    assert data["entities"][1] == {
        "label": "LOC",
        "score": 0.5,
        "text": "東京",
        "start": 20,
        "end": 22,
    }


def test_a_score_is_a_number_of_python(encoders: dict[str, TextEncoder]) -> None:
    for strategy in STRATEGIES:
        result = labelled(encoders["wordpiece"], "film", "B-PER", aggregation_strategy=strategy)
        (entity,) = result.entities
        assert {type(entity.score), type(entity.start), type(entity.end)} == {float, int}


def test_labels_to_compare_are_each_tokens_best() -> None:
    logits = np.array([[0, 2, 1], [3, 2, 1]], np.float32)
    np.testing.assert_array_equal(task(labels="abc").labels_of({"logits": logits}), [[1], [0]])


def test_a_file_gets_the_entities_of_each_row(fake_bundle: Bundles, tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    rows = [{"text": f"w{n} w{n + 1}", "id": n} for n in range(1, 30)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with load(fake_bundle(task="token-classification").path) as model:
        run_file(model, source, tmp_path / "out.jsonl", ignore_labels=[])
        results = model([row["text"] for row in rows], ignore_labels=[])
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["id"] for row in written] == [row["id"] for row in rows]
    for row, result in zip(written, results, strict=True):
        assert row["entities"] == json.loads(to_json(result.entities))
        assert row["truncated"] is False
        assert row["entities"]


def test_the_command_prints_entities_below_their_texts(fake_bundle: Bundles) -> None:
    path = fake_bundle(task="token-classification").path
    parameter = ("-p", "ignore_labels=[]", "-p", "aggregation_strategy=none")
    output = invoke("run", path, "w1 w2", "w3", *parameter).stdout
    with load(path) as model:
        first, second = model(["w1 w2", "w3"], ignore_labels=[], aggregation_strategy="none")
    indented = "".join(f"    {entity}\n" for entity in first.entities)
    assert f"w1 w2\n{indented}" in output
    assert f"{second}" in output
    (row,) = printed("run", path, "w1", *parameter)
    assert row["result"]["entities"][0]["text"] == "w1"
