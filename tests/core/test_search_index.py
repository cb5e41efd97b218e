"""The index that users hold: built, asked, added to, removed from, saved, on the fake backend."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lepton_edge
from lepton_edge import Hit, Index, Model, load, similarity
from lepton_edge.bundle import Bundle
from lepton_edge.bundle.manifest import Source
from lepton_edge.errors import InferenceError, InputError, SearchIndexError
from lepton_edge.search import changes
from lepton_edge.testing import FakeSession, write_fake_bundle, write_fake_distribution
from tests.core.parts import rewrite
from tests.core.search_parts import clustered, ids, index_of_vectors, texts

Bundles = Callable[..., Bundle]
TEXTS = [f"w{n} w{n + 1} w{2 * n}" for n in range(40)]


@pytest.fixture
def model(fake_bundle: Bundles) -> Iterator[Model]:
    with load(fake_bundle(task="feature-extraction").path) as opened:
        yield opened


@pytest.fixture
def index(model: Model) -> Index:
    return Index.build(model, TEXTS)


# Building and asking.


def test_texts_are_found_by_their_similarity(model: Model, index: Index) -> None:
    queries = ["w3 w4 w5", "w60", "w7"]
    expected = similarity(model(queries), model(TEXTS))
    found = index.query(model, queries, top_k=7)
    for hits, scores in zip(found, expected, strict=True):
        assert ids(hits) == (-scores).argsort(kind="stable")[:7].tolist()
        assert [hit.score for hit in hits] == pytest.approx(sorted(scores)[::-1][:7], abs=1e-6)
        assert [hit.text for hit in hits] == [TEXTS[int(hit.id)] for hit in hits]


def test_one_text_gives_one_list(model: Model, index: Index) -> None:
    hits = index.query(model, TEXTS[5])
    assert len(hits) == 10
    assert hits[0] == Hit(5, pytest.approx(1.0), TEXTS[5], {})
    assert index.query(model, [TEXTS[5]]) == [hits]
    assert index.query(model, []) == []
    assert str(hits[0]) == f"1.0000  {TEXTS[5]}"


def test_vectors_made_elsewhere_find_the_same(model: Model, index: Index) -> None:
    queries = ["w3", "w4"]
    vectors = np.asarray(model(queries))
    assert index.query_vectors(vectors, 3) == index.query(model, queries, 3)


def test_equal_texts_come_in_the_order_in_which_they_were_added(model: Model) -> None:
    index = Index.build(model, ["w1", "w2", "w1", "w1"])
    index.add(model, ["w1"])
    assert ids(index.query(model, "w1", 4)) == [0, 2, 3, 4]


def test_an_index_may_start_empty(model: Model) -> None:
    index = Index.build(model, [])
    assert (len(index), index.query(model, "w1"), index.query(model, ["w1"])) == (0, [], [[]])
    assert index.add(model, ["w1"]) == [0]
    assert ids(index.query(model, "w1")) == [0]


def test_texts_may_come_one_by_one(model: Model) -> None:
    seen: list[int] = []
    index = Index.build(
        model,
        (text for text in TEXTS * 30),
        (f"id {n}" for n in range(1200)),
        ({"n": n} for n in range(1200)),
        progress=seen.append,
    )
    assert len(index) == sum(seen) == 1200
    assert len(seen) > 1
    hit = index.query(model, TEXTS[3], 1)[0]
    assert (hit.id, hit.metadata) == ("id 3", {"n": 3})


def test_a_text_that_was_cut_short_says_so(model: Model) -> None:
    index = Index.build(model, ["w1", "w1 " * 100])
    assert [hit.truncated for hit in index.query(model, "w1")] == [False, True]


def test_the_index_says_what_it_is(model: Model, index: Index) -> None:
    assert repr(index) == "<Index in memory: 40 texts, exact, float32 [8] of fake 1.0.0>"
    assert index.path is None
    assert index.size > 40 * 8 * 4
    assert index.header.origin.dimension == 8
    assert 39 in index
    assert 40 not in index
    assert "39" not in index
    assert None not in index


# Ids and metadata.


def test_ids_are_texts_or_numbers_and_stay_what_they_are(model: Model) -> None:
    given = ["1", 1, -5, "größe 🙂", np.int64(7), 2**63 - 1]
    index = Index.build(model, ["w1"] * 6, given)  # type: ignore[arg-type]
    assert [hit.id for hit in index.query(model, "w1")] == ["1", 1, -5, "größe 🙂", 7, 2**63 - 1]
    index.remove(["1"])
    assert 1 in index
    assert "1" not in index


@pytest.mark.parametrize("bad", [None, True, 1.0, "", b"a", ("a",), 2**63, "\ud800"])
def test_what_is_no_id_is_refused(model: Model, bad: Any) -> None:
    with pytest.raises(InputError, match="text 2"):
        Index.build(model, ["w1", "w2"], ["a", bad])
    with pytest.raises(InputError):
        Index.build(model, ["w1"]).remove([bad])


def test_numbers_go_on_after_those_that_were_given(model: Model) -> None:
    index = Index.build(model, ["w1", "w2"])
    assert index.add(model, ["w3"], [10]) == [10]
    assert index.add(model, ["w4", "w5"]) == [11, 12]
    index.remove([12])
    assert index.add(model, ["w6"]) == [13], "a number is not given twice"


def test_after_the_largest_number_ids_are_to_be_given(model: Model, tmp_path: Path) -> None:
    Index.build(model, ["w1"], [2**63 - 1], path=tmp_path / "i")
    for index in (Index.open(tmp_path / "i"), Index.build(model, ["w1"], [2**63 - 1])):
        with pytest.raises(InputError, match="text 1: no number is left") as caught:
            index.add(model, ["w2"])
        assert "give the texts ids" in str(caught.value.hint)
        assert index.add(model, ["w3"], ["a"]) == ["a"]
        assert texts(index) == ["w1", "w3"]


def test_an_id_is_given_once(model: Model, index: Index) -> None:
    with pytest.raises(InputError, match="text 3: the id 'a' is given twice"):
        index.add(model, ["w1", "w2", "w3"], ["a", "b", "a"])
    with pytest.raises(InputError, match="text 2: the id 5 is in the index already") as caught:
        index.add(model, ["w1", "w2"], ["a", 5])
    assert "replace=True" in str(caught.value.hint)
    assert len(index) == 40
    assert "a" not in index


JSON: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",))),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(exclude_categories=("Cs",))), inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def one_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """A model for a whole module, as hypothesis needs."""
    folder = tmp_path_factory.mktemp("one")
    write_fake_distribution(folder)
    bundle = write_fake_bundle(folder / "bundle", task="feature-extraction")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        lepton_edge.registry._load.cache_clear()
        with load(bundle.path) as opened:
            yield opened
        lepton_edge.registry._load.cache_clear()


@settings(deadline=None, max_examples=30)
@given(
    text=st.text(st.characters(exclude_categories=("Cs",)), min_size=1).filter(str.strip),
    metadata=st.dictionaries(st.text(st.characters(exclude_categories=("Cs",))), JSON, max_size=3),
)
def test_texts_and_metadata_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory,
    one_model: Model,
    text: str,
    metadata: dict[str, Any],
) -> None:
    path = tmp_path_factory.mktemp("index") / "i"
    Index.build(one_model, ["w1", text, "w2"], metadata=[None, metadata, {}], path=path)
    found = {hit.id: hit for hit in Index.open(path).query(one_model, text)}
    assert (found[1].text, found[1].metadata) == (text, metadata)
    assert (found[0].metadata, found[2].metadata) == ({}, {})


@pytest.mark.parametrize(
    "bad", [{"a": float("nan")}, {"a": {1, 2}}, {"a": "\ud800"}, {("a",): 1}, [1], "text"]
)
def test_metadata_that_is_not_json_is_refused(model: Model, index: Index, bad: Any) -> None:
    with pytest.raises(InputError, match="text 2: its metadata"):
        index.add(model, ["w1", "w2"], metadata=[{}, bad])
    assert len(index) == 40


# What cannot be added.


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("w1 w2",), "texts is of type str: it is a list"),
        ((b"w1",), "texts is of type bytes"),
        ((5,), "texts is of type int"),
        (({"w1": "a"},), "texts is of type dict"),
        ((["w1"], "a"), "ids is of type str"),
        ((["w1", "w2"], ["a"]), "ids ends before 2"),
        ((["w1"], ["a", "b"]), "texts ends before 2"),
        ((["w1", "w2"], None, [{}]), "metadata ends before 2"),
        ((["w1", ""],), "text 2 is empty"),
        ((["w1", None],), "text 2 is of type NoneType"),
        ((["w1", "w" * 20_000],), "text 2 has 20,000 characters"),
        ((["w1"] * 600 + ["\ud800"],), "text 601 is not Unicode text"),
    ],
)
def test_what_cannot_be_added_is_named_and_nothing_is_added(
    model: Model, index: Index, arguments: Any, problem: str
) -> None:
    with pytest.raises(InputError) as caught:
        index.add(model, *arguments)
    assert problem in caught.value.message
    assert len(index) == 40
    with pytest.raises(InputError):
        Index.build(model, *arguments)


def test_a_model_that_fails_leaves_the_index_as_it_was(model: Model, index: Index) -> None:
    assert isinstance(model.session, FakeSession)
    model.session.fail_with = InferenceError("the device is gone")
    with pytest.raises(InferenceError, match="of text 1 to text 2: the device is gone"):
        index.add(model, ["w1", "w2"])
    model.session.fail_with = None
    assert len(index) == 40
    assert index.add(model, ["w1"]) == [40]


@pytest.mark.parametrize("options", [{"dtype": "int8"}, {"kind": "fast"}])
def test_an_unknown_kind_of_index_is_refused(model: Model, options: Any) -> None:
    with pytest.raises(InputError, match=r"an index is not '(int8|fast)'; choose .* or "):
        Index.build(model, TEXTS, **options)


# Which model.


def test_a_model_of_another_task_is_refused(fake_bundle: Bundles, index: Index) -> None:
    with load(fake_bundle("classifier").path) as classifier:
        for use in (
            lambda: Index.build(classifier, TEXTS),
            lambda: index.add(classifier, ["w1"]),
            lambda: index.query(classifier, "w1"),
        ):
            with pytest.raises(InputError, match="needs a bundle of feature-extraction"):
                use()


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        ({"source": Source("torch", "other", "Fake", "1" * 64)}, "SHA-256 111111111111…, not 0000"),
        (
            {"task_config": {"pooling": "cls", "normalize": True}},
            "task_config is {'pooling': 'cls'",
        ),
    ],
)
def test_vectors_of_another_model_are_refused(
    fake_bundle: Bundles, index: Index, other: dict[str, Any], difference: str
) -> None:
    bundle = rewrite(fake_bundle("other", task="feature-extraction", **other), name="other")
    with load(bundle.path) as model:
        for use in (lambda: index.add(model, ["w1"]), lambda: index.query(model, "w1")):
            with pytest.raises(SearchIndexError) as caught:
                use()
            assert "made with fake 1.0.0, and other 1.0.0 gives other vec" in caught.value.message
            assert difference in caught.value.message
            assert "build the index again with other 1.0.0" in str(caught.value.hint)
    assert len(index) == 40


def test_vectors_of_another_dimension_are_refused(model: Model, tmp_path: Path) -> None:
    wider = index_of_vectors(tmp_path / "wider", clustered(5, 16, 2))
    fake = msgspec.structs.replace(wider.header.origin, task_config=model.manifest.task_config)
    header = json.loads((tmp_path / "wider" / "index.json").read_text())
    header["origin"] = msgspec.to_builtins(fake)
    (tmp_path / "wider" / "index.json").write_text(json.dumps(header))
    index = Index.open(tmp_path / "wider")
    for use in (lambda: index.add(model, ["w1"]), lambda: index.query(model, "w1")):
        with pytest.raises(SearchIndexError, match="vectors have 8 dimensions, not 16"):
            use()


def test_another_build_of_the_same_model_is_welcome(fake_bundle: Bundles, index: Index) -> None:
    again = rewrite(fake_bundle("again", task="feature-extraction"), name="again", version="2.0.0")
    with load(again.path) as model:
        assert index.add(model, ["w1"]) == [40]
        assert index.query(model, TEXTS[3], 1)[0].id == 3


# Changing.


def test_what_is_removed_is_not_found(model: Model, index: Index) -> None:
    index.remove([3, 5])
    assert (len(index), 3 in index, 4 in index) == (38, False, True)
    assert {3, 5}.isdisjoint(ids(index.query(model, TEXTS[3], 100)))
    index.remove([])
    index.remove(list(range(6, 40)))
    assert texts(index) == sorted(TEXTS[n] for n in (0, 1, 2, 4))
    index.remove([0, 1, 2, 4])
    assert (len(index), index.query(model, "w1")) == (0, [])
    assert index.add(model, ["w9"]) == [40]


def test_removing_what_is_not_there_removes_nothing(index: Index) -> None:
    index.remove([7])
    for wrong in ([0, 40], [1, 7], [2, "a"]):
        with pytest.raises(InputError, match=r"there is no .* in the index; nothing was removed"):
            index.remove(wrong)
    with pytest.raises(InputError, match="ids is the text 'abc'"):
        index.remove("abc")
    assert len(index) == 39


def test_a_replacement_takes_the_place_of_what_had_its_id(model: Model, index: Index) -> None:
    assert index.add(model, ["w90 w91", "w92"], [3, "new"], replace=True) == [3, "new"]
    assert len(index) == 41
    assert index.query(model, "w90 w91", 1)[0].id == 3
    assert TEXTS[3] not in texts(index)
    index.add(model, ["w50"] * 41, [*range(40), "new"], replace=True)
    assert (len(index), set(texts(index))) == (41, {"w50"})


def test_an_answer_does_not_depend_on_how_the_texts_got_there(model: Model, index: Index) -> None:
    slow = Index.build(model, TEXTS[:1])
    for text in TEXTS[1:]:
        slow.add(model, [text])
    queries = ["w3", "w4 w5", "w70"]
    assert slow.query(model, queries, 40) == index.query(model, queries, 40)
    for each in (slow, index):
        each.remove([0, 7, 39])
    assert slow.query(model, queries, 40) == index.query(model, queries, 40)
    slow.compact()
    assert len(slow.header.segments) == 1
    assert slow.query(model, queries, 40) == index.query(model, queries, 40)


def test_an_index_that_grows_by_one_has_few_segments(model: Model, tmp_path: Path) -> None:
    index = Index.build(model, TEXTS[:1], path=tmp_path / "i")
    for n in range(100):
        index.add(model, [f"w{n}"])
        assert len(index.header.segments) <= 8
    assert len(list((tmp_path / "i").glob("segment-*"))) == len(index.header.segments)
    assert len(index) == 101


def test_a_large_segment_is_not_written_again(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "_SMALL", 20)
    index = Index.build(model, TEXTS, path=tmp_path / "i")
    (first,) = (tmp_path / "i").glob("segment-*")
    before = {file: file.stat().st_mtime_ns for file in first.iterdir()}
    for _ in range(3):
        index.add(model, TEXTS[:30])
    index.remove([0])
    kept = {file: file.stat().st_mtime_ns for file in first.iterdir() if "removed" not in file.name}
    assert kept == before
    assert [segment.rows for segment in index.header.segments] == [40, 30, 30, 30]


def test_what_is_large_does_not_wait_for_small_ones_to_join(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its vectors, and its graph where it has one, would be written twice."""
    monkeypatch.setattr(changes, "_SMALL", 20)
    for path in (None, tmp_path / "i"):
        index = Index.build(model, TEXTS[:10], path=path)
        index.add(model, TEXTS[10:])
        assert [segment.rows for segment in index.header.segments] == [10, 30]
        assert index.header.next_segment == 3, "as many as were added were written"
        index.add(model, ["w1"] * 5)
        index.add(model, ["w2"] * 6)
        assert [segment.rows for segment in index.header.segments] == [10, 30, 11]


def test_compacting_gives_the_space_back(model: Model, tmp_path: Path) -> None:
    index = Index.build(model, TEXTS, path=tmp_path / "i")
    whole = index.size
    index.remove(list(range(30)))
    assert index.size > whole
    index.compact()
    assert index.size < whole / 2
    documents = next((tmp_path / "i").glob("segment-*/documents.jsonl")).read_text()
    assert [json.loads(line)["id"] for line in documents.splitlines()] == list(range(30, 40))
    generation = index.header.generation
    index.compact()
    assert index.header.generation == generation, "there was nothing to do"


def test_texts_that_come_from_a_change_of_the_index_are_refused(model: Model, index: Index) -> None:
    def feed() -> Iterator[str]:
        yield "w1"
        index.remove([0])

    with pytest.raises(InputError, match="come from a change of the same index"):
        index.add(model, feed())
    assert len(index) == 40
    assert index.add(model, ["w1"]) == [40]


def test_texts_may_come_from_the_index(model: Model, index: Index) -> None:
    found = (hit.text for hit in index.query(model, "w3", 2))
    assert index.add(model, found) == [40, 41]
