"""Text ranking: the order, the scores, and inputs of a query with its documents."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from lepton_edge import Model, QueryDocuments, Ranking, load
from lepton_edge.bundle import Bundle
from lepton_edge.cli.output import to_json
from lepton_edge.errors import BundleError, InferenceError, InputError, SourceError
from lepton_edge.runtime.files import run_file
from lepton_edge.runtime.text import Tokens
from lepton_edge.tasks.base import Facts
from lepton_edge.tasks.text_ranking import (
    RankedDocument,
    TextRanking,
    TextRankingConfig,
    TextRankingOptions,
)
from tests.core.parts import fails, invoke, printed, rewrite

Bundles = Callable[..., Bundle]
ONE = TextRanking(TextRankingConfig(("score",), 0, "sigmoid"))
PLAIN = TextRanking(TextRankingConfig(("score",), 0, "identity"))
TWO = TextRanking(TextRankingConfig(("no", "yes"), 1, "sigmoid"))
LOGITS = arrays.arrays(np.float32, (5, 3), elements=st.floats(-(2.0**100), 2.0**100, width=32))


def _rank(task: TextRanking, *rows: float | list[float], **options: Any) -> Ranking:
    """The result for logits that were not computed: a row a document."""
    logits = np.array(rows, dtype=np.float32).reshape(len(rows), -1)
    asked = task.parameters(options)
    sequences = [Tokens([1], [0], False) for _ in rows]
    values = task.read({"logits": logits}, sequences, asked)
    given = QueryDocuments("query", [f"document {number}" for number in range(len(rows))])
    return task.result(given, sequences, values, asked)


def _order(ranking: Ranking) -> list[int]:
    return [document.index for document in ranking.documents]


@pytest.fixture
def model(fake_bundle: Bundles) -> Model:
    return load(fake_bundle(task=ONE.name).path)


def test_documents_come_best_first_with_their_places() -> None:
    ranking = _rank(ONE, 0, 2, -1)
    assert _order(ranking) == [1, 0, 2]
    assert [document.text for document in ranking.documents] == [
        "document 1",
        "document 0",
        "document 2",
    ]
    expected = 1 / (1 + np.exp([-2.0, 0.0, 1.0]))
    np.testing.assert_allclose([d.score for d in ranking.documents], expected, rtol=1e-6)


def test_without_an_activation_the_score_is_the_models_number() -> None:
    ranking = _rank(PLAIN, 0.5, 12, -3)
    assert [document.score for document in ranking.documents] == [12.0, 0.5, -3.0]


def test_of_several_outputs_the_score_is_the_softmax_of_the_relevant_one() -> None:
    rows = [[1.0, 2.0], [3.0, 3.0], [0.0, 4.0]]
    exps = np.exp(rows)
    ranking = _rank(TWO, *rows)
    assert _order(ranking) == [2, 0, 1]
    expected = (exps / exps.sum(1, keepdims=True))[[2, 0, 1], 1]
    np.testing.assert_allclose([d.score for d in ranking.documents], expected, rtol=1e-6)


@pytest.mark.parametrize(("task", "width"), [(ONE, 1), (TWO, 2)])
def test_scores_that_are_all_1_in_32_bits_keep_the_order(task: TextRanking, width: int) -> None:
    rows = [[0.0] * (width - 1) + [number] for number in (30.0, 50.0, 40.0)]
    ranking = _rank(task, *rows)
    assert _order(ranking) == [1, 2, 0]
    assert {document.score for document in ranking.documents} == {1.0}


def test_of_equal_documents_the_earlier_comes_first() -> None:
    assert _order(_rank(ONE, *[number % 2 for number in range(40)])) == [
        *range(1, 40, 2),
        *range(0, 40, 2),
    ]


@pytest.mark.parametrize(("top_k", "count"), [(1, 1), (2, 2), (50, 3), (None, 3)])
def test_top_k_limits_the_documents(top_k: int | None, count: int) -> None:
    assert _order(_rank(ONE, 0, 2, -1, top_k=top_k)) == [1, 0, 2][:count]
    assert len(_rank(ONE, 0, 2, -1).documents) == 3


@pytest.mark.parametrize("top_k", [0, -2, 2.0, "2", True])
def test_a_top_k_that_is_no_count_is_refused(top_k: Any) -> None:
    with pytest.raises(InputError, match=r"^top_k is .*: it is a number from 1, or None for"):
        _rank(ONE, 0, 1, top_k=top_k)


@settings(deadline=None, max_examples=100)
@given(LOGITS)
def test_scores_stay_probabilities_for_any_logits(logits: NDArray[np.float32]) -> None:
    task = TextRanking(TextRankingConfig(("a", "b", "c"), 1, "sigmoid"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no overflow on the way either
        scores = [document.score for document in _rank(task, *logits.tolist()).documents]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)


def test_scores_for_other_outputs_than_the_manifests_are_refused() -> None:
    with pytest.raises(InferenceError, match=r"gives 2 scores; .* names 1 labels"):
        _rank(ONE, [0.0, 1.0])


def test_the_query_goes_with_each_document(model: Model) -> None:
    given = QueryDocuments("w1 w2", ("w3", "w4 w5"))
    ((first, second),) = model.task.tokenize([given], model.encoder, model.task.parameters({}), 1)
    words = [model.encoder.decode(each.ids, skip_special_tokens=False) for each in (first, second)]
    assert words == ["[CLS] w1 w2 [SEP] w3 [SEP]", "[CLS] w1 w2 [SEP] w4 w5 [SEP]"]
    assert first.type_ids == [0, 0, 0, 0, 1, 1]


def test_of_a_long_pair_the_longer_text_is_cut(fake_bundle: Bundles) -> None:
    model = load(fake_bundle(task=ONE.name, max_length=9).path)
    long = "w1 w2 w3 w4 w5 w6 w7"
    cases = {
        ("w9", long): "[CLS] w9 [SEP] w1 w2 w3 w4 w5 [SEP]",
        (long, "w9"): "[CLS] w1 w2 w3 w4 w5 [SEP] w9 [SEP]",
        (long, long): "[CLS] w1 w2 w3 [SEP] w1 w2 w3 [SEP]",
    }
    for (query, document), expected in cases.items():
        pair, asked = QueryDocuments(query, (document,)), model.task.parameters({})
        ((tokens,),) = model.task.tokenize([pair], model.encoder, asked, 1)
        assert model.encoder.decode(tokens.ids, skip_special_tokens=False) == expected
    ranking = model({"query": "w9", "documents": ["w1", long]})
    assert {d.index: d.truncated for d in ranking.documents} == {0: False, 1: True}
    assert str(ranking).count("(text truncated)") == 1


def test_a_long_pair_is_refused_where_the_bundle_says_so(fake_bundle: Bundles) -> None:
    model = load(fake_bundle(task=ONE.name, max_length=9, on_long_text="refuse").path)
    asked = {"query": "w1 w2", "documents": ["w3", "w4 w5 w6 w7"]}
    assert len(model({**asked, "documents": ["w3", "w4 w5"]}).documents) == 2
    with pytest.raises(InputError) as caught:
        model([{"query": "w1", "documents": ["w2"]}, {**asked, "documents": ["w3", "w4 " * 5]}])
    assert caught.value.message == (
        "input 2: the query with document 2 has about 10 tokens; this bundle takes up to 9"
    )


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("w1", "input 1 is of type str: text-ranking takes QueryDocuments(query, documents), a m"),
        ({"query": "w1"}, "input 1: Object missing required field `documents`"),
        ({"documents": ["w1"]}, "input 1: Object missing required field `query`"),
        ({"query": "w1", "documents": ["w2"], "top": 1}, "input 1: unknown key 'top'"),
        ({"query": 7, "documents": ["w2"]}, "input 1: Expected `str`, got `int` - at `$.query`"),
        ({"query": "w1", "documents": "w2"}, "input 1: Expected `array`, got `str`"),
        ({"query": "w1", "documents": None}, "input 1: Expected `array`, got `null`"),
        ({"query": "w1", "documents": ["w2", 3]}, "input 1: Expected `str`, got `int` - at `$.do"),
        ({"query": "w1", "documents": []}, "input 1: documents is empty"),
        (QueryDocuments("w1", "w2"), "input 1: documents is of type str: it is a list of texts"),
        (QueryDocuments("w1", None), "input 1: documents is of type NoneType"),  # type: ignore[arg-type]
        (QueryDocuments("w1", ["w2", 3]), "input 1: document 2 is of type int"),  # type: ignore[list-item]
        (QueryDocuments(None, ["w2"]), "input 1: the query is of type NoneType"),  # type: ignore[arg-type]
        ({"query": " ", "documents": ["w2"]}, "input 1: the query is empty"),
        ({"query": "w1", "documents": ["w2", "\n"]}, "input 1: document 2 is empty"),
        ({"query": "w1", "documents": ["a\udc00"]}, "input 1: document 1 is not Unicode text"),
        ({"query": "\ud83d", "documents": ["w2"]}, "input 1: the query is not Unicode text"),
        ({"query": "w1", "documents": ["w2", "w" * 10_001]}, "input 1: document 2 has 10,001 char"),
    ],
)  # fmt: skip
def test_what_is_no_query_with_documents_is_refused(model: Model, given: Any, problem: str) -> None:
    good = {"query": "w1", "documents": ["w2"]}
    for inputs, position in ((given, 1), ([good, given], 2)):
        with pytest.raises(InputError) as caught:
            model(inputs)
        assert caught.value.message.startswith(problem.replace("input 1", f"input {position}"))


def test_inputs_together_answer_as_they_do_alone(model: Model) -> None:
    inputs = [
        QueryDocuments(f"w{n}", [f"w{n + d} " * (1 + d * 7 % 23) for d in range(n % 9 + 1)])
        for n in range(20)
    ]
    for asked, together in zip(inputs, model(inputs), strict=True):
        alone = model(asked)
        assert _order(alone) == _order(together)
        for one, other in zip(alone.documents, together.documents, strict=True):
            assert one.score == pytest.approx(other.score, abs=1e-6)
            assert asked.documents[one.index] == one.text


def test_pairs_of_like_length_share_a_batch_across_inputs(model: Model) -> None:
    session: Any = model.session
    model([{"query": "w1", "documents": ["w2", "w3 " * 20]} for _ in range(32)])
    assert sorted(session.calls) == [(32, 8), (32, 24)]


@pytest.mark.parametrize(
    ("facts", "options", "expected"),
    [
        (Facts(), {}, (("relevance",), 0, "sigmoid")),
        (Facts(("LABEL_0",)), {}, (("LABEL_0",), 0, "sigmoid")),
        (Facts(("LABEL_0",), activation="identity"), {}, (("LABEL_0",), 0, "identity")),
        (
            Facts(("LABEL_0",), activation="identity"),
            {"activation": "sigmoid"},
            (("LABEL_0",), 0, "sigmoid"),
        ),
        (Facts(("no", "yes")), {"relevant": "yes"}, (("no", "yes"), 1, "sigmoid")),
        (Facts(), {"labels": ("no", "yes"), "relevant": "no"}, (("no", "yes"), 0, "sigmoid")),
        (Facts(("x",)), {"labels": ("fits",), "relevant": "fits"}, (("fits",), 0, "sigmoid")),
    ],
)
def test_the_score_is_worked_out_from_the_recipe_and_the_source(
    facts: Facts, options: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    config = TextRanking.configure(TextRankingOptions(**options), facts)
    assert (config.labels, config.relevant, config.activation) == expected


@pytest.mark.parametrize(
    ("labels", "options", "problem", "hint"),
    [
        (("no", "yes"), {}, "has 2 outputs, no, yes: which of them", "{relevant: LABEL}"),
        (("no", "yes"), {"relevant": "maybe"}, "relevant is 'maybe'; the model's labels are no,",
         "name one of these"),
        (("no", "yes"), {"relevant": "no", "activation": "identity"}, "for models of one output; "
         "this one has 2", "leave it out"),
        (("x",), {"labels": ("a", "b")}, "names 2 labels; the model has 1 outputs", ""),
    ],
)  # fmt: skip
def test_a_score_that_cannot_be_is_refused(
    labels: tuple[str, ...], options: dict[str, Any], problem: str, hint: str
) -> None:
    with pytest.raises(SourceError) as caught:
        TextRanking.configure(TextRankingOptions(**options), Facts(labels=labels))
    assert problem in caught.value.message
    assert hint in str(caught.value.hint)


def test_a_manifest_that_does_not_fit_is_refused(fake_bundle: Bundles) -> None:
    bundle = fake_bundle(task=ONE.name)
    for change, problem in (
        ({"relevant": 1}, "relevant is 1: there are 1 labels"),
        ({"activation": "tanh"}, "activation"),
    ):
        changed = rewrite(bundle, task_config={**bundle.manifest.task_config, **change})
        with pytest.raises(BundleError, match="does not fit text-ranking") as caught:
            load(changed.path)
        assert problem in caught.value.message


def test_a_ranking_prints_a_line_a_document() -> None:
    documents = (RankedDocument(1, 0.98765, "größe 🙂\n  two"), RankedDocument(0, -3.2, "x" * 200))
    first, second = str(Ranking(documents)).splitlines()
    assert first == " 0.9877  größe 🙂 two"
    assert second == f"-3.2000  {'x' * 99}…"


def test_a_result_is_plain_json(model: Model) -> None:
    data = json.loads(to_json(model({"query": "w1", "documents": ["w2", "größe"]})))
    assert list(data) == ["documents"]
    assert {document["text"] for document in data["documents"]} == {"w2", "größe"}
    assert list(data["documents"][0]) == ["index", "score", "text", "truncated"]


def test_examples_are_documents_for_the_shortest_text(model: Model) -> None:
    inputs, parameters = model.task.examples(["w1 w2", "w3", "w4 w5 w6"])
    assert inputs[2] == QueryDocuments("w3", ("w4 w5 w6",))
    assert len(inputs) == 3
    assert parameters == model.task.parameters({})
    model.warm_up()


def test_labels_to_compare_are_those_of_several_outputs() -> None:
    row = np.array([3, 1], dtype=np.float32)
    np.testing.assert_array_equal(TWO.labels_of({"logits": row}), [[0]])
    assert ONE.labels_of({"logits": row[:1]}) is None


def test_a_file_has_a_query_and_a_list_of_documents_a_row(model: Model, tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [{"query": "w1", "documents": ["w2", "w3"]}, {"query": "w4", "documents": ["größe"]}]
    source.write_text("\n".join(map(json.dumps, rows)))
    assert run_file(model, source, output) == 2
    written = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["documents"] for row in written] == [["w2", "w3"], ["größe"]]
    expected = model(rows[0]).documents
    assert [each["index"] for each in written[0]["result_documents"]] == [
        document.index for document in expected
    ]
    renamed = [{"q": "w1", "passages": ["w2"]}, {"q": "w1", "passages": ["w2", " "]}]
    source.write_text("\n".join(map(json.dumps, renamed)))
    columns = {"query": "q", "documents": "passages"}
    with pytest.raises(InputError, match=r"in\.jsonl:2: document 2 is empty\n"):
        run_file(model, source, output, columns=columns, force=True)
    source.write_text('{"query": "w1", "documents": []}\n')
    with pytest.raises(InputError, match=r"in\.jsonl:1: 'documents' is empty$"):
        run_file(model, source, output, force=True)
    source.write_text('{"query": "w1", "documents": ["w2", 3]}\n')
    with pytest.raises(InputError, match=r"in\.jsonl:1: Expected `str`, got `int`"):
        run_file(model, source, output, force=True)


def test_the_command_line_ranks_texts_for_a_query(fake_bundle: Bundles) -> None:
    path = fake_bundle(task=ONE.name).path
    with load(path) as model:
        expected = model({"query": "w1", "documents": ["w2", "w3 w4", "größe"]})
    result = invoke("run", path, "w2", "w3 w4", "größe", "--query", "w1")
    assert result.stdout == f"{expected}\n"
    (row,) = printed("run", path, "w2", "w3 w4", "größe", "--query", "w1", "--top-k", 1)
    assert row["input"]["query"] == "w1"
    assert [d["index"] for d in row["result"]["documents"]] == [expected.documents[0].index]
    assert "text-ranking needs a query beside the texts" in fails("run", path, "w1")
    assert "document 2 is empty" in fails("run", path, "w1", " ", "--query", "w2")
    classifier = fake_bundle("other").path
    assert "text-classification takes no query" in fails("run", classifier, "w1", "--query", "q")
